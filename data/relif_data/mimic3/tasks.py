"""Diagnoses, and the labels of the four benchmark tasks for all stays and hours at once.

In-hospital mortality is predicted at hour 48; decompensation (death within 24 hours) and remaining length of
stay at every whole hour from the fifth on; 25 phenotypes at the end of the stay (Harutyunyan et al. 2019).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from relif_core.errors import DataError
from relif_core.tensors.clinical import Task
from relif_data.labels import (
    DECOMPENSATION_HOURS,
    MORTALITY_HOUR,
    benchmark_tasks,
    hours_of,
    length_of_stay_class,
    offsets_of,
)
from relif_data.mimic3.channels import phenotypes
from relif_data.mimic3.series import EPSILON_HOURS
from relif_data.tables import Table

LAST_UNLABELLED_HOUR = 4
FOREIGN_SHARE, MANY = 0.01, 1000
_ICD9 = r"^(\d{3,5}|V\d{2,4}|E\d{3,4})$"
_ICD10 = r"^[A-DF-UW-Z]\d[0-9A-Z]{1,5}$"


def tensor_tasks() -> tuple[Task, ...]:
    """Return the four tasks as the tensor schema names them."""
    return benchmark_tasks("In-hospital mortality", phenotypes()[0])


@dataclass(frozen=True)
class Labels:
    """Labels and masks by task."""

    labels: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


def label_stays(
    stays: pl.DataFrame, phenotype_labels: np.ndarray, bins: np.ndarray, repairs: frozenset[str]
) -> Labels:
    """Label stays by ``los_hours`` L, ``death_hours`` V, ``mortality``, ``first_hours`` (first charted hour).

    Hour t of a stay is labelled where t > 4, t > first charted hour, and t <= L (for decompensation also t <=
    V); it is decompensation where the patient dies in hospital and V - t < 24, and L - t is what remains of
    the stay. Mortality needs L >= 48 and an event before hour 48.
    """
    length = stays["los_hours"].to_numpy()
    death = stays["death_hours"].fill_null(np.inf).to_numpy()
    died = stays["mortality"].to_numpy().astype(bool)
    first = stays["first_hours"].to_numpy()
    hour = hours_of(offsets_of(bins))
    row_length = np.repeat(length, bins)
    row_death = np.repeat(death, bins)
    staying = (
        (hour > LAST_UNLABELLED_HOUR) & (hour > np.repeat(first, bins)) & (hour < row_length + EPSILON_HOURS)
    )
    alive = staying & (hour < row_death + EPSILON_HOURS)
    remaining = np.round(row_length - hour, 6)
    dying = np.repeat(died, bins) & (row_death - hour < DECOMPENSATION_HOURS)
    reached = (length >= MORTALITY_HOUR - EPSILON_HOURS) & (first < MORTALITY_HOUR + EPSILON_HOURS)
    return Labels(
        labels={
            "mortality": died.astype(np.int16),
            "decompensation": dying.astype(np.int16),
            "los": length_of_stay_class(remaining / 24.0),
            "phenotypes": phenotype_labels,
        },
        masks={
            "mortality": reached.astype(np.uint8),
            "decompensation": alive.astype(np.uint8),
            "los": (alive if "los_after_death" in repairs else staying).astype(np.uint8),
            "phenotypes": np.ones(len(length), dtype=np.uint8),
        },
    )


def phenotype_labels(stays: pl.DataFrame, diagnoses: pl.DataFrame) -> np.ndarray:
    """Return uint8 [stays, 25]: 1 where a code of the stay's admission is in the phenotype's list."""
    names, codes = phenotypes()
    place = stays.select("subject_id", "hadm_id").with_row_index("place")
    found = (
        diagnoses.join(codes, on="icd9_code")
        .join(place, on=["subject_id", "hadm_id"])
        .select("place", "phenotype")
        .unique()
    )
    labels = np.zeros((stays.height, len(names)), dtype=np.uint8)
    labels[found["place"].to_numpy(), found["phenotype"].to_numpy()] = 1
    return labels


def read_diagnoses(tables: dict[str, Table], repairs: frozenset[str]) -> pl.DataFrame:
    """Return the diagnosis rows that count: those whose code is in the dictionary table, or, repaired, all.

    Codes with a point (401.9), from a column of floats (4019.0), padded or in lower case are read; where a
    spreadsheet took the leading zeros of the diagnoses they are put back by the dictionary.

    Args:
        tables: The source tables.
        repairs: The repairs in force.

    Returns:
        subject_id, hadm_id, icd9_code.

    Raises:
        DataError: More than 1 % of the codes are of ICD-10 or no codes, the dictionary has lost its leading
            zeros too, or a code without its zeros could be either of two with different phenotypes.
    """
    table, source = tables["diagnoses_icd"], tables.get("d_icd_diagnoses")
    ids = {"subject_id": pl.Int64, "hadm_id": pl.Int64, "icd9_code": pl.String}
    written = table.read(ids).with_row_index("place", offset=1).drop_nulls("icd9_code")
    diagnoses = written.with_columns(icd9_code=_plain(written["icd9_code"]))
    if source is None:
        if diagnoses.height > MANY and not diagnoses["icd9_code"].str.starts_with("0").any():
            raise DataError(
                f"{table.path}: no ICD9_CODE of {diagnoses.height:,} begins with 0: leading zeros seem lost;"
                " add the table D_ICD_DIAGNOSES, by which they are put back"
            )
        dictionary = diagnoses.select("icd9_code").unique()
    else:
        names = source.read({"icd9_code": pl.String}).drop_nulls()
        dictionary = names.select(icd9_code=_plain(names["icd9_code"])).unique()
        diagnoses = _zeros_restored(diagnoses, dictionary, table, source)
    code = pl.col("icd9_code")
    for kind, few, condition in (
        ("a code of ICD-10", 0, code.str.contains(_ICD10)),
        ("no ICD-9 code", 10, ~code.str.contains(_ICD9)),
    ):
        foreign = diagnoses.filter(condition)
        if foreign.height > max(FOREIGN_SHARE * diagnoses.height, few):
            raise DataError(
                f"{table.path}: ICD9_CODE of {foreign.height:,} of {diagnoses.height:,} rows is {kind}"
                f" (first: data row {foreign['place'][0]}); phenotypes are defined by ICD-9: take"
                " DIAGNOSES_ICD of MIMIC-III"
            )
    diagnoses = diagnoses.drop("place")
    if "all_diagnosis_codes" in repairs:
        return diagnoses
    return diagnoses.join(dictionary, on="icd9_code", how="semi")


def _plain(codes: pl.Series) -> pl.Series:
    """Codes in capitals without a point; a column of numbers that all end in .0 was one of floats."""
    codes = codes.str.to_uppercase()
    numbers = codes.filter(codes.str.contains(r"^\d"))
    if len(numbers) and numbers.str.ends_with(".0").all():
        codes = codes.str.replace(r"^(\d+)\.0$", "$1")
    return codes.str.replace(".", "", literal=True)


def _zeros_restored(
    diagnoses: pl.DataFrame, dictionary: pl.DataFrame, table: Table, source: Table
) -> pl.DataFrame:
    """Put leading zeros back where the column has lost all of them."""
    code = pl.col("icd9_code")
    present = diagnoses.select("icd9_code").unique()
    listed, phenotype = dictionary["icd9_code"], phenotypes()[1]
    if listed.str.contains(r"^\d{1,2}$").any():
        raise DataError(
            f"{table.path}, {source.path.name}: the ICD9_CODEs have lost their leading zeros; export them"
            " again as text"
        )
    known = pl.concat([listed, phenotype["icd9_code"]]).unique()
    padded = pl.concat(
        present.select("icd9_code", candidate=pl.lit("0" * zeros) + code, zeros=pl.lit(zeros))
        for zeros in range(3)
    ).filter(code.str.contains(r"^\d{1,5}$") & pl.col("candidate").is_in(known.implode()))
    lost = padded.filter(pl.col("zeros").min().over("icd9_code") > 0)
    if not lost.height or present["icd9_code"].str.starts_with("0").any():
        return diagnoses
    inside = pl.col("candidate").is_in(listed.implode())
    choices = padded.filter(inside | ~inside.any().over("icd9_code")).join(
        phenotype, left_on="candidate", right_on="icd9_code", how="left"
    )
    doubtful = choices.filter(pl.col("phenotype").fill_null(-1).n_unique().over("icd9_code") > 1)
    rows = diagnoses.join(doubtful, on="icd9_code", how="semi", maintain_order="left")
    if rows.height:
        raise DataError(
            f"{table.path}: ICD9_CODE has lost its leading zeros, and {rows.height:,} of {diagnoses.height:,}"
            " rows could be either of two codes of different phenotypes (first: data row"
            f" {rows['place'][0]}); export the table again with ICD9_CODE as text"
        )
    chosen = choices.sort("zeros").unique("icd9_code", keep="first").select("icd9_code", "candidate")
    return diagnoses.join(chosen, on="icd9_code", how="left", maintain_order="left").select(
        "subject_id", "hadm_id", icd9_code=pl.coalesce("candidate", "icd9_code"), place="place"
    )
