"""Labels of the eICU tasks: every label is a fact at a stated hour and its input ends before that hour."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from relif_core.tensors.clinical import Task
from relif_data.labels import DECOMPENSATION_HOURS, REMAINING_STAY, hours_of, length_of_stay_class
from relif_data.tables import LOST_SHARE, Table

DIAGNOSIS_GROUPS = (
    *("burns/trauma", "cardiovascular", "endocrine", "gastrointestinal", "general", "hematology"),
    *("infectious diseases", "neurologic", "oncology", "pulmonary", "renal", "surgery", "toxicology"),
    "transplant",
)


@dataclass(frozen=True)
class Target:
    """A task with its labels and its mask (1 where a label exists)."""

    task: Task
    labels: np.ndarray
    mask: np.ndarray


def length_of_stay(minutes: np.ndarray, offsets: np.ndarray, first_label_hour: int) -> Target:
    """Remaining length of stay in ten classes, at hours h with 60 h ≤ minutes: (minutes − 60 h) / 1440 days.

    ``minutes`` is the length of the unit stay [stays], ``offsets`` bounds the stays' rows, the least h is
    ``first_label_hour``.
    """
    hour = hours_of(offsets)
    remaining = np.repeat(minutes, np.diff(offsets)) - 60 * hour
    mask = (remaining >= 0) & (hour >= first_label_hour)
    return Target(
        REMAINING_STAY, length_of_stay_class(np.maximum(remaining, 0) / 1440), mask.astype(np.uint8)
    )


def mortality(frame: pl.DataFrame, outcome: Literal["hospital", "unit"], horizon: int) -> Target:
    """Death in the hospital or in the unit.

    Stays that last until hour ``horizon`` have a label, unless the outcome is unknown, or `patient` says dead
    in the unit but alive in the hospital.
    """
    died = frame["died_hospital" if outcome == "hospital" else "died_unit"]
    known = died.is_not_null() & ~contradictory(frame) & (frame["minutes"] >= 60 * horizon).fill_null(False)
    title = "Death in the hospital" if outcome == "hospital" else "Death in the unit"
    task = Task("mortality", title, "binary", "stay", horizon_hours=horizon)
    return Target(task, died.fill_null(False).to_numpy().astype(np.int16), known.to_numpy().astype(np.uint8))


def decompensation(frame: pl.DataFrame, offsets: np.ndarray, first_label_hour: int) -> Target:
    """Death within the next 24 hours, at every hour from the first label's to the end of the unit stay.

    The time of death is the unit's discharge for deaths there and the hospital's discharge for later ones. No
    label where the outcome or that time is unknown.
    """
    hour = hours_of(offsets)
    rows = np.diff(offsets)
    died = (frame["died_hospital"].fill_null(False) | frame["died_unit"].fill_null(False)).to_numpy()
    death = frame["death_minutes"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = (frame["died_hospital"].is_not_null() & ~contradictory(frame)).to_numpy() & ~(
        died & np.isnan(death)
    )
    remaining = np.repeat(frame["minutes"].to_numpy(), rows) - 60 * hour
    to_death = np.repeat(np.where(died, death, np.inf), rows) - 60 * hour
    mask = np.repeat(known, rows) & (remaining >= 0) & (hour >= first_label_hour)
    task = Task("decompensation", f"Death within {DECOMPENSATION_HOURS} hours", "binary", "hourly")
    soon = to_death < 60 * DECOMPENSATION_HOURS
    return Target(task, soon.astype(np.int16), mask.astype(np.uint8))


def contradictory(frame: pl.DataFrame) -> pl.Series:
    """Return which stays are recorded as dead on leaving the unit but alive on leaving the hospital."""
    return frame["died_unit"].fill_null(False) & ~frame["died_hospital"].fill_null(True)


def diagnosis_groups(frame: pl.DataFrame, table: Table) -> tuple[Target, list[str]]:
    """Which of 14 organ systems the diagnoses of stays (ascending) name (first part of ``diagnosisstring``).

    As with phenotypes, the label belongs to the whole stay and is read from its last row; diagnoses are never
    an input. Stays without any diagnosis row carry no label.
    """
    stays = frame["stay"].to_numpy()
    labels = np.zeros((len(stays), len(DIAGNOSIS_GROUPS)), dtype=np.float32)
    mask = np.zeros(len(stays), dtype=np.uint8)
    unknown = 0
    code = {name: index for index, name in enumerate(DIAGNOSIS_GROUPS)}
    for block in table.frames({"patientunitstayid": pl.Int64, "diagnosisstring": pl.String}):
        stay = block["patientunitstayid"].fill_null(np.iinfo(np.int64).min).to_numpy()
        index = np.minimum(np.searchsorted(stays, stay), len(stays) - 1)
        inside = stays[index] == stay
        first = block["diagnosisstring"].str.split("|").list.first().str.strip_chars().str.to_lowercase()
        group = first.replace_strict(code, default=-1, return_dtype=pl.Int64).to_numpy()
        unknown += int((inside & (group < 0)).sum())
        named = inside & (group >= 0)
        labels[index[named], group[named]] = 1
        mask[index[named]] = 1
    table.refuse_unreadable(share=LOST_SHARE)
    notes = [
        f"diagnosis: {unknown} rows of the cohort name none of the {len(DIAGNOSIS_GROUPS)} organ systems."
    ]
    names, title = DIAGNOSIS_GROUPS, "Organ systems diagnosed"
    task = Task("diagnosis_groups", title, "multilabel", "stay", len(names), names)
    return Target(task, labels, mask), notes
