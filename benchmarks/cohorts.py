"""Simulated cohorts of known Bias and violation rate: subjects with several stays, correlated tasks."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from relif_core.audit import audit

SCORE_MAPS = {"mortality": (-2.0, 1.2), "decompensation": (-1.0, 0.8), "length of stay": (0.5, 1.0)}
LABELLED = {"mortality": 0.6, "decompensation": 0.9, "length of stay": 0.9}


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@dataclass(frozen=True)
class Cohort:
    """Scores of two methods on the same stays, and the subject of every score."""

    scores: dict[str, np.ndarray]
    other_scores: dict[str, np.ndarray]
    subjects: dict[str, np.ndarray]


def draw_cohort(subjects: int, generator: np.random.Generator, shift: float = 0.4) -> Cohort:
    """Draw a cohort: logit = mean + spread · (subject's severity, stay's severity, noise; unit variance).

    Stays per subject are 1 + Poisson(1); a stay carries a task's label with the task's own probability. The
    second method adds ``shift`` to every logit and shares nine tenths of the first one's noise.
    """
    stays = 1 + generator.poisson(1.0, subjects)
    subject = np.repeat(np.arange(subjects), stays)
    severity = generator.normal(size=subjects)[subject] * np.sqrt(0.6) + generator.normal(
        size=len(subject)
    ) * np.sqrt(0.2)
    scores, other_scores, ids = {}, {}, {}
    for task, (mean, spread) in SCORE_MAPS.items():
        labelled = generator.random(len(subject)) < LABELLED[task]
        labelled[0] = True
        noise = generator.normal(size=len(subject))
        other_noise = 0.9 * noise + np.sqrt(1 - 0.9**2) * generator.normal(size=len(subject))
        logits = mean + spread * (severity + np.sqrt(0.2) * noise)
        other_logits = mean + shift + spread * (severity + np.sqrt(0.2) * other_noise)
        scores[task], other_scores[task] = _sigmoid(logits)[labelled], _sigmoid(other_logits)[labelled]
        ids[task] = subject[labelled]
    return Cohort(scores, other_scores, ids)


def true_values(tolerance: float, shift: float = 0.0, points: int = 400_000) -> tuple[float, float]:
    """Return the generating distribution's Bias and violation rate, from midpoints of its quantiles."""
    normal = _normal_quantiles(points)
    scores = {task: _sigmoid(mean + shift + spread * normal) for task, (mean, spread) in SCORE_MAPS.items()}
    result = audit(scores, tolerance)
    return result.bias, result.violation_rate


def _normal_quantiles(points: int) -> np.ndarray:
    """Return the quantiles of the standard normal distribution at the midpoints of ``points`` equal parts."""
    grid = np.linspace(-6, 6, 20_001)
    density = np.array([NormalDist().cdf(value) for value in grid])
    return np.interp((np.arange(points) + 0.5) / points, density, grid)
