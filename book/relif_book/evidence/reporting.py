"""From records to the numbers of a results page: reference tolerance, audits, methods side by side.

Everything here is computed from records alone, without torch and without the data.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from relif_book.evidence.audit_table import AuditTable, audit_record
from relif_core.audit import (
    RankingCertificate,
    audit_card,
    bias_curve,
    conformal_tolerance,
    drift_budget,
    ranking_certificate,
)
from relif_core.audit.card import Card
from relif_core.audit.uncertainty import interval
from relif_core.errors import InputError, RecordError, listed
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
    candidates = [
        {"alpha": alpha, "tolerance": delta, "bias": float(bias), "violation_rate": float(rate)}
        for alpha, delta, bias, rate in zip(
            ordered, tolerances, curve.bias, curve.violation_rate, strict=True
        )
    ]
    return ReferenceTolerance(
        tolerance=float(tolerances[chosen]),
        alpha=ordered[chosen],
        pairs=len(distances),
        dataset=record.content["dataset"]["dataset"],
        fingerprint=record.content["dataset"]["fingerprint"],
        record=record.key,
        method=record.method,
        seed=record.seed,
        candidates=candidates,
    )


def record_card(record: Record, tolerance: ReferenceTolerance | float, split: str = "test") -> Card:
    """Return a record's audit card at a reference tolerance, or at a number that the user answers for."""
    chosen = tolerance if isinstance(tolerance, ReferenceTolerance) else None
    delta = chosen.tolerance if chosen else float(tolerance)  # type: ignore[arg-type]
    result = audit_record(record, delta, split)
    source = (
        f"conformal quantile of reference distances at α = {chosen.alpha:g} (theorem B.3)"
        if chosen
        else "given by the user"
    )
    result = replace(result, context=replace(result.context, tolerance_source=source))
    found = record.result["utility"][split]
    scores = {name: item["score"] for name, item in found["tasks"].items() if item["score"] is not None}
    settings = record.settings
    return audit_card(
        result,
        model=(
            f"{record.method}, seed {record.seed}, epoch {record.result['best_epoch']}, record"
            f" {record.key[:12]}"
        ),
        calibration=(
            f"{chosen.pairs} disjoint validation pairs of the {chosen.method} run with seed {chosen.seed}"
            if chosen
            else None
        ),
        induced=record.induced_tolerances(split),
        utility={"Worst": found["worst"], "Macro": found["macro"], **scores},
        controller=asdict(settings.controller) if settings.penalty else None,
    )


@dataclass(frozen=True)
class MethodSummary:
    """One method over its seeds at one fixed tolerance; lists hold an entry per seed, as in ``seeds``."""

    method: str
    records: tuple[Record, ...] = field(repr=False)
    table: AuditTable = field(repr=False)

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds, in the order of the records."""
        return [record.seed for record in self.records]

    @cached_property
    def rows(self) -> list[int]:
        """The records' places in the audit table."""
        return [self.table.keys.index(record.key) for record in self.records]

    def _audited(self, kind: str) -> list[float]:
        return getattr(self.table, kind)[self.rows].tolist()

    bias = property(lambda self: self._audited("bias"), doc="Fixed-tolerance Bias.")
    violation_rate = property(lambda self: self._audited("violation_rate"), doc="Fixed-tolerance rate.")
    raw_bias = property(lambda self: self._audited("raw_bias"), doc="Bias at the run's own tolerances.")

    def _reached(self, kind: str) -> list[float]:
        return [record.result["utility"][self.table.split][kind] for record in self.records]

    worst = property(lambda self: self._reached("worst"), doc="Worst on the table's split.")
    macro = property(lambda self: self._reached("macro"), doc="Macro on the table's split.")

    @property
    def budget(self) -> list[float]:
        """Drift budget of the table's split against the fixed tolerance."""
        split, tolerance = self.table.split, self.table.tolerance
        return [drift_budget(tolerance, record.induced_tolerances(split)) for record in self.records]

    def mean_weights(self) -> np.ndarray:
        """Return the weights [R] that average this method's seeds in the audit table."""
        weights = np.zeros(len(self.table.keys))
        weights[self.rows] = 1 / len(self.rows)
        return weights

    def interval(self, kind: str = "bias", level: float = 0.95) -> tuple[float, float]:
        """Return the seeds' mean's interval over the draw of test subjects, with the seeds held fixed."""
        return self.table.interval(self.mean_weights(), kind, level)

    def of_seeds(self, seeds: Sequence[int]) -> "MethodSummary":
        """Return the summary of some seeds, in the order given.

        Raises:
            InputError: The method has no record of one of them.
        """
        absent = [seed for seed in seeds if seed not in self.seeds]
        if absent:
            raise InputError(
                f"{self.method} has no record of seed {listed(absent)}; it has {listed(self.seeds)}"
            )
        return replace(self, records=tuple(self.records[self.seeds.index(seed)] for seed in seeds))


def summarise(records: Sequence[Record], table: AuditTable) -> dict[str, MethodSummary]:
    """Gather records and their audits by method, in the order of first appearance.

    Raises:
        RecordError: A record has no audit, or a method two records of one seed.
    """
    missing = [record.key[:12] for record in records if record.key not in table.keys]
    if missing:
        raise RecordError(f"the audit table lacks records {listed(missing)}; publish the records again")
    twice = [name for name, count in Counter((r.method, r.seed) for r in records).items() if count > 1]
    if twice:
        method, seed = twice[0]
        raise RecordError(
            f"{method} has two records of seed {seed}, which a mean would mix; keep records of different"
            " settings in folders of their own"
        )
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record.method, []).append(record)
    return {method: MethodSummary(method, tuple(own), table) for method, own in by_method.items()}


def common_seeds(*summaries: MethodSummary) -> list[int]:
    """Return the seeds that every summary has, in the order of the first."""
    return [seed for seed in summaries[0].seeds if all(seed in other.seeds for other in summaries[1:])]


@dataclass(frozen=True)
class MethodComparison:
    """Method b minus method a over the seeds that both have, paired by seed and by test subject."""

    a: MethodSummary
    b: MethodSummary

    def differences(self, kind: str = "bias") -> np.ndarray:
        """Return the differences [seeds] in a list of :class:`MethodSummary`."""
        return np.subtract(getattr(self.b, kind), getattr(self.a, kind))

    def interval(self, kind: str = "bias", level: float = 0.95) -> tuple[float, float]:
        """Return the interval of the mean difference over the draw of test subjects."""
        return self.a.table.interval(self.b.mean_weights() - self.a.mean_weights(), kind, level)

    @property
    def certificate(self) -> RankingCertificate:
        """The certificate of theorem B.2, from mean Bias and mean drift budgets."""
        values = (self.a.bias, self.b.bias, self.a.budget, self.b.budget)
        return ranking_certificate(*(float(np.mean(each)) for each in values))


def compare_methods(a: MethodSummary, b: MethodSummary) -> MethodComparison:
    """Compare two methods of one audit table over their common seeds.

    Raises:
        InputError: They have no seed in common.
    """
    seeds = common_seeds(a, b)
    if not seeds:
        raise InputError(f"{a.method} and {b.method} have no seed in common")
    return MethodComparison(a.of_seeds(seeds), b.of_seeds(seeds))


def seed_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return the t interval of mean differences over the draw of seeds; None for fewer than two seeds."""
    count = len(differences)
    if count < 2:
        return None
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    return interval(float(np.mean(differences)), error, level, count - 1)
