"""Comparing two audits: only with one ruler; and when an order of models survives their own rulers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from relif_core.audit.door import is_number
from relif_core.audit.plain import picked
from relif_core.audit.pools import Pair, Tolerance, checked_tolerance, pair_tolerances
from relif_core.audit.result import KINDS, AuditResult, Kind
from relif_core.audit.uncertainty import combined_error, difference_interval, p_value
from relif_core.errors import ComparabilityError, InputError, listed


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference a − b of two comparable audits.

    Attributes:
        difference: Of Bias, with ``standard_error``, ``interval`` and two-sided ``p_value`` of no difference.
        violation_rate_difference: Of the violation rate, likewise.
        level: Of the intervals.
        paired: Whether the errors come from the subjects' own differences; if not, they are the upper bound
            SE_a + SE_b, or those of two groups (:meth:`.Audit.group_difference`).
        unstated: Context fields that neither result states, on whose agreement the reader has to rely.
    """

    difference: float
    standard_error: float
    interval: tuple[float, float]
    violation_rate_difference: float
    violation_rate_standard_error: float
    violation_rate_interval: tuple[float, float]
    p_value: float
    violation_rate_p_value: float
    level: float
    paired: bool
    unstated: tuple[str, ...]


def compare(a: AuditResult, b: AuditResult, level: float = 0.95) -> Comparison:
    """Return the difference in Bias and violation rate of two models audited on the same subjects.

    With influences z^a_s and z^b_s summed per subject, the standard error of Bias_a − Bias_b is that of the
    summed influences z^a_s − z^b_s (:class:`.SubjectSpread`): what both models find hard about a subject
    cancels. Where a result carries no influences (audited without subjects, or read from JSON without them)
    the errors are SE_a + SE_b, which no dependence between the two can exceed. Sampled audits add the noise
    of their pair draws; both drew the same pairs, so it is that of the violations' differences per draw.

    Args:
        a: Audit of one model.
        b: Audit of the other.
        level: Of the confidence intervals, in (0, 1).

    Raises:
        ComparabilityError: Dataset, split, tasks, score definition, pools, protocol, pair seed, pool size,
            number of pairs or tolerance differ; the message names the first field that does.
        InputError: A level outside (0, 1).
    """
    for name, result in (("a", a), ("b", b)):
        if not isinstance(result, AuditResult):
            raise InputError(f"{name} must be an audit result, not a {type(result).__name__}")
    _require_comparable(a, b)
    errors = {kind: _error(a, b, kind) for kind in KINDS}
    return comparison(a, b, errors, level, paired=a.influences is not None and b.influences is not None)


def comparison(
    a: AuditResult, b: AuditResult, errors: dict[Kind, tuple[float, float]], level: float, *, paired: bool
) -> Comparison:
    """Return a − b from the standard error of each difference and its degrees of freedom."""
    found: dict[str, Any] = {}
    for kind, name in zip(KINDS, ("", "violation_rate_"), strict=True):
        difference = getattr(a, kind) - getattr(b, kind)
        error, freedom = errors[kind]
        pairs = min(a.effective_pairs, b.effective_pairs)
        bounds = difference_interval(difference, error, level, freedom, pairs, a.widest(kind))
        found |= {f"{name}difference": difference, f"{name}standard_error": error, f"{name}interval": bounds}
        found[f"{name}p_value"] = p_value(difference, error, freedom)
    facts = picked(a.context, "dataset", "split", "score_definition")
    unstated = tuple(name for name, value in facts.items() if value is None)
    return Comparison(level=level, paired=paired, unstated=unstated, **found)


def _error(a: AuditResult, b: AuditResult, kind: Kind) -> tuple[float, float]:
    """Return the standard error of a − b, paired by subject and draw where known, and its freedom."""
    if a.influences is None or b.influences is None:
        error = float(getattr(a, f"{kind}_se") + getattr(b, f"{kind}_se"))
        return error, min(getattr(a, f"{kind}_freedom"), getattr(b, f"{kind}_freedom"))
    by_subject, freedom = combined_error(a.influences.scaled(kind) - b.influences.scaled(kind), a.freedom)
    place = KINDS.index(kind)
    if a.draws is None or b.draws is None:
        return math.hypot(by_subject, a.draw_errors[place] + b.draw_errors[place]), freedom
    differences = a.draws[:, place].astype(np.float64) - b.draws[:, place]
    by_draw = math.sqrt(differences.var(axis=1).sum() / differences.shape[1]) / len(differences)
    return math.hypot(by_subject, by_draw), freedom


def _require_comparable(a: AuditResult, b: AuditResult) -> None:
    for field, of_a, of_b in (
        ("dataset", a.context.dataset, b.context.dataset),
        ("split", a.context.split, b.context.split),
        ("tasks", a.tasks, b.tasks),
        ("score definition", a.context.score_definition, b.context.score_definition),
        ("protocol", a.protocol, b.protocol),
        ("pool sizes", a.samples, b.samples),
        ("pool", a.pool_fingerprint, b.pool_fingerprint),
        ("pair seed", a.pair_seed, b.pair_seed),
        ("pool size", a.pool_size, b.pool_size),
        ("number of pairs", a.pairs, b.pairs),
        ("tolerance", a.tolerances, b.tolerances),
    ):
        if of_a != of_b:
            mend = "audit both on the same samples with the same ruler"
            if field in ("dataset", "split") and None in (of_a, of_b):
                mend = "state it for both (the shell reads it from --meta)"
            both = listed(map(repr, (of_a, of_b)), " against ")
            raise ComparabilityError(
                f"these audits cannot be compared, their {field} differs: {both}; {mend}"
            )


def drift_budget(reference: Tolerance, induced: Mapping[Pair, float]) -> float:
    """Return D = mean ``|δ_ij − δ*_ij|`` over the task pairs of ``induced``.

    Args:
        reference: The fixed tolerance δ*, one number or one per pair.
        induced: The method's tolerance δ per pair, as :func:`induced_tolerances` gives it.

    By theorem B.1 a method's Bias at its own tolerances differs from its Bias at the reference by at most D.

    Raises:
        InputError: No pairs, one that is there twice or differs between the two, or a tolerance that
            :func:`audit` refuses.

    >>> round(drift_budget(0.25, {("a", "b"): 0.2, ("a", "c"): 0.4}), 6)
    0.1
    """
    if not isinstance(induced, Mapping) or not induced:
        raise InputError("a drift budget needs the tolerance of at least one task pair")
    own = {frozenset(pair): value for pair, value in pair_tolerances(induced, "induced tolerance").items()}
    if isinstance(reference, Mapping):
        checked = pair_tolerances(reference, "reference tolerance")
        held = {frozenset(pair): value for pair, value in checked.items()}
        if held.keys() != own.keys():
            differing = sorted(tuple(sorted(pair)) for pair in held.keys() ^ own.keys())
            raise InputError(f"reference and induced tolerances name different pairs: {listed(differing)}")
    else:
        held = dict.fromkeys(own, checked_tolerance(reference, "reference tolerance"))
    return float(np.mean([abs(own[pair] - held[pair]) for pair in own]))


@dataclass(frozen=True)
class RankingCertificate:
    """Whether the order of two methods at the fixed tolerance must hold when each uses its own.

    Attributes:
        margin: ``|Bias_a − Bias_b|`` at the fixed tolerance.
        budget: Sum of both drift budgets.
        certified: Whether margin > budget.
        lower: The method with the lower Bias.
    """

    margin: float
    budget: float
    certified: bool
    lower: Literal["a", "b", "tie"]


def ranking_certificate(bias_a: float, bias_b: float, budget_a: float, budget_b: float) -> RankingCertificate:
    """Return whether two methods' gap at a fixed tolerance exceeds the drift that their own ones allow.

    Args:
        bias_a: Bias of method a at the fixed tolerance, ≥ 0.
        bias_b: The same for b, same tolerance.
        budget_a: Drift budget of a (:func:`drift_budget`) against that tolerance, ≥ 0.
        budget_b: The same for b.

    Theorem B.2: if ``|Bias_a − Bias_b| > D_a + D_b``, auditing each method at its own tolerance keeps their
    order; not certified does not mean that the order flips.

    Raises:
        InputError: A value that is negative or not finite.

    >>> ranking_certificate(0.10, 0.30, 0.05, 0.10).certified
    True
    """
    values = {"bias_a": bias_a, "bias_b": bias_b, "budget_a": budget_a, "budget_b": budget_b}
    for name, value in values.items():
        if not is_number(value) or not math.isfinite(value) or value < 0:
            raise InputError(f"{name} must be finite and at least 0, got {value!r}")
    margin, budget = abs(bias_a - bias_b), budget_a + budget_b
    lower: Literal["a", "b", "tie"] = "tie" if bias_a == bias_b else "a" if bias_a < bias_b else "b"
    return RankingCertificate(margin=margin, budget=budget, certified=margin > budget, lower=lower)
