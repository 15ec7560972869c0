"""The tables of MIMIC-III that are read, and the columns that each must have."""

from collections.abc import Mapping
from pathlib import Path

from relif_data import tables
from relif_data.tables import Table

_EVENTS = ("subject_id", "hadm_id", "itemid", "charttime", "value", "valueuom")
TABLES: Mapping[str, tuple[str, ...]] = {
    "ICUSTAYS": (
        *("subject_id", "hadm_id", "icustay_id", "dbsource", "first_careunit", "last_careunit"),
        *("first_wardid", "last_wardid", "intime", "outtime", "los"),
    ),
    "ADMISSIONS": (
        *("subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "ethnicity"),
        "hospital_expire_flag",
    ),
    "PATIENTS": ("subject_id", "gender", "dob", "dod"),
    "DIAGNOSES_ICD": ("subject_id", "hadm_id", "icd9_code"),
    "D_ICD_DIAGNOSES": ("icd9_code",),
    "CHARTEVENTS": (*_EVENTS[:2], "icustay_id", *_EVENTS[2:], "error"),
    "LABEVENTS": _EVENTS,
    "OUTPUTEVENTS": ("subject_id", "hadm_id", "icustay_id"),
}


def find_tables(source: Path, repairs: frozenset[str]) -> dict[str, Table]:
    """Return the tables found in a folder or below it, headers checked, by lower-case name.

    OUTPUTEVENTS, which gives no value, may be missing; so may the dictionary of codes if every code counts.
    """
    spare = {"OUTPUTEVENTS"} | ({"D_ICD_DIAGNOSES"} if "all_diagnosis_codes" in repairs else set())
    return tables.find_tables(source, TABLES, "MIMIC-III", needed=TABLES.keys() - spare, least=6)
