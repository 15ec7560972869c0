"""What a study fixes before it looks: its reference tolerance; and the card of one record.

Everything here is computed from records alone, without torch and without the data.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from relif_book.evidence.audit_table import audit_record
from relif_core.audit import audit_card, bias_curve, conformal_tolerance
from relif_core.audit.card import Card
from relif_core.audit.uncertainty import interval
from relif_core.record import Record

#: Candidate levels of the reference tolerance, and the reference model's least validation violation rate.
ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
LEAST_VIOLATION_RATE = 0.05


@dataclass(frozen=True)
class ReferenceTolerance:
    """The held-fixed tolerance of a data set and where it comes from.

    Attributes:
        tolerance: Conformal quantile (theorem B.3) of disjoint validation pairs of the reference run.
        alpha: Its level.
        pairs: Number of pairs.
        record: Key of the reference run.
        candidates: Every level considered, with its tolerance and the run's validation Bias and violation
            rate there.
    """

    tolerance: float
    alpha: float
    pairs: int
    dataset: str
    fingerprint: str
    record: str
    method: str
    seed: int
    candidates: list[dict[str, float]]

    def as_json(self) -> dict[str, Any]:
        """Return plain values, to be written down before any test result is looked at."""
        return asdict(self)


def choose_reference_tolerance(
    record: Record, alphas: Sequence[float] = ALPHAS, least: float = LEAST_VIOLATION_RATE
) -> ReferenceTolerance:
    """Choose δ_ref from a reference run's validation split alone.

    The distances of disjoint validation pairs are exchangeable with the distance of a new pair, so their
    conformal quantile at level α is exceeded with probability at most α.

    Args:
        record: The reference run.
        alphas: Levels. The smallest is taken at which the run still violates the tolerance: under a wider one
            an audit has nothing to see. If there is none, the largest.
        least: Validation violation rate that counts as violating.
    """
    distances = record.arrays["calibration/distances"]
    ordered = sorted(alphas)
    tolerances = [conformal_tolerance(distances, alpha) for alpha in ordered]
    curve = bias_curve(record.scores("validation"), tolerances)
    reached = np.flatnonzero(curve.violation_rate >= least)
    chosen = int(reached[0]) if len(reached) else len(ordered) - 1
    names = ("alpha", "tolerance", "bias", "violation_rate")
    rows = zip(ordered, tolerances, curve.bias.tolist(), curve.violation_rate.tolist(), strict=True)
    return ReferenceTolerance(
        tolerance=float(tolerances[chosen]),
        alpha=ordered[chosen],
        pairs=len(distances),
        dataset=record.content["dataset"]["dataset"],
        fingerprint=record.content["dataset"]["fingerprint"],
        record=record.key,
        method=record.method,
        seed=record.seed,
        candidates=[dict(zip(names, row, strict=True)) for row in rows],
    )


def record_card(record: Record, tolerance: ReferenceTolerance | float, split: str = "test") -> Card:
    """Return a record's audit card at a reference tolerance, or at a number that the user answers for."""
    delta, source, calibration = tolerance, "given by the user", None
    if isinstance(tolerance, ReferenceTolerance):
        delta, run = tolerance.tolerance, f"{tolerance.method} run with seed {tolerance.seed}"
        source = f"conformal quantile of reference distances at α = {tolerance.alpha:g} (theorem B.3)"
        calibration = f"{tolerance.pairs} disjoint validation pairs of the {run}"
    result = audit_record(record, float(delta), split)  # type: ignore[arg-type]
    result = replace(result, context=replace(result.context, tolerance_source=source))
    found = record.result["utility"][split]
    scores = {name: item["score"] for name, item in found["tasks"].items()}
    reached = {"Worst": found["worst"], "Macro": found["macro"], **scores}
    settings = record.settings
    return audit_card(
        result,
        model=(
            f"{record.method}, seed {record.seed}, epoch {record.result['best_epoch']}, record"
            f" {record.key[:12]}"
        ),
        calibration=calibration,
        induced=record.induced_tolerances(split),
        utility={name: value for name, value in reached.items() if value is not None},
        controller=asdict(settings.controller) if settings.penalty else None,
    )


def seed_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return the t interval of mean differences over the draw of seeds; None for fewer than two seeds."""
    count = len(differences)
    if count < 2:
        return None
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    return interval(float(np.mean(differences)), error, level, count - 1)
