"""Thousands of groups at the cost of a few audits: sorted together, summed part by part, never one by one."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from relif_core.audit.exact import PairTerms, passes
from relif_core.audit.pools import Pair, Pools
from relif_core.audit.result import AuditContext, AuditResult, PairAudit
from relif_core.audit.sorting import sorted_with_order, stable_order
from relif_core.audit.subject_ids import fingerprint, subject_codes
from relif_core.audit.uncertainty import NO_VARIATION, Influences, Spread

_INTEGER_BITS = 62


class Parts:
    """Consecutive, non-empty parts of an array, by their ``sizes`` [G]; ``starts`` and ``ends`` are [G]."""

    def __init__(self, sizes: np.ndarray) -> None:
        self.sizes, self.ends = sizes, np.cumsum(sizes)
        self.starts = self.ends - sizes

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of each part, [G]."""
        return np.add.reduceat(values, self.starts)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Return each part's value [G] for all of its entries."""
        return np.repeat(values, self.sizes)


def audit_groups(
    pools: Pools, groups: Mapping[str, np.ndarray], names: list[str], context: AuditContext
) -> dict[str, AuditResult]:
    """Audit each group of unweighted pools by itself: group name → result, with a single audit's errors.

    ``groups`` are per task the samples' codes [n], ascending, indices into ``names``; every task has each.
    """
    scores, tolerances = pools.scores, pools.tolerances
    parts = {task: Parts(np.bincount(own, minlength=len(names))) for task, own in groups.items()}
    spread: _Samples | _Subjects
    if pools.ids is None:
        spread = _Samples(parts, len(tolerances))
        values = {task: _sorted(own, parts[task]) for task, own in scores.items()}
    else:
        orders = {task: sorted_with_order(own)[1] for task, own in scores.items()}
        orders = {task: own[stable_order(groups[task][own])] for task, own in orders.items()}
        spread = _Subjects(parts, groups, pools, orders)
        values = {task: own[orders[task]] + 0.0 for task, own in scores.items()}
    values = {task: own.astype(np.float64, copy=False) for task, own in values.items()}
    sums = {task: _integer_sums(own, parts[task].sizes.max()) for task, own in values.items()}
    sizes = {task: part.sizes.tolist() for task, part in parts.items()}
    rows = []
    for pair, tolerance in tolerances.items():
        terms = _terms(values, parts, sums, pair, tolerance)
        found = spread.add(pair, terms)
        estimates = found.fields() | {"bias": terms.bias, "violation_rate": terms.violation_rate}
        both = zip(*(sizes[task] for task in pair), strict=True)
        rows.append(
            [
                PairAudit(tasks=pair, tolerance=tolerance, samples=samples, **own)
                for samples, own in zip(both, _by_group(estimates), strict=True)
            ]
        )
    whole = spread.total()
    overall = _by_group(whole.fields() | {"freedom": whole.freedom})
    results = {}
    for group, (name, per_pair, own) in enumerate(zip(names, zip(*rows, strict=True), overall, strict=True)):
        samples = {task: size[group] for task, size in sizes.items()}
        ids, counts, influences = spread.subjects(group)
        results[name] = AuditResult(
            context=context,
            tasks=tuple(scores),
            protocol="exact",
            pair_seed=None,
            pool_size=None,
            pairs=None,
            samples=samples,
            pool_fingerprint=fingerprint(samples, ids, counts),
            clustered_by="sample" if pools.ids is None else "subject",
            bias=math.fsum([row.bias for row in per_pair]) / len(per_pair),
            violation_rate=math.fsum([row.violation_rate for row in per_pair]) / len(per_pair),
            draw_errors=(0.0, 0.0),
            per_pair=per_pair,
            influences=influences,
            **own,
        )
    return results


def _by_group(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each group's own of columns [G]."""
    rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _sorted(scores: np.ndarray, parts: Parts) -> np.ndarray:
    """Sort each part."""
    values = scores + 0.0
    for start, end in zip(parts.starts.tolist(), parts.ends.tolist(), strict=True):
        values[start:end].sort()
    return values


def _integer_sums(values: np.ndarray, most: int) -> tuple[np.ndarray, float]:
    """Return prefix sums [n + 1] of scores as integers, and their unit.

    Integers wrap around, so the difference of two within a part of at most ``most`` scores is exact.
    """
    unit = 2.0 ** -min(52, _INTEGER_BITS - int(most).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(np.rint(values / unit).astype(np.int64), out=sums[1:])
    return sums, unit


def _terms(
    values: Mapping[str, np.ndarray],
    parts: Mapping[str, Parts],
    sums: Mapping[str, tuple[np.ndarray, float]],
    pair: Pair,
    tolerance: float,
) -> PairTerms:
    """Return what :func:`~relif_core.audit.exact.pair_terms` does, for every group: bias and rate are [G]."""
    first, second = (values[task] for task in pair)
    within, exceeded = (
        (np.empty(len(first), dtype=np.int64), np.empty(len(second), dtype=np.int64)) for _ in range(2)
    )
    ends = parts[pair[0]].ends, parts[pair[1]].ends
    passes().cross_both(first, second, ends, tolerance, within, exceeded)
    sides = []
    for (own, other), inside, under in zip((pair, pair[::-1]), within, exceeded, strict=True):
        mine, its, (prefix, unit) = parts[own], parts[other], sums[other]
        start, above = mine.spread(its.starts), mine.spread(its.sizes)
        above -= inside
        total = mine.spread(prefix[its.ends] + prefix[its.starts])
        total -= prefix.take(np.add(inside, start, out=inside))
        total -= prefix.take(np.add(under, start, out=start))
        bias = total * unit
        bias -= above * (values[own] + tolerance)
        bias += under * (values[own] - tolerance)
        above += under
        numbers = mine.sums(above)
        bias[above == 0] = 0  # no rounding of the unit where nothing exceeds
        size = mine.spread(1 / its.sizes)
        bias *= size
        sides.append((bias, above * size))
    first, second = (parts[task].sizes for task in pair)
    bias = np.maximum(0.0, parts[pair[0]].sums(sides[0][0]) / first)
    return PairTerms(bias, numbers / (first * second), *sides)


def _freedoms(variance: np.ndarray, excess: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Return :func:`~relif_core.audit.uncertainty.satterthwaite_freedom` of arrays."""
    fewer = (excess * most > 2 * variance**2) & ~(variance <= NO_VARIATION**2)
    return np.divide(2 * variance**2, excess, out=most.astype(np.float64), where=fewer)


class _Samples:
    """As :class:`~relif_core.audit.uncertainty.SampleSpread`, group by group."""

    def __init__(self, parts: Mapping[str, Parts], pairs: int) -> None:
        self._parts, self._pairs = parts, pairs
        sizes = {task: part.ends[-1] if pairs > 1 else 0 for task, part in parts.items()}
        self._means = [{task: np.zeros(size) for task, size in sizes.items()} for _ in range(2)]
        self._last: Spread | None = None

    def add(self, pair: Pair, terms: PairTerms) -> Spread:
        kinds = [dict(zip(pair, means[:2], strict=True)) for means in terms.kinds()]
        if self._pairs > 1:
            for held, means in zip(self._means, kinds, strict=True):
                for task, own in means.items():
                    held[task] += own
        self._last = self._spread(kinds, 1)
        return self._last

    def total(self) -> Spread:
        if self._last is not None and self._pairs == 1:
            return self._last
        return self._spread(self._means, self._pairs)

    def _spread(self, kinds: list[dict[str, np.ndarray]], pairs: int) -> Spread:
        sizes = np.array([self._parts[task].sizes for task in kinds[0]])
        freedom = sizes.sum(axis=0) - len(sizes)
        errors, freedoms = [], []
        for means in kinds:
            variance, excess = np.zeros(len(freedom)), np.zeros(len(freedom))
            for task, own in means.items():
                part = self._parts[task]
                n = part.sizes
                square = np.square(own - part.spread(part.sums(own) / n))
                with np.errstate(divide="ignore", invalid="ignore"):
                    scale = np.where(n > 1, 1 / (n * (n - 1) * pairs**2), np.nan)
                summed = part.sums(square)
                variance += summed * scale
                excess += (part.sums(np.square(square)) - summed**2 / n) * scale**2
            errors.append(np.sqrt(variance))
            freedoms.append(np.where(np.isnan(variance), np.nan, _freedoms(variance, excess, freedom)))
        return Spread(np.array(errors), np.array(freedoms), sizes.sum(axis=0), freedom, sizes.min(axis=0))

    def subjects(self, group: int) -> tuple[None, tuple[()], None]:
        return None, (), None


class _Subjects:
    """As :class:`~relif_core.audit.uncertainty.SubjectSpread`; a subject in two groups is one in each."""

    def __init__(
        self,
        parts: Mapping[str, Parts],
        groups: Mapping[str, np.ndarray],
        pools: Pools,
        orders: Mapping[str, np.ndarray],
    ) -> None:
        self._parts, self._pairs, people = parts, len(pools.tolerances), pools.people
        cells, places = subject_codes(
            {task: own * people + pools.codes[task] for task, own in groups.items()}
        )
        self._ids = np.asarray(pools.ids)[cells % people]
        self._codes = {task: places[task][orders[task]] for task in parts}
        self._cells = Parts(np.bincount(cells // people))
        self._counts = {task: np.bincount(own, minlength=len(cells)) for task, own in places.items()}
        self._shares = {
            task: own / self._cells.spread(parts[task].sizes) for task, own in self._counts.items()
        }
        self._effective = {
            task: parts[task].sizes ** 2 / self._cells.sums(np.square(own, dtype=np.float64))
            for task, own in self._counts.items()
        }
        self._total = np.zeros((2, len(cells)))

    def add(self, pair: Pair, terms: PairTerms) -> Spread:
        both = np.zeros_like(self._total)
        for summed, (*sides, mean) in zip(both, terms.kinds(), strict=True):
            for task, means in zip(pair, sides, strict=True):
                part = self._parts[task]
                centred = (means - part.spread(np.asarray(mean))) / part.spread(part.sizes)
                summed += np.bincount(self._codes[task], centred, len(summed))
        found = self._spread(both, pair)
        both /= self._pairs
        self._total += both
        return found

    def total(self) -> Spread:
        return self._spread(self._total, self._shares)

    def _spread(self, summed: np.ndarray, tasks: Iterable[str]) -> Spread:
        names = list(tasks)
        share = np.max([self._shares[task] for task in names], axis=0)
        effective = np.min([self._effective[task] for task in names], axis=0)
        units = self._cells.sums((share > 0).astype(np.int64))
        largest = np.maximum.reduceat(share, self._cells.starts)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where((units > 1) & (largest < 1), (units - 1) / units, np.nan)
            square = np.square(summed / (1 - share)) * self._cells.spread(scale)
        variance = np.array([self._cells.sums(own) for own in square])
        excess = np.array([self._cells.sums(np.square(own)) for own in square]) - variance**2 / units
        freedoms = np.array([_freedoms(*own, effective - 1) for own in zip(variance, excess, strict=True)])
        return Spread(np.sqrt(variance), freedoms, units, effective - 1, effective / 2)

    def subjects(self, group: int) -> tuple[np.ndarray, tuple[np.ndarray, ...], Influences]:
        here = slice(int(self._cells.starts[group]), int(self._cells.ends[group]))
        share = np.max([own[here] for own in self._shares.values()], axis=0)
        influences = Influences(self._ids[here], share, *self._total[:, here])
        return self._ids[here], tuple(own[here] for own in self._counts.values()), influences
