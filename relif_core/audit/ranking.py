"""How far a method's own ruler drifts from the reference, and when an order of methods survives it."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from relif_core.audit.pools import Pair, Tolerance, checked_tolerance, pair_tolerances
from relif_core.errors import InputError


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
            raise InputError(f"reference and induced tolerances name different pairs: {differing}")
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
    """Compare the gap of two methods at a fixed tolerance with the drift that their own tolerances allow.

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
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise InputError(f"{name} must be finite and at least 0, got {value!r}")
    margin, budget = abs(bias_a - bias_b), budget_a + budget_b
    lower: Literal["a", "b", "tie"] = "tie" if bias_a == bias_b else "a" if bias_a < bias_b else "b"
    return RankingCertificate(margin=margin, budget=budget, certified=margin > budget, lower=lower)
