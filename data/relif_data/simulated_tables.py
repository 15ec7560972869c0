"""Simulated cohorts as raw tables of MIMIC-III or eICU: the whole road runs without any patient's data."""

import gzip
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from relif_core.files import atomic_folder, write_file
from relif_data.mimic3.channels import phenotypes
from relif_data.synthetic_icu import CHANNELS, SimulatedCohort
from relif_data.tables import TIME_FORMAT

MARKS = {"mimic3": "SYNTHETIC.md", "eicu": "simulated.json"}
"""The file that marks a folder of simulated tables, by layout."""
FIRST_ADMISSION = np.datetime64("2130-01-01T08:00:00")
DAYS_BETWEEN_STAYS = 200
OTHER_CODE = "V3000"
EYE = ("1 No Response", "2 To pain", "3 To speech", "4 Spontaneously")
VERBAL = ("1 No Response", "2 Incomp sounds", "3 Inapprop words", "4 Confused", "5 Oriented")
MOTOR = (
    "1 No Response",
    "2 Abnorm extensn",
    "3 Abnorm flexion",
    "4 Flex-withdraws",
    "5 Localizes Pain",
    "6 Obeys Commands",
)
CAPILLARY = ("Normal <3 secs", "Abnormal >3 secs")
ITEMS: dict[str, tuple[int, str]] = {
    "Capillary refill rate": (3348, ""),
    "Diastolic blood pressure": (8368, "mmHg"),
    "Fraction inspired oxygen": (223835, ""),
    "Glasgow coma scale eye opening": (184, ""),
    "Glasgow coma scale motor response": (454, ""),
    "Glasgow coma scale total": (198, "points"),
    "Glasgow coma scale verbal response": (723, ""),
    "Glucose": (50931, "mg/dL"),
    "Heart Rate": (211, "bpm"),
    "Height": (226730, "cm"),
    "Mean blood pressure": (52, "mmHg"),
    "Oxygen saturation": (646, "%"),
    "Respiratory rate": (618, "BPM"),
    "Systolic blood pressure": (51, "mmHg"),
    "Temperature": (676, "Deg. C"),
    "Weight": (763, "kg"),
    "pH": (50820, "units"),
}
LABORATORY = (50931, 50820)

# Simulated channel: table, then the column of a wide table or the label texts of a long one.
_WIDE: dict[str, tuple[str, str]] = {
    "Heart Rate": ("vitalPeriodic", "heartrate"),
    "Oxygen saturation": ("vitalPeriodic", "sao2"),
    "Systolic blood pressure": ("vitalAperiodic", "noninvasivesystolic"),
    "Diastolic blood pressure": ("vitalAperiodic", "noninvasivediastolic"),
    "Mean blood pressure": ("vitalAperiodic", "noninvasivemean"),
}
_LONG: dict[str, tuple[str, tuple[str, ...]]] = {
    "Respiratory rate": ("nurseCharting", ("Vital Signs", "Respiratory Rate", "Respiratory Rate")),
    "Temperature": ("nurseCharting", ("Vital Signs", "Temperature", "Temperature (F)")),
    "Glasgow coma scale eye opening": ("nurseCharting", ("Scores", "Glasgow coma score", "Eyes")),
    "Glasgow coma scale motor response": ("nurseCharting", ("Scores", "Glasgow coma score", "Motor")),
    "Glasgow coma scale verbal response": ("nurseCharting", ("Scores", "Glasgow coma score", "Verbal")),
    "Glasgow coma scale total": ("nurseCharting", ("Scores", "Glasgow coma score", "GCS Total")),
    "Glucose": ("lab", ("glucose", "mg/dL")),
    "pH": ("lab", ("pH", "")),
    "Fraction inspired oxygen": ("respiratoryCharting", ("respFlowSettings", "FiO2")),
    "Weight": ("intakeOutput", ("Bodyweight (kg)",)),
    "Capillary refill rate": ("nurseAssessment", ("Capillary Refill", "Capillary Refill")),
}
_LONG_COLUMNS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "nurseCharting": (
        "nursingchartoffset",
        ("nursingchartcelltypecat", "nursingchartcelltypevallabel", "nursingchartcelltypevalname"),
        "nursingchartvalue",
    ),
    "lab": ("labresultoffset", ("labname", "labmeasurenamesystem"), "labresult"),
    "respiratoryCharting": ("respchartoffset", ("respcharttypecat", "respchartvaluelabel"), "respchartvalue"),
    "intakeOutput": ("intakeoutputoffset", ("celllabel",), "cellvaluenumeric"),
    "nurseAssessment": ("nurseassessoffset", ("celllabel", "cellattribute"), "cellattributevalue"),
}
_PERIODIC = (
    "temperature",
    "sao2",
    "heartrate",
    "respiration",
    "cvp",
    "systemicsystolic",
    "systemicdiastolic",
    "systemicmean",
)
_APERIODIC = ("noninvasivesystolic", "noninvasivediastolic", "noninvasivemean")
_HOSPITALS = 12


def write_raw(
    cohort: SimulatedCohort,
    folder: Path,
    layout: Literal["mimic3", "eicu"],
    *,
    upper_case: bool = False,
    compress: bool = True,
) -> Path:
    """Write a simulated cohort as the raw tables that the reader of a layout takes, and return the folder.

    The folder appears in one step and is marked as simulated; the same cohort gives the same bytes. With
    MIMIC-III a reading of hour r becomes an event within (r, r + 1] hours after admission; with eICU it is
    charted at a minute of that hour, and lengths of stay are rounded up to whole minutes.

    Args:
        cohort: What was simulated.
        folder: Where the tables go.
        layout: Whose tables.
        upper_case: Name files and columns in capitals.
        compress: Write ``.csv.gz``.
    """
    tables = _mimic3_tables(cohort) if layout == "mimic3" else _eicu_tables(cohort)
    note: Any = {"synthetic": True, "stays": len(cohort.stays), "seed": cohort.seed}
    text = "Simulated tables in the layout of MIMIC-III. No row comes from a patient.\n"
    with atomic_folder(Path(folder)) as partial:
        for name, frame in tables.items():
            frame = frame.rename(str.upper) if upper_case else frame
            content = frame.write_csv(datetime_format=TIME_FORMAT).encode()
            path = partial / f"{name.upper() if upper_case else name}.csv{'.gz' if compress else ''}"
            write_file(path, gzip.compress(content, 1, mtime=0) if compress else content)
        write_file(partial / MARKS[layout], text if layout == "mimic3" else json.dumps(note))
    return Path(folder)


def _mimic3_tables(cohort: SimulatedCohort) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng([cohort.seed, 3])
    people = _stay_frame(cohort)
    events, laboratory = _events(cohort, people, rng), pl.col("itemid").is_in(LABORATORY)
    tables = {
        "icustays": _icustays(people),
        "admissions": _admissions(people),
        "patients": _patients(people),
        "diagnoses_icd": _diagnoses(cohort, people),
        "d_icd_diagnoses": _dictionary(),
        "chartevents": events.filter(~laboratory).with_columns(error=pl.lit(None, dtype=pl.Int64)),
        "labevents": events.filter(laboratory).drop("icustay_id"),
        "outputevents": people.select(
            *("subject_id", "hadm_id", "icustay_id"),
            charttime="outtime",
            itemid=pl.lit(40055),
            value=pl.lit(100),
        ),
    }
    return {name: frame.with_row_index("row_id", offset=1) for name, frame in tables.items()}


def _stay_frame(cohort: SimulatedCohort) -> pl.DataFrame:
    """One row per stay with its ids and times; a subject's later stay follows the earlier one."""
    frame = pl.DataFrame(
        {
            "subject_id": cohort.subjects,
            "icustay_id": cohort.stays,
            "hadm_id": cohort.stays - 100_000,
            "seconds": np.maximum(np.round(cohort.length_hours * 3600), 1).astype(np.int64),
            "died": cohort.died,
            "age": cohort.age,
            "sex": cohort.sex,
            "ward": cohort.ward,
        }
    )
    earlier = pl.int_range(pl.len()).over("subject_id")
    start = pl.lit(FIRST_ADMISSION).cast(pl.Datetime("us")) + pl.duration(days=earlier * DAYS_BETWEEN_STAYS)
    frame = frame.with_columns(
        intime=start + pl.duration(minutes=pl.col("subject_id") % 1440),
        last=(earlier + 1 == pl.len().over("subject_id")),
    )
    frame = frame.with_columns(outtime=pl.col("intime") + pl.duration(seconds=pl.col("seconds")))
    return frame.with_columns(
        deathtime=pl.when("died").then("outtime"),
        admittime=pl.col("intime") - pl.duration(hours=1),
        dischtime=pl.when("died").then("outtime").otherwise(pl.col("outtime") + pl.duration(days=2)),
        unit=pl.col("ward").replace_strict({0: "MICU", 1: "SICU", 2: "CCU"}, return_dtype=pl.String),
    )


def _icustays(people: pl.DataFrame) -> pl.DataFrame:
    return people.select(
        "subject_id",
        "hadm_id",
        "icustay_id",
        dbsource=pl.lit("carevue"),
        first_careunit="unit",
        last_careunit="unit",
        first_wardid=pl.col("ward").cast(pl.Int64) + 10,
        last_wardid=pl.col("ward").cast(pl.Int64) + 10,
        intime="intime",
        outtime="outtime",
        los=(pl.col("seconds") / 86_400).round(4),
    )


def _admissions(people: pl.DataFrame) -> pl.DataFrame:
    return people.select(
        "subject_id",
        "hadm_id",
        "admittime",
        "dischtime",
        "deathtime",
        ethnicity=pl.lit("UNKNOWN/NOT SPECIFIED"),
        hospital_expire_flag=pl.col("died").cast(pl.Int64),
    )


def _patients(people: pl.DataFrame) -> pl.DataFrame:
    first = (
        people.sort("intime")
        .group_by("subject_id", maintain_order=True)
        .agg(pl.col("sex", "age", "intime").first(), pl.col("deathtime").drop_nulls().first())
    )
    return first.select(
        "subject_id",
        gender=pl.when(pl.col("sex") == 0).then(pl.lit("F")).otherwise(pl.lit("M")),
        dob=(pl.col("intime") - pl.duration(days=(pl.col("age") * 365).round().cast(pl.Int64))).dt.truncate(
            "1d"
        ),
        dod=pl.col("deathtime").dt.truncate("1d"),
    ).sort("subject_id")


def _diagnoses(cohort: SimulatedCohort, people: pl.DataFrame) -> pl.DataFrame:
    _, codes = phenotypes()
    first = codes.group_by("phenotype").agg(pl.col("icd9_code").first()).sort("phenotype")["icd9_code"]
    stay, phenotype = np.nonzero(cohort.phenotypes)
    ids = people.select("subject_id", "hadm_id")
    rows = pl.concat(
        [
            ids.with_columns(icd9_code=pl.lit(OTHER_CODE)),
            ids[stay].with_columns(icd9_code=first.gather(phenotype)),
        ]
    ).sort("subject_id", "hadm_id", maintain_order=True)
    return rows.select(
        "subject_id", "hadm_id", pl.int_range(1, pl.len() + 1).over("hadm_id").alias("seq_num"), "icd9_code"
    )


def _dictionary() -> pl.DataFrame:
    _, codes = phenotypes()
    return pl.DataFrame({"icd9_code": [*codes["icd9_code"], OTHER_CODE]})


def _events(cohort: SimulatedCohort, people: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """All readings in the order of their hours, with item, time, text and unit."""
    stay = np.repeat(np.arange(len(cohort.stays)), cohort.rows_per_stay)
    row, channel = np.nonzero(~np.isnan(cohort.readings))
    seconds = (cohort.hour[row] - 1) * 3600 + rng.integers(1, 3601, len(row))
    text = np.empty(len(row), dtype=object)
    for code, info in enumerate(CHANNELS):
        chosen = channel == code
        text[chosen] = _texts(info.name, info.decimals, cohort.readings[row[chosen], code])
    names = [info.name for info in CHANNELS]
    return people.select("subject_id", "hadm_id", "icustay_id", "intime")[stay[row]].select(
        "subject_id",
        "hadm_id",
        "icustay_id",
        itemid=pl.Series([ITEMS[names[code]][0] for code in channel], dtype=pl.Int64),
        charttime=pl.col("intime") + pl.duration(seconds=pl.lit(pl.Series(seconds))),
        value=pl.Series(text.tolist(), dtype=pl.String),
        valueuom=pl.Series([ITEMS[names[code]][1] or None for code in channel], dtype=pl.String),
    )


def _texts(name: str, decimals: int, values: np.ndarray) -> list[str]:
    words = {
        "Capillary refill rate": (CAPILLARY, 0),
        "Glasgow coma scale eye opening": (EYE, 1),
        "Glasgow coma scale motor response": (MOTOR, 1),
        "Glasgow coma scale verbal response": (VERBAL, 1),
    }
    if name in words:
        texts, lowest = words[name]
        return [texts[int(value) - lowest] for value in values]
    if name == "Fraction inspired oxygen":
        return [f"{100 * float(value):.0f}" for value in values]
    return [f"{float(value):.{decimals}f}" for value in values]


def _eicu_tables(cohort: SimulatedCohort) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng([cohort.seed, 2018])
    owner = np.repeat(np.arange(len(cohort.stays)), cohort.rows_per_stay)
    length = np.ceil(cohort.length_hours * 60).astype(np.int64)
    minute = (cohort.hour - 1) * 60 + rng.integers(0, 60, len(owner))
    # The last, incomplete hour ends with the stay.
    minute = np.minimum(minute, length[owner] - 1)
    stay = cohort.stays[owner]
    tables: dict[str, pl.DataFrame] = {
        "patient": _eicu_patients(cohort, length),
        "hospital": pl.DataFrame(
            {
                "hospitalid": np.arange(1, _HOSPITALS + 1),
                "numbedscategory": np.resize(["<100", "100 - 249", "250 - 499", ">= 500"], _HOSPITALS),
                "teachingstatus": np.resize(["f", "t", "f"], _HOSPITALS),
                "region": np.resize(["Midwest", "South", "West", "Northeast"], _HOSPITALS),
            }
        ),
        "diagnosis": _eicu_diagnoses(cohort),
    }
    readings = {channel.name: cohort.readings[:, index] for index, channel in enumerate(CHANNELS)}
    for table, columns in (("vitalPeriodic", _PERIODIC), ("vitalAperiodic", _APERIODIC)):
        tables[table] = _wide(table, columns, readings, stay, minute)
    for table in _LONG_COLUMNS:
        tables[table] = _long(table, readings, stay, minute)
    return tables


def _eicu_patients(cohort: SimulatedCohort, length: np.ndarray) -> pl.DataFrame:
    """One row per stay; the hospital stay begins and ends with the unit stay."""
    status = np.where(cohort.died, "Expired", "Alive")
    height = cohort.readings[cohort.offsets[:-1], [channel.name for channel in CHANNELS].index("Height")]
    return pl.DataFrame(
        {
            "patientunitstayid": cohort.stays,
            "patienthealthsystemstayid": cohort.stays + 1_000_000,
            "gender": np.where(cohort.sex == 0, "Female", "Male"),
            "age": ["> 89" if age > 89 else str(int(age)) for age in cohort.age],
            "ethnicity": np.resize(["Caucasian", "African American", "Hispanic", "Asian"], len(cohort.stays)),
            "hospitalid": cohort.subjects % _HOSPITALS + 1,
            "admissionheight": pl.Series(height).fill_nan(None),
            "hospitaldischargeoffset": length,
            "hospitaldischargestatus": status,
            "unittype": np.array(["MICU", "SICU", "Cardiac ICU"])[cohort.ward],
            "unitvisitnumber": np.ones(len(cohort.stays), dtype=np.int64),
            "unitstaytype": ["admit"] * len(cohort.stays),
            "admissionweight": pl.Series([None] * len(cohort.stays), dtype=pl.Float64),
            "unitdischargeoffset": length,
            "unitdischargestatus": status,
            "uniquepid": [f"{subject % 7 + 1:03d}-{subject}" for subject in cohort.subjects],
        }
    )


def _eicu_diagnoses(cohort: SimulatedCohort) -> pl.DataFrame:
    """The organ system of each stay's leading factor, entered an hour after admission."""
    systems = np.array(["cardiovascular", "pulmonary", "renal", "neurologic", "endocrine"])
    leading = systems[cohort.factors.argmax(axis=1)]
    return pl.DataFrame(
        {
            "patientunitstayid": cohort.stays,
            "diagnosisoffset": np.full(len(cohort.stays), 60),
            "diagnosisstring": [f"{system}|simulated" for system in leading],
        }
    )


def _wide(
    table: str,
    columns: tuple[str, ...],
    readings: dict[str, np.ndarray],
    stay: np.ndarray,
    minute: np.ndarray,
) -> pl.DataFrame:
    source = {column: name for name, (where, column) in _WIDE.items() if where == table}
    content: dict[str, Any] = {"patientunitstayid": stay, "observationoffset": minute}
    for column in columns:
        content[column] = (
            pl.Series(readings[source[column]]).fill_nan(None)
            if column in source
            else pl.Series([None] * len(stay), dtype=pl.Float32)
        )
    frame = pl.DataFrame(content)
    return frame.filter(pl.any_horizontal(pl.col(column).is_not_null() for column in columns))


def _long(table: str, readings: dict[str, np.ndarray], stay: np.ndarray, minute: np.ndarray) -> pl.DataFrame:
    time, labels, value = _LONG_COLUMNS[table]
    parts = []
    for name, (where, texts) in _LONG.items():
        if where != table:
            continue
        there = np.flatnonzero(~np.isnan(readings[name]))
        parts.append(
            pl.DataFrame({"patientunitstayid": stay[there], time: minute[there]}).with_columns(
                *(pl.lit(text).alias(label) for label, text in zip(labels, texts, strict=True)),
                _charted(name, readings[name][there]).alias(value),
            )
        )
    return pl.concat(parts).sort("patientunitstayid", time)


def _charted(name: str, values: np.ndarray) -> pl.Series:
    """The text that a chart would show, in the unit of the table."""
    if name == "Temperature":
        return pl.Series(np.round(values.astype(np.float64) * 9 / 5 + 32, 1)).cast(pl.String)
    if name == "Fraction inspired oxygen":
        return pl.Series(np.round(values.astype(np.float64) * 100)).cast(pl.Int64).cast(pl.String)
    if name == "Capillary refill rate":
        return pl.Series(np.where(values > 0, "> 2 seconds", "normal"))
    return pl.Series(values).cast(pl.String)
