"""Small simulated cohorts with correlated tasks, for pages and tests that must not depend on patient data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relif_core.errors import InputError

SIMULATED_TASKS: Mapping[str, tuple[float, float]] = {
    "mortality": (-2.2, 1.2),
    "decompensation": (-2.8, 1.0),
    "los": (-0.4, 0.7),
    "phenotypes": (0.9, 0.8),
}
"""Task name -> (centre, spread) of the score's log odds: two rare events, one middling, one high score."""
CORRELATION = 0.6
"""Of the severities of two tasks."""
WIDTH = 16
"""Of an embedding: room for one direction per task and one that all patients share."""


@dataclass(frozen=True)
class Patients:
    """What no method can change: the severities of every patient and who carries which label.

    severity: [patients, tasks], standard normal, correlated between tasks.
    labelled: [patients, tasks], true where the patient is in the task's pool.
    """

    tasks: tuple[str, ...]
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    severity: NDArray[np.float64]
    labelled: NDArray[np.bool_]


@dataclass(frozen=True)
class Cohort:
    """What one simulated method leaves: per task the scores, patient ids and embeddings of its pool."""

    scores: dict[str, NDArray[np.float64]]
    subjects: dict[str, NDArray[np.int64]]
    embeddings: dict[str, NDArray[np.float64]]


def simulated_patients(
    generator: np.random.Generator,
    patients: int = 300,
    *,
    tasks: Mapping[str, tuple[float, float]] = SIMULATED_TASKS,
    label_share: float = 0.8,
) -> Patients:
    """Draw patients whose severities share one factor: severity_t = sqrt(c) s + sqrt(1 - c) e_t.

    Args:
        generator: Draws everything.
        patients: At least 5; as many carry every label, so no pool is empty.
        tasks: As :data:`SIMULATED_TASKS`.
        label_share: Chance in (0, 1] that a patient carries a task's label.

    Raises:
        InputError: Fewer than five patients, or a share outside its range.
    """
    if patients < 5:
        raise InputError(f"patients: {patients} is too few; simulate at least 5")
    if not 0.0 < label_share <= 1.0:
        raise InputError(f"label_share: {label_share} is outside (0, 1]")
    shared = generator.standard_normal((patients, 1))
    own = generator.standard_normal((patients, len(tasks)))
    labelled = generator.random((patients, len(tasks))) < label_share
    labelled[:5] = True
    parameters = np.array(list(tasks.values()), dtype=float)
    return Patients(
        tasks=tuple(tasks),
        centre=parameters[:, 0],
        spread=parameters[:, 1],
        severity=np.sqrt(CORRELATION) * shared + np.sqrt(1.0 - CORRELATION) * own,
        labelled=labelled,
    )


def simulated_method(
    patients: Patients, *, sharpness: float = 1.0, shift: float = 0.0, separation: float = 1.0
) -> Cohort:
    """Score and embed the same patients as one method would.

    Scores are logistic(sharpness * (centre_t + spread_t * severity_t) + shift), in (0, 1): sharpness above 1
    is an overconfident method. Embeddings are common + separation * sum_t (severity_t - the patient's mean
    severity) * direction_t, one per patient and shared by all tasks: separation spreads the representation
    without touching any score, so it moves induced tolerances (from 0 towards 0.6) and nothing else.
    """
    logits = sharpness * (patients.centre + patients.spread * patients.severity) + shift
    scores = 1.0 / (1.0 + np.exp(-logits))
    contrast = patients.severity - patients.severity.mean(axis=1, keepdims=True)
    directions = np.eye(len(patients.tasks) + 1, WIDTH)
    embeddings = directions[0] + separation * contrast @ directions[1:]
    everyone = np.arange(len(scores), dtype=np.int64)
    pools = {task: patients.labelled[:, column] for column, task in enumerate(patients.tasks)}
    return Cohort(
        scores={task: scores[pool, column] for column, (task, pool) in enumerate(pools.items())},
        subjects={task: everyone[pool] for task, pool in pools.items()},
        embeddings={task: embeddings[pool] for task, pool in pools.items()},
    )
