"""What Bias says about two marginal distributions: its parts, its bounds over couplings, shrinking."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from relif_core.audit.door import is_number
from relif_core.audit.exact import pair_terms
from relif_core.audit.pools import Pools, checked_scores, checked_tolerance
from relif_core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class BiasParts:
    """The two parts of Bias (theorem T3).

    Attributes:
        spread: ½B(X, X′) + ½B(Y, Y′), X′ an independent copy of X: the Bias that each pool has with itself.
        mismatch: The rest; at δ = 0 it is ∫(F_i − F_j)² ≥ 0, for δ > 0 it can be negative.
    """

    spread: float
    mismatch: float

    @property
    def bias(self) -> float:
        """The Bias of the pair, the sum of the two parts."""
        return self.spread + self.mismatch


def bias_parts(first: Any, second: Any, tolerance: float = 0.0) -> BiasParts:
    """Split the exact Bias of two pools into spread within the pools and mismatch between them (theorem T3).

    Args:
        first: Scores in [0, 1] of two tasks.
        second: Scores in [0, 1] of two tasks.
        tolerance: δ. At 0 the spread is half the sum of the two Gini mean differences over all n² ordered
            pairs and the mismatch is half the energy distance (Székely and Rizzo 2013).

    Raises:
        InputError: Scores or a tolerance that :func:`audit` refuses.

    >>> bias_parts([0.0, 1.0], [0.0, 1.0])
    BiasParts(spread=0.5, mismatch=0.0)
    """
    delta = checked_tolerance(tolerance, "tolerance")
    x, y = Pools.of({"first": first, "second": second}).sorted().values()
    spread = (pair_terms(x, x, delta).bias + pair_terms(y, y, delta).bias) / 2
    return BiasParts(spread=spread, mismatch=pair_terms(x, y, delta).bias - spread)


def coupling_bounds(first: Any, second: Any, tolerance: float) -> tuple[float, float]:
    """Return the least and greatest ``E(|X − Y| − δ)₊`` over all pairings of equal lists (theorem T4).

    The least pairs both in ascending order (comonotone), the greatest one ascending with the other descending
    (Cambanis, Simons and Stout 1976). Same-subject and independent Bias of the people lie between.

    Args:
        first: Scores in [0, 1] of the same people in two tasks, in any order.
        second: Likewise.
        tolerance: δ.

    Raises:
        InputError: Scores or a tolerance that :func:`audit` refuses, or lists of different lengths.

    >>> coupling_bounds([0.0, 1.0], [1.0, 0.0], 0.25)
    (0.0, 0.75)
    """
    delta = checked_tolerance(tolerance, "tolerance")
    x, y = (pool.values for pool in Pools.of({"first": first, "second": second}).sorted().values())
    if len(x) != len(y):
        raise InputError(
            f"a coupling needs two lists of one length, got {len(x)} and {len(y)}; keep the common subjects"
        )
    low, high = (float(np.maximum(np.abs(x - other) - delta, 0).mean()) for other in (y, y[::-1]))
    return low, high


def shrunk(scores: Mapping[str, Any], amount: float, centre: float) -> dict[str, np.ndarray]:
    """Return (1 − ε)p + εc for every task (theorem T2): ranks stay, Bias becomes (1 − ε)·B(δ/(1 − ε)).

    Args:
        scores: Task name to scores in [0, 1].
        amount: ε in [0, 1].
        centre: c in [0, 1], one for all tasks.

    Raises:
        InputError: Scores that :func:`audit` refuses, or ε or c outside [0, 1].
    """
    for name, value in (("amount", amount), ("centre", centre)):
        if not is_number(value) or not 0 <= value <= 1:
            raise InputError(f"{name} must be a number in [0, 1], got {value!r}")
    return {
        task: (1 - amount) * values.astype(np.float64) + amount * centre
        for task, values in checked_scores(scores).items()
    }
