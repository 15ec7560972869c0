"""Labels of the four benchmark tasks, for all stays and hours at once.

In-hospital mortality is predicted at hour 48; decompensation (death within 24 hours) and remaining length of
stay at every whole hour from the fifth on; 25 phenotypes at the end of the stay (Harutyunyan et al. 2019).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from relif_core.tensors.clinical import Task
from relif_data.labels import REMAINING_STAY, length_of_stay_class
from relif_data.mimic3.channels import phenotypes
from relif_data.mimic3.series import EPSILON_HOURS

MORTALITY_HOUR = 48
LAST_UNLABELLED_HOUR = 4
DECOMPENSATION_HOURS = 24.0


def tensor_tasks() -> tuple[Task, ...]:
    """Return the four tasks as the tensor schema names them."""
    names, _ = phenotypes()
    return (
        Task("mortality", "In-hospital mortality", "binary", "stay", horizon_hours=MORTALITY_HOUR),
        Task("decompensation", "Death within 24 hours", "binary", "hourly"),
        REMAINING_STAY,
        Task("phenotypes", "Phenotypes", "multilabel", "stay", len(names), names),
    )


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
    offsets = np.concatenate([[0], np.cumsum(bins)])
    hour = np.arange(offsets[-1]) - np.repeat(offsets[:-1], bins) + 1
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
