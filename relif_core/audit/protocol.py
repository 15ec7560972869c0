"""The audit itself: from scores and a tolerance to a result, under the exact or the sampled protocol."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from relif_core.audit import compiled
from relif_core.audit.door import columns, is_frame, over_tasks
from relif_core.audit.exact import Ranks, pair_terms
from relif_core.audit.groups import audit_groups
from relif_core.audit.pools import Pair, Pools, Tolerance, checked_integer, checked_labels
from relif_core.audit.result import AuditContext, AuditResult, PairAudit
from relif_core.audit.sorting import stable_order
from relif_core.audit.subject_ids import fingerprint, subject_codes
from relif_core.audit.uncertainty import SampleSpread, SubjectSpread
from relif_core.errors import InputError, listed

#: From so many tasks on, all pools are ranked together.
MANY_TASKS = 6
#: Groups are audited together until they have so many samples: few calls, small arrays.
TOGETHER = 1 << 17


def audit(
    scores: Any,
    tolerance: Tolerance,
    *,
    subjects: Any = None,
    protocol: str = "exact",
    pair_seed: int = 42,
    pool_size: int = 256,
    pairs: int = 4096,
    groups: Any = None,
    weights: Any = None,
    context: AuditContext | Mapping[str, Any] | None = None,
) -> AuditResult:
    """Measure Bias and violation rate of a multi-task model at fixed tolerances.

    Args:
        scores: Task name to one-dimensional audit scores in [0, 1], one per valid sample; at least two tasks.
            Arrays, lists, pandas and polars Series, torch tensors. Masked samples are in no pool. In a data
            frame each column that ``subjects``, ``groups`` and ``weights`` do not name is a task, and an
            empty cell is in no pool.
        tolerance: δ, one number for every task pair or a mapping (task_i, task_j) to number.
        subjects: Task name to subject ids (integers or text) aligned with the scores. Samples of one subject,
            in whichever pools, count as one independent unit; without ids every sample does. Two pandas
            Series are aligned by index. With a data frame: the name of a column, or one array for all tasks;
            without, every row is a subject of its own.
        protocol: "exact" evaluates all n_i · n_j pairs; "sampled" draws pools and pairs as the authors'
            released implementation does, number for number, so that published values can be compared.
        pair_seed: Settings of the sampled protocol; the exact one ignores them.
        pool_size: Likewise; with weights pools are whole.
        pairs: Likewise.
        groups: Task name to group labels aligned with the scores (or as ``subjects``); every group is audited
            by itself as well.
        weights: Task name to weights aligned with the scores (or as ``subjects``), at least 0: a pool's
            samples are drawn in proportion to them, and a subject's share is that of its weights. Sampled
            pairs are then drawn from whole pools: one of ``pool_size`` would make the estimate biased.
        context: What the numbers belong to (:class:`AuditContext`); checked when results are compared.

    For a task pair i < j with x and y drawn independently from pools i and j::

        Bias_ij = E[max(0, |x − y| − δ_ij)],   VR_ij = P(|x − y| > δ_ij)

    The result averages both over task pairs. Exact: O(n log n) time and O(n) memory per pair. Standard
    errors come from influences summed per subject (:class:`.SubjectSpread`); under the sampled protocol the
    variance of the pair draws is added.

    Raises:
        InputError: Fewer than two tasks; an empty pool; a wrong shape; missing scores or scores outside [0,
            1]; a tolerance that is negative, NaN, above 1 or misses a pair; subjects or groups misaligned
            with the scores or missing; an unknown protocol; a pool size or number of pairs below 1.

    >>> result = audit({"mortality": [0.1, 0.9], "stay": [0.2, 0.3]}, 0.25)
    >>> round(result.bias, 6), result.violation_rate
    (0.2, 0.5)
    """
    if is_frame(scores):
        scores, subjects, groups, weights = _from_frame(scores, subjects, groups, weights)
    pools = Pools.of(scores, tolerance, subjects, weights)
    stated = AuditContext.of(context)
    if protocol not in ("exact", "sampled"):
        raise InputError(f"protocol {protocol!r} is unknown; use 'exact' or 'sampled'")
    sampling = _Sampling(pair_seed, pool_size, pairs) if protocol == "sampled" else None
    result = replace(_audit(pools, sampling, stated), notes=tuple(pools.notes))
    if groups is None:
        return result
    labels = checked_labels(groups, pools.scores, "groups")
    parts, left_out = _audit_groups(pools, labels, sampling, stated)
    return replace(result, groups=parts, groups_left_out=left_out)


def _from_frame(frame: Any, subjects: Any, groups: Any, weights: Any) -> tuple[Any, Any, Any, Any]:
    """Split a data frame into its task columns, and spread what belongs to its rows over the tasks."""
    named = tuple(name for name in (subjects, groups, weights) if isinstance(name, str))
    tasks = list(columns(frame, named))
    given = (np.arange(len(frame)) if subjects is None else subjects, groups, weights)
    of_rows = (over_tasks(labels, tasks, frame, "column") for labels in given)
    return frame[tasks], *of_rows


@dataclass(frozen=True)
class _Sampling:
    pair_seed: int
    pool_size: int
    pairs: int

    def __post_init__(self) -> None:
        for name, least in (("pair_seed", 0), ("pool_size", 1), ("pairs", 1)):
            checked_integer(getattr(self, name), name, least)

    def draw(self, pools: Pools) -> "tuple[Pools, dict[Pair, _Draws]]":
        """Return the sampled pools and each task pair's drawn pairs, as the released implementation draws.

        One generator draws the pools without replacement, those of up to ``pool_size`` and weighted ones are
        whole. Then it draws per task pair the positions in the first pool and those in the second, uniformly
        with replacement or in proportion to weights. Gaps are evaluated in float32.
        """
        generator, drawn = np.random.default_rng(self.pair_seed), {}
        if not pools.weights:
            chosen = {task: np.arange(size) for task, size in pools.sizes.items()}
            for task, size in pools.sizes.items():
                if size > self.pool_size:
                    chosen[task] = generator.choice(size, self.pool_size, replace=False)
            pools = pools.taken(chosen)

        def values(task: str) -> np.ndarray:
            own, mass = pools.scores[task], pools.weights.get(task)
            if mass is None:
                places = generator.integers(0, len(own), self.pairs)
            else:
                places = generator.choice(len(own), self.pairs, p=mass / mass.sum())
            return own[places].astype(np.float32)

        for (i, j), delta in pools.tolerances.items():
            gap, tolerance = np.abs(values(i) - values(j)), np.float32(delta)
            drawn[i, j] = _Draws(np.maximum(gap - tolerance, np.float32(0)), gap > tolerance)
        return pools, drawn


@dataclass(frozen=True, eq=False)
class _Draws:
    """Of every drawn pair the violation max(0, |x − y| − δ), float32 [pairs], and whether there is one."""

    violations: np.ndarray
    violated: np.ndarray

    def estimates(self) -> tuple[float, float, np.ndarray]:
        """Return Bias, violation rate and the variances [2] of drawing."""
        violations = self.violations.astype(np.float64)
        variance = np.array([violations.var(), self.violated.var()]) / len(violations)
        return float(violations.mean()), float(self.violated.mean()), variance


def _audit(pools: Pools, sampling: _Sampling | None, context: AuditContext) -> AuditResult:
    used, draws = sampling.draw(pools) if sampling else (pools, {})
    if used.weights and used.ids is None:
        used = used.apart()
    tolerances, sizes = used.tolerances, used.sizes
    fast = compiled.loaded((len(sizes) - 1) * sum(sizes.values()))
    many = len(sizes) >= MANY_TASKS and len(set(tolerances.values())) == 1
    ranks = Ranks(used) if many and not used.weights and not fast else None
    ordered = ranks.pools if ranks else used.sorted()
    spread: SubjectSpread | SampleSpread = (
        SampleSpread(ordered, len(tolerances))
        if used.ids is None
        else SubjectSpread(ordered, used.ids, len(tolerances))
    )
    rows, draw_variance, pairs = [], np.zeros(2), int(sampling.pairs) if sampling else None
    for pair, delta in tolerances.items():
        within = (ranks.within(pair, delta), ranks.within(pair[::-1], delta)) if ranks else None
        terms = pair_terms(ordered[pair[0]], ordered[pair[1]], delta, within)
        bias, rate, variance = terms.bias, terms.violation_rate, np.zeros(2)
        if pair in draws:
            bias, rate, variance = draws[pair].estimates()
        found = spread.add(pair, terms).fields(variance, pairs)
        samples = len(terms.first[0]), len(terms.second[0])
        rows.append(
            PairAudit(tasks=pair, tolerance=delta, samples=samples, bias=bias, violation_rate=rate, **found)
        )
        draw_variance += variance / len(tolerances) ** 2
    by_subject = spread if isinstance(spread, SubjectSpread) and pools.ids is not None else None
    whole = spread.total()
    return AuditResult(
        context=context,
        tasks=tuple(sizes),
        protocol="sampled" if sampling else "exact",
        pair_seed=int(sampling.pair_seed) if sampling else None,
        pool_size=int(sampling.pool_size) if sampling and not pools.weights else None,
        pairs=pairs,
        samples=pools.sizes,
        pool_fingerprint=_fingerprint(pools, by_subject, ordered=sampling is not None),
        clustered_by="subject" if by_subject else "sample",
        freedom=whole.freedom,
        bias=math.fsum(row.bias for row in rows) / len(rows),
        violation_rate=math.fsum(row.violation_rate for row in rows) / len(rows),
        draw_errors=(math.sqrt(draw_variance[0]), math.sqrt(draw_variance[1])),
        per_pair=tuple(rows),
        influences=by_subject.influences() if by_subject else None,
        draws=np.array([[d.violations, d.violated] for d in draws.values()]) if draws else None,
        **whole.fields(draw_variance, pairs),
    )


def _fingerprint(pools: Pools, spread: SubjectSpread | None, *, ordered: bool) -> str:
    """Hash which subjects lie in which pool, how often and how heavy; sampled pools also in which order.

    ``spread`` has counted every subject's samples already, unless they were sampled or weighted.
    """
    counted = spread.counts if spread and not ordered and not pools.weights else None

    def members() -> Iterator[np.ndarray]:
        for task, own in pools.codes.items():
            yield own if ordered else counted[task] if counted else np.bincount(own, minlength=pools.people)
        for task, own in pools.weights.items():
            held = own if ordered else np.sort(own)
            if pools.codes and not ordered:
                held = np.bincount(pools.codes[task], own, pools.people)
            yield held / own.sum()

    return fingerprint(pools.sizes, pools.ids, members())


def _audit_groups(
    pools: Pools, labels: dict[str, np.ndarray], sampling: _Sampling | None, context: AuditContext
) -> tuple[dict[str, AuditResult], dict[str, str]]:
    """Audit every group by itself, many together where exact and unweighted; tell which are left out."""
    names, codes = subject_codes(labels)
    numbers = {task: np.bincount(own, minlength=len(names)) for task, own in codes.items()}
    left_out: dict[str, str] = {}
    full = np.min(list(numbers.values()), axis=0) > 0
    for group in np.flatnonzero(~full).tolist():
        empty = [task for task, number in numbers.items() if number[group] == 0]
        left_out[str(names[group])] = f"no sample in the pools of {listed(empty)}"
    if pools.weights:
        held = [np.bincount(codes[task], own, len(names)) for task, own in pools.weights.items()]
        light = full & (np.min(held, axis=0) == 0)
        left_out.update(dict.fromkeys(map(str, names[light]), "no sample of some pool has a weight above 0"))
        full &= ~light
    kept = [str(name) for name in names[full].tolist()]
    if not kept:
        return {}, left_out
    ends = {task: np.append(0, np.cumsum(number[full])) for task, number in numbers.items()}
    order = {task: stable_order(own) for task, own in codes.items()}
    if left_out:
        order = {task: own[full[codes[task][own]]] for task, own in order.items()}
    together = not sampling and not pools.weights
    edges = [
        0,
        *(np.flatnonzero(np.diff(np.sum(list(ends.values()), axis=0)[1:] // TOGETHER)) + 1).tolist(),
        len(kept),
    ]
    results: dict[str, AuditResult] = {}
    for first, last in pairwise(edges if together else range(len(kept) + 1)):
        part = pools.taken({task: own[ends[task][first] : ends[task][last]] for task, own in order.items()})
        if together:
            groups = {
                task: np.repeat(np.arange(last - first), np.diff(own[first : last + 1]))
                for task, own in ends.items()
            }
            results |= audit_groups(part, groups, kept[first:last], context)
        else:
            results[kept[first]] = _audit(part, sampling, context)
    return results, left_out
