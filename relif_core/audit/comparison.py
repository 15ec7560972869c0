"""Comparing two audit results: only if they were measured with one ruler, and paired by subject."""

import math
from dataclasses import dataclass

from relif_core.audit.result import AuditResult
from relif_core.audit.uncertainty import clustered_error, interval
from relif_core.errors import ComparabilityError


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference a − b of two comparable audits, with standard errors and intervals at ``level``.

    ``paired`` tells whether the errors come from the subjects' own differences; if not, they are the upper bound
    SE_a + SE_b. ``unstated`` names the context fields that neither result states, on whose agreement the reader
    has to rely.
    """

    difference: float
    standard_error: float
    interval: tuple[float, float]
    violation_rate_difference: float
    violation_rate_standard_error: float
    violation_rate_interval: tuple[float, float]
    level: float
    paired: bool
    unstated: tuple[str, ...]


def compare(a: AuditResult, b: AuditResult, level: float = 0.95) -> Comparison:
    """Return the difference in Bias and violation rate of two models audited on the same subjects.

    With influences z^a_s and z^b_s summed per subject, the standard error of Bias_a − Bias_b is
    sqrt(G/(G−1) · Σ_s (z^a_s − z^b_s)²): what both models find hard about a subject cancels. Where a result
    carries no influences (audited without subjects, or read from JSON without them) the errors are SE_a + SE_b,
    which no dependence between the two can exceed. Sampled audits add the noise of their pair draws.

    Raises:
        ComparabilityError: dataset, split, tasks, score definition, pools, protocol, pair seed, pool size, number
            of pairs or tolerance differ; the message names the first field that does.
        InputError: a level outside (0, 1).
    """
    _require_comparable(a, b)
    if a.influences is not None and b.influences is not None:
        paired = True
        bias_error, rate_error = (
            math.hypot(clustered_error(shares, a.clusters), draws_a, draws_b)
            for shares, draws_a, draws_b in zip(
                (
                    a.influences.bias - b.influences.bias,
                    a.influences.violation_rate - b.influences.violation_rate,
                ),
                a.draw_errors,
                b.draw_errors,
                strict=True,
            )
        )
    else:
        paired = False
        bias_error = a.bias_se + b.bias_se
        rate_error = a.violation_rate_se + b.violation_rate_se
    difference, rate_difference = a.bias - b.bias, a.violation_rate - b.violation_rate
    freedom = min(a.freedom, b.freedom)
    return Comparison(
        difference=difference,
        standard_error=bias_error,
        interval=interval(difference, bias_error, level, freedom),
        violation_rate_difference=rate_difference,
        violation_rate_standard_error=rate_error,
        violation_rate_interval=interval(rate_difference, rate_error, level, freedom),
        level=level,
        paired=paired,
        unstated=tuple(
            name for name in ("dataset", "split", "score_definition") if getattr(a.context, name) is None
        ),
    )


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
            raise ComparabilityError(
                f"these audits cannot be compared, their {field} differs: {of_a!r} against {of_b!r}; "
                "audit both with the same ruler"
            )
