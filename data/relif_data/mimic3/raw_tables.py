"""Simulated cohorts written as MIMIC-III tables: the whole road runs without any patient's data."""

import gzip
from pathlib import Path

import numpy as np
import polars as pl

from relif_core.files import atomic_folder
from relif_data.mimic3.channels import phenotypes
from relif_data.synthetic_icu import CHANNELS, SimulatedCohort
from relif_data.tables import TIME_FORMAT

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


def write_raw(
    cohort: SimulatedCohort, folder: Path, *, upper_case: bool = True, compress: bool = True
) -> Path:
    """Write a simulated cohort as the MIMIC-III tables that the reader needs and return ``folder``.

    Every reading of hour r becomes one event within (r, r + 1] hours after admission. A file SYNTHETIC.md
    marks the folder. The same cohort gives the same bytes.

    Args:
        cohort: The cohort.
        folder: Of the tables.
        upper_case: Names of files and columns as in full v1.4, else in lower case.
        compress: Write CSV.gz.
    """
    rng = np.random.default_rng([cohort.seed, 3])
    people = _stay_frame(cohort)
    events = _events(cohort, people, rng)
    tables = {
        "icustays": _icustays(people),
        "admissions": _admissions(people),
        "patients": _patients(people),
        "diagnoses_icd": _diagnoses(cohort, people),
        "d_icd_diagnoses": _dictionary(),
        "chartevents": _chartevents(events.filter(~pl.col("itemid").is_in(LABORATORY))),
        "labevents": _labevents(events.filter(pl.col("itemid").is_in(LABORATORY))),
        "outputevents": _outputevents(people),
    }
    with atomic_folder(Path(folder)) as partial:
        for name, frame in tables.items():
            frame = frame.with_row_index("row_id", offset=1)
            if upper_case:
                frame = frame.rename(str.upper)
            text = frame.write_csv(datetime_format=TIME_FORMAT).encode()
            file = f"{name.upper() if upper_case else name}.csv"
            if compress:
                (partial / f"{file}.gz").write_bytes(gzip.compress(text, 1, mtime=0))
            else:
                (partial / file).write_bytes(text)
        note = "Simulated tables in the layout of MIMIC-III. No row comes from a patient.\n"
        (partial / "SYNTHETIC.md").write_text(note, encoding="utf-8")
    return Path(folder)


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


def _chartevents(events: pl.DataFrame) -> pl.DataFrame:
    return events.select(
        "subject_id",
        "hadm_id",
        "icustay_id",
        "itemid",
        "charttime",
        "value",
        "valueuom",
        error=pl.lit(None, dtype=pl.Int64),
    )


def _labevents(events: pl.DataFrame) -> pl.DataFrame:
    return events.select("subject_id", "hadm_id", "itemid", "charttime", "value", "valueuom")


def _outputevents(people: pl.DataFrame) -> pl.DataFrame:
    return people.select(
        "subject_id",
        "hadm_id",
        "icustay_id",
        charttime="outtime",
        itemid=pl.lit(40055),
        value=pl.lit(100),
    )
