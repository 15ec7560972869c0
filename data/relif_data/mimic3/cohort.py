"""The tables of MIMIC-III, and which ICU stays are studied: the benchmark's cohort rules, with counts.

Rules (Harutyunyan et al. 2019): first and last ward and care unit agree; the admission has exactly one stay
left; age 18 or more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from relif_core.errors import DataError
from relif_core.tensors.clinical import CohortStep
from relif_data import tables as raw
from relif_data.labels import CohortFlow, refuse_unknown_levels
from relif_data.tables import Table, first_of, parse_times, refuse_lost

IDS = ("subject_id", "hadm_id", "icustay_id")
_EVENTS = ("itemid", "charttime", "value", "valueuom")
_STAYS = ("dbsource", "first_careunit", "last_careunit", "first_wardid", "last_wardid", "intime", "outtime")
_ADMISSIONS = ("admittime", "dischtime", "deathtime", "ethnicity", "hospital_expire_flag")
TABLES: Mapping[str, tuple[str, ...]] = {
    "ICUSTAYS": (*IDS, *_STAYS, "los"),
    "ADMISSIONS": (*IDS[:2], *_ADMISSIONS),
    "PATIENTS": ("subject_id", "gender", "dob", "dod"),
    "DIAGNOSES_ICD": (*IDS[:2], "icd9_code"),
    "D_ICD_DIAGNOSES": ("icd9_code",),
    "CHARTEVENTS": (*IDS, *_EVENTS, "error"),
    "LABEVENTS": (*IDS[:2], *_EVENTS),
    "OUTPUTEVENTS": IDS,
}
"""The tables that are read, and the columns that each must have."""
ETHNICITY_CODES = {
    "ASIAN": 1,
    "BLACK": 2,
    "CARIBBEAN": 2,
    "HISPANIC": 3,
    "SOUTH AMERICAN": 3,
    "WHITE": 4,
    "MIDDLE EASTERN": 4,
    "PORTUGUESE": 4,
}
OTHER_ETHNICITIES = (
    *("", "OTHER", "UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER", "MULTI RACE ETHNICITY"),
    *("AMERICAN INDIAN", "NATIVE HAWAIIAN", "CARIBBEAN ISLAND"),
)
OTHER_LENGTH_SHARE = 0.1
#: No hospital admission lasts longer; a LOS above, or without end, is no length.
LONGEST_DAYS = 366
CARE_UNITS = ("MICU", "SICU", "CCU", "CSRU", "TSICU", "other")
OTHER_UNITS = ("NICU", "NWARD", "")
GENDER_CODES = {"F": 1, "FEMALE": 1, "M": 2, "MALE": 2, "": 0}


@dataclass(frozen=True)
class Cohort:
    """The stays in study and how they were chosen.

    ``stays`` has one row per stay, sorted by subject and admission time: ids, times, ``age`` (years),
    ``los_hours``, ``death_hours`` (from admission to the admission's death time, null if none),
    ``mortality_inhospital``, ``mortality_inunit``, ``expire_flag``, codes, ``stay`` (row number) and
    ``subject`` (number of the subject). ``excluded`` names the first rule that removed each other stay.
    """

    stays: pl.DataFrame
    excluded: pl.DataFrame
    steps: tuple[CohortStep, ...]


def find_tables(source: Path, repairs: frozenset[str]) -> dict[str, Table]:
    """Return the tables found in a folder or below it, headers checked, by lower-case name.

    OUTPUTEVENTS, which gives no value, may be missing; so may the dictionary of codes if every code counts.
    """
    spare = {"OUTPUTEVENTS"} | ({"D_ICD_DIAGNOSES"} if "all_diagnosis_codes" in repairs else set())
    return raw.find_tables(source, TABLES, "MIMIC-III", needed=TABLES.keys() - spare, least=6)


def select_cohort(tables: Mapping[str, Table]) -> Cohort:
    """Apply the cohort rules to ICUSTAYS, ADMISSIONS and PATIENTS.

    Stays without an admission or a patient row are removed and counted.

    Raises:
        DataError: Repeated ids, unreadable times, births or deaths that are missing or contradict the rest,
            texts that are no level of a group, or an empty cohort.
    """
    flow, excluded = CohortFlow(_read_stays(tables), "all ICU stays", "subject_id"), []
    admissions, table = _read_admissions(tables), tables["patients"]
    patients = table.read({"subject_id": pl.Int64, **dict.fromkeys(("gender", "dob", "dod"), pl.String)})
    table.refuse_repeats(patients, "subject_id")
    patients = parse_times(patients, ("dob", "dod"), table)

    def keep(rule: str, reason: str, condition: pl.Expr) -> None:
        excluded.append(flow.keep(rule, condition).select(*IDS, reason=pl.lit(reason)))

    keep(
        "first and last ward and care unit are the same",
        "transfer_within_stay",
        (pl.col("first_wardid") == pl.col("last_wardid"))
        & (pl.col("first_careunit") == pl.col("last_careunit")),
    )
    for rows, ids in ((admissions, IDS[:2]), (patients, IDS[:1])):
        marked = rows.with_columns(pl.lit(True).alias(f"in_{ids[-1]}"))
        flow.frame = flow.frame.join(marked, on=ids, how="left", maintain_order="left")
    keep(
        "the stay has an admission and a patient row",
        "no_admission_or_patient",
        pl.col("in_hadm_id") & pl.col("in_subject_id"),
    )
    keep(
        "the admission has exactly one stay left",
        "multiple_stays_in_admission",
        pl.len().over("hadm_id") == 1,
    )
    flow.frame = flow.frame.drop("in_hadm_id", "in_subject_id").with_columns(
        age=_seconds("dob", "intime") / 60.0 / 60.0 / 24.0 / 365.0,
        los_hours=pl.col("los_days") * 24.0,
        death_hours=_seconds("intime", "deathtime") / 3600.0,
    )
    refuse_lost(
        f"{table.path}: DOB of",
        flow.frame.height - int((flow.frame["age"] >= 0).sum()),
        flow.frame.height,
        "stays is missing or after INTIME, so that nobody knows the age; export both tables again",
    )
    keep("age 18 or more", "age_below_18", pl.col("age") >= 18)
    stays = (
        flow.frame.sort("subject_id", "intime", "outtime", "icustay_id")
        .with_columns(
            _died_within("admittime", "dischtime").alias("mortality_inhospital"),
            _died_within("intime", "outtime").alias("mortality_inunit"),
            (pl.col("hospital_expire_flag") == 1).fill_null(False).alias("expire_flag"),
            pl.col("gender")
            .fill_null("")
            .str.to_uppercase()
            .replace_strict(GENDER_CODES, default=3, return_dtype=pl.Int64)
            .alias("gender_code"),
            _ethnicity()
            .replace_strict(ETHNICITY_CODES, default=0, return_dtype=pl.Int64)
            .alias("ethnicity_code"),
            pl.col("last_careunit").str.to_uppercase(),
            (pl.col("subject_id").rank("dense") - 1).cast(pl.UInt32).alias("subject"),
            pl.col("intime").cum_count().over("subject_id").cast(pl.Int64).alias("episode"),
        )
        .with_row_index("stay")
    )
    heads = stays.select(_ethnicity()).to_series()
    known = (*ETHNICITY_CODES, *OTHER_ETHNICITIES)
    units = (*CARE_UNITS[:-1], *OTHER_UNITS)
    for name, column, other, levels in (
        ("patients", "GENDER", stays["gender_code"] == 3, ("F", "M")),
        ("admissions", "ETHNICITY", ~heads.is_in(known), known),
        ("icustays", "LAST_CAREUNIT", ~stays["last_careunit"].fill_null("").is_in(units), units),
    ):
        refuse_unknown_levels(tables[name].path, column, int(other.sum()), levels, stays.height)
    return Cohort(stays, pl.concat(excluded), tuple(flow.steps))


def _read_stays(tables: Mapping[str, Table]) -> pl.DataFrame:
    table = tables["icustays"]
    ids = ("subject_id", "hadm_id", "icustay_id", "first_wardid", "last_wardid")
    texts = ("dbsource", "first_careunit", "last_careunit", "intime", "outtime")
    frame = table.read({**dict.fromkeys(ids, pl.Int64), **dict.fromkeys(texts, pl.String), "los": pl.Float64})
    table.refuse_repeats(frame, "icustay_id")
    frame = parse_times(frame, ("intime", "outtime"), table).rename({"los": "los_days"})
    _refuse_other_lengths(frame, table)
    endless = (~frame["los_days"].is_between(-LONGEST_DAYS, LONGEST_DAYS)).fill_null(False)
    refuse_lost(
        f"{table.path}: LOS of",
        int(endless.sum()),
        frame.height,
        f"stays is over {LONGEST_DAYS} days or no finite number (first: data row {first_of(endless)});"
        " export the column again",
    )
    return frame.with_columns(los_days=pl.when(~endless).then("los_days"))


def _refuse_other_lengths(stays: pl.DataFrame, table: Table) -> None:
    """Check that LOS is in days: at most a tenth of the stays are an hour off OUTTIME - INTIME."""
    days = _seconds("intime", "outtime") / 86_400
    known = stays.with_row_index("place", offset=1).with_columns(days=days).drop_nulls(["days", "los_days"])
    wrong = known.filter((pl.col("los_days") - pl.col("days")).abs() > 1 / 24)
    if wrong.height > OTHER_LENGTH_SHARE * known.height:
        ratio = float(np.median((wrong["los_days"] / wrong["days"]).to_numpy()))
        raise DataError(
            f"{table.path}: LOS of {wrong.height:,} of {known.height:,} stays is not OUTTIME - INTIME in days"
            f" (first: data row {wrong['place'][0]}; the middle ratio is {ratio:.5g}); give LOS in days"
        )


def _read_admissions(tables: Mapping[str, Table]) -> pl.DataFrame:
    table = tables["admissions"]
    times = ("admittime", "dischtime", "deathtime")
    frame = table.read(
        {
            **dict.fromkeys(("subject_id", "hadm_id"), pl.Int64),
            **dict.fromkeys((*times, "ethnicity"), pl.String),
            "hospital_expire_flag": pl.Int64,
        },
    )
    table.refuse_repeats(frame, "hadm_id")
    frame = parse_times(frame, times, table)
    stated, dated = (frame["hospital_expire_flag"] == 1).fill_null(False), frame["deathtime"].is_not_null()
    differ = stated != dated
    refuse_lost(
        f"{table.path}:",
        int(differ.sum()),
        frame.height,
        "rows have a DEATHTIME without a HOSPITAL_EXPIRE_FLAG of 1, or the flag alone (first: data row"
        f" {first_of(differ)}); export both columns again",
    )
    return frame


def _seconds(start: str, end: str) -> pl.Expr:
    return (pl.col(end).dt.epoch("s") - pl.col(start).dt.epoch("s")).cast(pl.Float64)


def _died_within(start: str, end: str) -> pl.Expr:
    """1 where the date of death or the admission's death time lies in the closed interval, else 0."""
    dated = pl.col("dod").is_between(pl.col(start), pl.col(end)).fill_null(False)
    timed = pl.col("deathtime").is_between(pl.col(start), pl.col(end)).fill_null(False)
    return (dated | timed).cast(pl.Int64)


def _ethnicity() -> pl.Expr:
    """The text before " - " and "/", with " OR " read as "/"."""
    head = pl.col("ethnicity").fill_null("").str.to_uppercase().str.replace_all(" OR ", "/", literal=True)
    return head.str.split(" - ").list.first().str.split("/").list.first().str.strip_chars()
