"""Simulated stays written as raw eICU tables: the whole road can be tested without patient data."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relif_core.files import atomic_folder
from relif_data.synthetic_icu import CHANNELS, SimulatedCohort

SIMULATED_MARK = "simulated.json"

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


def write_raw(cohort: SimulatedCohort, folder: Path, *, compressed: bool = True) -> Path:
    """Write a simulated cohort as the eICU tables `patient`, `hospital`, `diagnosis` and measurements.

    A reading of hour ``r`` is charted at a minute of that hour drawn from the cohort's seed. Lengths of stay
    are rounded up to whole minutes. The folder is marked as simulated, appears in one step, and ``prepare``
    reads it as it reads eICU. Returns the folder.
    """
    rng = np.random.default_rng([cohort.seed, 2018])
    owner = np.repeat(np.arange(len(cohort.stays)), cohort.rows_per_stay)
    length = np.ceil(cohort.length_hours * 60).astype(np.int64)
    minute = (cohort.hour - 1) * 60 + rng.integers(0, 60, len(owner))
    # The last, incomplete hour ends with the stay.
    minute = np.minimum(minute, length[owner] - 1)
    stay = cohort.stays[owner]
    tables: dict[str, pl.DataFrame] = {
        "patient": _patients(cohort, length),
        "hospital": pl.DataFrame(
            {
                "hospitalid": np.arange(1, _HOSPITALS + 1),
                "numbedscategory": np.resize(["<100", "100 - 249", "250 - 499", ">= 500"], _HOSPITALS),
                "teachingstatus": np.resize(["f", "t", "f"], _HOSPITALS),
                "region": np.resize(["Midwest", "South", "West", "Northeast"], _HOSPITALS),
            }
        ),
        "diagnosis": _diagnoses(cohort),
    }
    readings = {channel.name: cohort.readings[:, index] for index, channel in enumerate(CHANNELS)}
    for table, columns in (("vitalPeriodic", _PERIODIC), ("vitalAperiodic", _APERIODIC)):
        tables[table] = _wide(table, columns, readings, stay, minute)
    for table in _LONG_COLUMNS:
        tables[table] = _long(table, readings, stay, minute)
    with atomic_folder(Path(folder)) as place:
        for table, frame in tables.items():
            content = frame.write_csv().encode()
            if compressed:
                (place / f"{table}.csv.gz").write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
            else:
                (place / f"{table}.csv").write_bytes(content)
        (place / SIMULATED_MARK).write_text(
            json.dumps({"synthetic": True, "stays": len(cohort.stays), "seed": cohort.seed})
        )
    return Path(folder)


def _patients(cohort: SimulatedCohort, length: np.ndarray) -> pl.DataFrame:
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


def _diagnoses(cohort: SimulatedCohort) -> pl.DataFrame:
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
