"""The exact protocol: Bias and violation rate over all n_i·n_j pairs of two pools, never formed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import sub
from typing import Any

import numpy as np

from relif_core.audit import compiled
from relif_core.audit.pools import (
    Pair,
    Pool,
    Pools,
    checked_numbers,
    checked_tolerance,
    task_pairs,
)
from relif_core.audit.sorting import sorted_with_order
from relif_core.errors import InputError

_ONE = np.uint64(1)
_BLOCK = 1 << 15
_SMALL = 1 << 12


@dataclass(frozen=True, eq=False)
class PairTerms:
    """Exact Bias and violation rate of one task pair and what each sample contributes to them.

    Attributes:
        bias: Mean excess over all pairs.
        violation_rate: Share of violating pairs.
        first: E_y[(|x − y| − δ)_+] and P_y(|x − y| > δ) of each x of the first pool, ascending, both [n_i].
        second: The same for the second pool [n_j].
    """

    bias: float
    violation_rate: float
    first: tuple[np.ndarray, np.ndarray]
    second: tuple[np.ndarray, np.ndarray]

    def kinds(self) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        """Return (first terms, second terms, their mean) of Bias, then of the violation rate."""
        return zip(self.first, self.second, (self.bias, self.violation_rate), strict=True)


def pair_terms(
    first: Pool, second: Pool, tolerance: float, within: tuple[np.ndarray, np.ndarray] | None = None
) -> PairTerms:
    """Return exact Bias, violation rate and per-sample means of one task pair in O(n_i + n_j).

    For x of the first pool let a be the number of y with y − x > δ and b the number with x − y > δ. With
    prefix sums S of the n_j sorted scores y,

        E_y[(|x − y| − δ)_+] = (S[n_j] − S[n_j − a] − a(x + δ) + b(x − δ) − S[b]) / n_j,
        P_y(|x − y| > δ) = (a + b) / n_j,

    and the means over x are Bias and violation rate. Gap and comparison are those of float64 arithmetic:
    a pair counts exactly when ``abs(x - y) > tolerance`` is true. ``within`` are, where they are known, the
    numbers of y up to x + δ for each x, and of x up to y + δ for each y.
    """
    if first.weights is not None and second.weights is not None:
        return _weighted_terms(first, second, tolerance)
    own, its = ((np.empty(pool.size), np.empty(pool.size)) for pool in (first, second))
    reached = own[0].view(np.int64), its[0].view(np.int64)
    exceeded = own[1].view(np.int64), its[1].view(np.int64)
    if within is None:
        passes().cross_both(first.values, second.values, _ends(first, second), tolerance, reached, exceeded)
    else:
        for up_to, known, under in zip(reached, within, reversed(exceeded), strict=True):
            up_to[:] = known
            np.cumsum(np.bincount(up_to, minlength=len(under) + 1)[:-1], out=under)
    violations = 2 * first.size * second.size - sum(int(up_to.sum()) for up_to in reached)
    passes().sample_terms(first.values, second.prefix, tolerance, *own)
    passes().sample_terms(second.values, first.prefix, tolerance, *its)
    bias = max(0.0, float(own[0].mean())) if violations else 0.0
    return PairTerms(bias, violations / (first.size * second.size), own, its)


def _weighted_terms(first: Pool, second: Pool, tolerance: float) -> PairTerms:
    """Return :func:`pair_terms` of weighted pools: x and y are drawn in proportion to their weights."""
    own = _weighted_means(first.values, second, tolerance)
    its = _weighted_means(second.values, first, tolerance)
    bias, rate = (float(first.weights @ means) for means in own)
    return PairTerms(max(0.0, bias) if rate > 0 else 0.0, min(1.0, rate), own, its)


def _weighted_means(values: np.ndarray, other: Pool, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return E_y[(|x − y| − δ)_+] and P_y(|x − y| > δ) for each x, y weighted."""
    own: np.ndarray = other.weights  # type: ignore[assignment]  # only weighted pools come here
    weights: np.ndarray = np.concatenate(([0.0], np.cumsum(own)))
    sums = np.concatenate(([0.0], np.cumsum(own * other.values)))
    inside = np.searchsorted(other.values, reach(values, tolerance), "right")
    under = np.searchsorted(reach(other.values, tolerance), values, "left")
    above, below = weights[-1] - weights[inside], weights[under]
    excess = sums[-1] - sums[inside] - above * (values + tolerance) + below * (values - tolerance)
    return excess - sums[under], above + below


def sample_terms(
    values: np.ndarray, prefix: np.ndarray, tolerance: float, excess: np.ndarray, rate: np.ndarray
) -> None:
    """Write E_y[(|x − y| − δ)_+] and P_y(|x − y| > δ) for each x over the counts that are their sources.

    ``excess``, read as int64, comes with the number of the other pool's scores up to x + δ, ``rate`` with
    the number of those more than δ under x; ``prefix`` are the other pool's prefix sums.
    """
    size = len(prefix) - 1
    for part in _blocks(len(values)):
        own, inside, under = values[part], excess[part].view(np.int64), rate[part].view(np.int64)
        if inside[0] == size and under[-1] == 0:
            excess[part] = rate[part] = 0
            continue
        mean = prefix.take(inside)
        mean += prefix.take(under)
        np.subtract(prefix[-1], mean, out=mean)
        above = np.subtract(size, inside).astype(np.float64)
        below = under.astype(np.float64)
        reached = own + tolerance
        reached *= above
        mean -= reached
        np.subtract(own, tolerance, out=reached)
        reached *= below
        mean += reached
        above += below
        np.divide(mean, size, out=excess[part])
        np.divide(above, size, out=rate[part])


def cross_both(
    first: np.ndarray,
    second: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    tolerance: float,
    within: tuple[np.ndarray, np.ndarray],
    exceeded: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    """Count across both ways, part by part of two arrays that consist of parts, each ascending.

    Parts end at ``ends``; ``within`` and ``exceeded`` receive, for the first array and for the second, the
    numbers of :func:`cross`: of the other array's scores of the same part up to x + δ, and of those under
    x − δ.
    """
    for k, (low, high) in enumerate(((first, second), (second, first))):
        if len(ends[k]) == 1:
            cross(low, high, tolerance, within[k], exceeded[1 - k] if exceeded else None)
            continue
        own, its = (np.append(0, ends[side]) for side in (k, 1 - k))
        top = reach(low, tolerance)
        for (start, end), (begin, stop) in zip(pairwise(own.tolist()), pairwise(its.tolist()), strict=True):
            within[k][start:end] = high[begin:stop].searchsorted(top[start:end], "right")
        if exceeded:
            places = within[k] + np.repeat(its[:-1], np.diff(own))
            before = np.cumsum(np.bincount(places, minlength=len(high) + 1)[:-1])
            np.subtract(before, np.repeat(own[:-1], np.diff(its)), out=exceeded[1 - k])


def cross(
    low: np.ndarray,
    high: np.ndarray,
    tolerance: float,
    within: np.ndarray | None,
    exceeded: np.ndarray | None,
) -> None:
    """Merge ``low`` + δ with ``high`` (both ascending) and count across, in blocks that fit the cache.

    ``within``, if given, receives for each x in ``low`` the number of y in ``high`` with y − x ≤ δ;
    ``exceeded`` for each y in ``high`` the number of x in ``low`` with y − x > δ. Only scores that some other
    exceeds, or that exceed some other, are merged. The bits of a non-negative float64 sort as its value does
    and leave the top bit free: shifted by one they make room for the origin, and a stable sort of two runs is
    one linear merge.
    """
    if len(low) + len(high) < _SMALL:
        top = reach(low, tolerance)
        if within is not None:
            within[:] = np.searchsorted(high, top, "right")
        if exceeded is not None:
            exceeded[:] = np.searchsorted(top, high)
        return
    end = int(np.searchsorted(low, high[-1] - tolerance + compiled.ROUNDING, "right"))
    edges = np.searchsorted(high, reach(low[:end:_BLOCK], tolerance), "right").tolist()
    edges.append(int(np.searchsorted(high, low[max(end, 1) - 1] + tolerance + compiled.ROUNDING)))
    if within is not None:
        within[end:] = len(high)
    if exceeded is not None:
        exceeded[: edges[0]] = 0
        exceeded[edges[-1] :] = end
    room = np.empty(_BLOCK + max(map(sub, edges[1:], edges), default=0), dtype=np.uint64)
    for part, (first, last) in zip(_blocks(end), pairwise(edges), strict=True):
        values = low[part.start : min(part.stop, end)]
        keys = room[: len(values) + last - first]
        np.left_shift(reach(values, tolerance).view(np.uint64), _ONE, out=keys[: len(values)])
        keys[: len(values)] |= _ONE
        np.left_shift(high[first:last].view(np.uint64), _ONE, out=keys[len(values) :])
        keys.sort(kind="stable")
        from_low = (keys.astype(np.uint8) & 1).view(bool)
        if within is not None:
            within[part.start : part.start + len(values)] = _strangers_before(from_low, first)
        if exceeded is not None:
            exceeded[first:last] = _strangers_before(~from_low, part.start)


def _strangers_before(mine: np.ndarray, more: int) -> np.ndarray:
    """Return for each true entry how many false ones stand before it, and ``more``."""
    places = np.flatnonzero(mine)
    places -= np.arange(-more, len(places) - more)
    return places


def _blocks(size: int) -> Iterator[slice]:
    """Cut a range into parts whose temporary arrays stay in the processor's cache."""
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


def powers(values: np.ndarray, centre: float) -> tuple[float, float]:
    """Return Σ (x − centre)² and Σ (x − centre)⁴."""
    square = values - centre
    np.square(square, out=square)
    return float(square.sum()), float(np.einsum("i,i", square, square))


def subject_sums(
    summed: np.ndarray,
    codes: np.ndarray,
    means: tuple[np.ndarray, np.ndarray],
    centres: tuple[float, float],
    weights: np.ndarray,
) -> None:
    """Add each sample's two terms, less their centres and times its weight, to its subject's sums [2, G]."""
    for own, terms, centre in zip(summed, means, centres, strict=True):
        centred = terms - centre
        centred *= weights
        own += np.bincount(codes, centred, len(own))


def reach(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the largest float64 t with ``t - x <= tolerance`` in float64 arithmetic, for each x ≥ 0.

    x + δ rounds, so it can lie one step to either side of t; stepping is adding to a positive number's bits.
    """
    top = values + tolerance
    bits = top.view(np.int64)
    down = top - values > tolerance
    up = (bits + 1).view(np.float64) - values <= tolerance
    bits -= down
    bits += up
    return top


class Ranks:
    """The pools of all tasks, each sorted, and where each score's reach ends in the order of all of them.

    With p the number of all scores z with z − x ≤ δ, the scores y of one pool with y − x ≤ δ are those among
    the first p of the common order: a bit per score and pool, and a count per 64 of them, tell their number
    without a search.

    Attributes:
        pools: As :meth:`.Pools.sorted` returns them; samples have no weights.
    """

    def __init__(self, given: Pools) -> None:
        scores = given.scores
        values = np.concatenate(list(scores.values()), dtype=np.float64)
        values += 0.0
        self._values, order = sorted_with_order(values)
        sizes = [len(own) for own in scores.values()]
        starts = np.cumsum([0, *sizes[:-1]])
        kind = np.uint8 if len(sizes) <= 256 else np.uint16
        task = np.repeat(np.arange(len(sizes), dtype=kind), sizes)[order]
        places = np.split(np.argsort(task, kind="stable"), starts[1:])
        self._places = dict(zip(scores, places, strict=True))
        self.pools = {
            name: Pool(
                self._values[place], codes=given.codes[name][order[place] - start] if given.codes else None
            )
            for name, place, start in zip(scores, places, starts, strict=True)
        }
        bits = np.zeros((len(sizes), -(-(len(values) + 1) // 64) * 64), dtype=bool)
        bits[task, np.arange(len(values))] = True
        words = np.packbits(bits, axis=1, bitorder="little").view("<u8")
        before = np.cumsum(np.bitwise_count(words), axis=1, dtype=np.int64)
        before -= np.bitwise_count(words)
        self._words = dict(zip(scores, zip(words, before, strict=True), strict=True))
        self._tolerance: float | None = None
        self._reached: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def within(self, pair: Pair, tolerance: float) -> np.ndarray:
        """Return for each x of the first pool how many scores of the second lie up to x + δ."""
        if tolerance != self._tolerance:
            reached = np.empty(len(self._values), dtype=np.int64)
            cross(self._values, self._values, tolerance, reached, None)
            self._tolerance = tolerance
            self._reached = {
                task: (ends >> 6, (_ONE << (ends & 63).astype(np.uint64)) - _ONE)
                for task, ends in ((task, reached[place]) for task, place in self._places.items())
            }
        place, mask = self._reached[pair[0]]
        words, before = self._words[pair[1]]
        mask = words.take(place) & mask
        return before.take(place) + np.bitwise_count(mask)


@dataclass(frozen=True, eq=False)
class BiasCurve:
    """Exact Bias and violation rate as functions of the tolerance.

    Bias is convex, falling and piecewise linear in δ with slope −VR(δ); VR is a falling step function.

    Attributes:
        tolerances: δ [D].
        bias: [D].
        violation_rate: [D].
        per_pair: Task pair → its (bias, violation_rate), each [D].
    """

    tolerances: np.ndarray
    bias: np.ndarray
    violation_rate: np.ndarray
    per_pair: dict[Pair, tuple[np.ndarray, np.ndarray]]

    def lists(self) -> dict[str, list[float]]:
        """Return both curves and their tolerances, ascending, as JSON holds them."""
        order = np.argsort(self.tolerances, kind="stable")
        names = "tolerances", "bias", "violation_rate"
        return {name: getattr(self, name)[order].tolist() for name in names}

    def plot(self, axes: Any = None) -> Any:
        """Draw both curves with matplotlib, on ``axes`` or on new ones, and return the axes."""
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots()[1]
        tolerances, bias, rate = self.lists().values()
        axes.plot(tolerances, bias, label="Bias")
        axes.plot(tolerances, rate, label="violation rate")
        axes.set(xlabel="tolerance δ", ylim=(0, None))
        axes.legend()
        return axes


def bias_curve(
    scores: Mapping[str, Any],
    tolerances: Sequence[float] | np.ndarray,
    *,
    weights: Mapping[str, Any] | None = None,
) -> BiasCurve:
    """Return exact Bias and violation rate at every given tolerance, with one sort for all of them.

    Args:
        scores: Task name to one-dimensional scores in [0, 1]; at least two tasks.
        tolerances: [D] tolerances in [0, 1], in any order; each holds for every task pair.
        weights: Task name to weights aligned with the scores, at least 0; without, all samples weigh alike.

    One linear merge per tolerance and task pair, and memory linear in the pools.

    Raises:
        InputError: Scores or a tolerance that :func:`audit` refuses.

    >>> bias_curve({"a": [0.0, 1.0], "b": [0.5]}, [0.0, 0.25, 0.5]).bias
    array([0.5 , 0.25, 0.  ])
    """
    deltas = checked_numbers(tolerances, "tolerances", 1)
    if deltas.size == 0:
        raise InputError("tolerances must be a non-empty list of numbers")
    for position, value in enumerate(deltas):
        checked_tolerance(value, f"tolerance at position {position}")
    pools = Pools.of(scores, weights=weights).sorted()
    per_pair = {(i, j): _pair_curve(pools[i], pools[j], deltas) for i, j in task_pairs(list(pools))}
    return BiasCurve(
        tolerances=deltas,
        bias=np.mean([bias for bias, _ in per_pair.values()], axis=0),
        violation_rate=np.mean([rate for _, rate in per_pair.values()], axis=0),
        per_pair=per_pair,
    )


def _pair_curve(first: Pool, second: Pool, deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if first.weights is not None or first.size + second.size <= _SMALL:
        found = [pair_terms(first, second, delta) for delta in deltas.tolist()]
        return np.array([one.bias for one in found]), np.array([one.violation_rate for one in found])
    bias, rate = np.zeros(len(deltas)), np.zeros(len(deltas))
    within = np.empty(first.size, dtype=np.int64), np.empty(second.size, dtype=np.int64)
    use = passes(len(deltas) * (first.size + second.size))
    for position, delta in enumerate(deltas.tolist()):
        use.cross_both(first.values, second.values, _ends(first, second), delta, within, None)
        beyond, above = use.one_sided(first.values, second.prefix, delta, within[0])
        excess, violations = use.one_sided(second.values, first.prefix, delta, within[1])
        excess, violations = beyond + excess, above + violations
        if violations:
            bias[position] = max(0.0, excess / (first.size * second.size))
            rate[position] = violations / (first.size * second.size)
    return bias, rate


def one_sided(
    values: np.ndarray, prefix: np.ndarray, tolerance: float, within: np.ndarray
) -> tuple[float, int]:
    """Return Σ_x Σ_y (y − x − δ)_+ and the number of pairs with y − x > δ, from those of y up to x + δ."""
    size = len(prefix) - 1
    excess, violations = 0.0, 0
    for part in _blocks(len(values)):
        inside = within[part]
        if inside[0] == size:
            break
        above = np.subtract(size, inside)
        violations += int(above.sum())
        reached = values[part] + tolerance
        reached *= above.astype(np.float64)
        reached += prefix.take(inside)
        excess += float(np.subtract(prefix[-1], reached, out=reached).sum())
    return excess, violations


_NUMPY = compiled.Passes(cross_both, sample_terms, one_sided, powers, subject_sums)


def passes(work: int = 0) -> compiled.Passes:
    """Return the compiled passes where :func:`.compiled.loaded` has them, else NumPy's."""
    return compiled.loaded(work) or _NUMPY


def _ends(first: Pool, second: Pool) -> tuple[np.ndarray, np.ndarray]:
    return np.array([first.size]), np.array([second.size])
