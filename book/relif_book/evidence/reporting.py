"""From records to the numbers of a results page: reference tolerance, audits, methods side by side.

Everything here is computed from records alone, without torch and without the data.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
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
from relif_core.errors import InputError, RecordError
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
    """One method over its seeds at one fixed tolerance; lists hold an entry per seed, as in ``seeds``.

    Attributes:
        rows: The records' places in the audit table.
        induced: Mean induced tolerance over task pairs on the table's split.
        induced_validation: The same on the validation split.
        budget: Drift budget against the fixed tolerance.
    """

    method: str
    seeds: list[int]
    worst: list[float]
    macro: list[float]
    task_scores: dict[str, list[float | None]]
    rows: list[int]
    induced: list[float]
    induced_validation: list[float]
    budget: list[float]
    table: AuditTable = field(repr=False)

    @property
    def bias(self) -> list[float]:
        """Fixed-tolerance Bias per seed."""
        return self.table.bias[self.rows].tolist()

    @property
    def violation_rate(self) -> list[float]:
        """Fixed-tolerance violation rate per seed."""
        return self.table.violation_rate[self.rows].tolist()

    @property
    def raw_bias(self) -> list[float]:
        """Bias per seed at the run's own induced tolerances."""
        return self.table.raw_bias[self.rows].tolist()

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
                f"{self.method} has no record of seed {', '.join(map(str, absent))}; it has {self.seeds}"
            )
        places = [self.seeds.index(seed) for seed in seeds]
        return replace(
            self,
            seeds=list(seeds),
            worst=[self.worst[i] for i in places],
            macro=[self.macro[i] for i in places],
            task_scores={task: [scores[i] for i in places] for task, scores in self.task_scores.items()},
            rows=[self.rows[i] for i in places],
            induced=[self.induced[i] for i in places],
            induced_validation=[self.induced_validation[i] for i in places],
            budget=[self.budget[i] for i in places],
        )


def summarise(records: Sequence[Record], table: AuditTable) -> dict[str, MethodSummary]:
    """Gather records and their audits by method, in the order of first appearance."""
    missing = [record.key[:12] for record in records if record.key not in table.keys]
    if missing:
        raise RecordError(f"the audit table lacks records {', '.join(missing)}; publish the records again")
    twice = [name for name, count in Counter((r.method, r.seed) for r in records).items() if count > 1]
    if twice:
        method, seed = twice[0]
        raise RecordError(
            f"{method} has two records of seed {seed}, which a mean would mix; keep records of different"
            " settings in folders of their own"
        )
    methods = list(dict.fromkeys(record.method for record in records))
    return {
        method: _summary([record for record in records if record.method == method], table)
        for method in methods
    }


def common_seeds(*summaries: MethodSummary) -> list[int]:
    """Return the seeds that every summary has, in the order of the first."""
    return [seed for seed in summaries[0].seeds if all(seed in other.seeds for other in summaries[1:])]


@dataclass(frozen=True)
class MethodComparison:
    """Method b minus method a over the seeds that both have; all lists hold one entry per such seed.

    Attributes:
        differences: In Bias.
        interval: Of their mean over the draw of test subjects, paired by subject.
        rate_differences: In the violation rate.
        rate_interval: Likewise of theirs.
        raw_differences: In Bias at the runs' own tolerances.
        induced_differences: In the mean tolerance that the validation split induces.
        certificate: Of theorem B.2, from mean Bias and mean drift budgets.
    """

    a: str
    b: str
    seeds: list[int]
    differences: list[float]
    interval: tuple[float, float]
    rate_differences: list[float]
    rate_interval: tuple[float, float]
    raw_differences: list[float]
    induced_differences: list[float]
    worst_differences: list[float]
    macro_differences: list[float]
    certificate: RankingCertificate


def compare_methods(a: MethodSummary, b: MethodSummary, level: float = 0.95) -> MethodComparison:
    """Compare two methods of one audit table, seed by seed and subject by subject, over their common seeds.

    Raises:
        InputError: They have no seed in common.
    """
    seeds = common_seeds(a, b)
    if not seeds:
        raise InputError(f"{a.method} and {b.method} have no seed in common")
    a, b = a.of_seeds(seeds), b.of_seeds(seeds)
    weights = b.mean_weights() - a.mean_weights()

    def minus(of_b: Sequence[float], of_a: Sequence[float]) -> list[float]:
        return [float(second - first) for first, second in zip(of_a, of_b, strict=True)]

    return MethodComparison(
        a=a.method,
        b=b.method,
        seeds=seeds,
        differences=minus(b.bias, a.bias),
        interval=a.table.interval(weights, "bias", level),
        rate_differences=minus(b.violation_rate, a.violation_rate),
        rate_interval=a.table.interval(weights, "violation_rate", level),
        raw_differences=minus(b.raw_bias, a.raw_bias),
        induced_differences=minus(b.induced_validation, a.induced_validation),
        worst_differences=minus(b.worst, a.worst),
        macro_differences=minus(b.macro, a.macro),
        certificate=ranking_certificate(
            float(np.mean(a.bias)), float(np.mean(b.bias)), float(np.mean(a.budget)), float(np.mean(b.budget))
        ),
    )


def seed_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return the t interval of mean differences over the draw of seeds; None for fewer than two seeds."""
    count = len(differences)
    if count < 2:
        return None
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    return interval(float(np.mean(differences)), error, level, count - 1)


def _summary(records: Sequence[Record], table: AuditTable) -> MethodSummary:
    found = [record.result["utility"][table.split] for record in records]
    induced = [record.induced_tolerances(table.split) for record in records]
    return MethodSummary(
        method=records[0].method,
        seeds=[record.seed for record in records],
        worst=[item["worst"] for item in found],
        macro=[item["macro"] for item in found],
        task_scores={task: [item["tasks"][task]["score"] for item in found] for task in records[0].tasks},
        rows=[table.keys.index(record.key) for record in records],
        induced=[float(np.mean(list(own.values()))) for own in induced],
        induced_validation=[
            float(np.mean(list(record.induced_tolerances("validation").values()))) for record in records
        ],
        budget=[drift_budget(table.tolerance, own) for own in induced],
        table=table,
    )
