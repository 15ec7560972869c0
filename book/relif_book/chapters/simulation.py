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


@dataclass(frozen=True)
class Patients:
    """What no method can change: the severities of every patient and who carries which label.

    severity: [patients, tasks], standard normal, correlated between tasks.
    labelled: [patients, tasks], true where the patient is in the task's pool.
    directions: [tasks + 1, width], orthonormal; row 0 is common to all patients.
    """

    tasks: tuple[str, ...]
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    severity: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    directions: NDArray[np.float64]


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
    correlation: float = 0.6,
    label_share: float = 0.8,
    width: int = 16,
) -> Patients:
    """Draw patients whose severities share one factor: severity_t = sqrt(c) s + sqrt(1 - c) e_t.

    correlation: c in [0, 1], the correlation of two tasks' severities. label_share: chance in (0, 1] that a
    patient carries a task's label (five patients carry every label, so no pool is empty). width: embedding
    dimension, at least the number of tasks + 1.

    Raises InputError for fewer than five patients, a share outside its range or too small a width.
    """
    if patients < 5:
        raise InputError(f"patients: {patients} is too few; simulate at least 5")
    if not 0.0 <= correlation <= 1.0:
        raise InputError(f"correlation: {correlation} is outside [0, 1]")
    if not 0.0 < label_share <= 1.0:
        raise InputError(f"label_share: {label_share} is outside (0, 1]")
    if width < len(tasks) + 1:
        raise InputError(f"width: {width} cannot hold {len(tasks) + 1} orthogonal directions")
    shared = generator.standard_normal((patients, 1))
    own = generator.standard_normal((patients, len(tasks)))
    labelled = generator.random((patients, len(tasks))) < label_share
    labelled[:5] = True
    parameters = np.array(list(tasks.values()), dtype=float)
    return Patients(
        tasks=tuple(tasks),
        centre=parameters[:, 0],
        spread=parameters[:, 1],
        severity=np.sqrt(correlation) * shared + np.sqrt(1.0 - correlation) * own,
        labelled=labelled,
        directions=np.eye(len(tasks) + 1, width),
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
    embeddings = patients.directions[0] + separation * contrast @ patients.directions[1:]
    everyone = np.arange(len(scores), dtype=np.int64)
    pools = {task: patients.labelled[:, column] for column, task in enumerate(patients.tasks)}
    return Cohort(
        scores={task: scores[pool, column] for column, (task, pool) in enumerate(pools.items())},
        subjects={task: everyone[pool] for task, pool in pools.items()},
        embeddings={task: embeddings[pool] for task, pool in pools.items()},
    )
