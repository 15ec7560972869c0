"""The audit itself: from scores and a tolerance to a result, under the exact or the sampled protocol."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from relif_core.audit import compiled
from relif_core.audit.door import columns, is_frame
from relif_core.audit.exact import PairTerms, pair_terms
from relif_core.audit.groups import audit_groups
from relif_core.audit.pools import (
    Pair,
    Pool,
    Tolerance,
    checked_integer,
    checked_labels,
    checked_scores,
    checked_tolerances,
    checked_weights,
    sorted_pool,
    sorted_pool_with_codes,
    task_pairs,
    weighted_pool,
)
from relif_core.audit.ranks import Ranks
from relif_core.audit.result import AuditContext, AuditResult, PairAudit
from relif_core.audit.sampled import SampledPair, sampled_pairs, sampled_pools
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
    checked = checked_scores(scores)
    tasks = tuple(checked)
    tolerances = checked_tolerances(tolerance, tasks)
    notes = [
        *checked.notes,
        *(f"no gap can exceed the tolerance 1 of {pair}" for pair, value in tolerances.items() if value == 1),
    ]
    if weights is not None:
        notes.append("samples are drawn in proportion to their weights")
    stated = AuditContext.of(context)
    if protocol not in ("exact", "sampled"):
        raise InputError(f"protocol {protocol!r} is unknown; use 'exact' or 'sampled'")
    sampling = _Sampling(pair_seed, pool_size, pairs) if protocol == "sampled" else None
    ids = checked_labels(subjects, checked, "subjects") if subjects is not None else None
    held = checked_weights(weights, checked) if weights is not None else None
    result = replace(_audit(checked, tolerances, ids, sampling, stated, held), notes=tuple(notes))
    if groups is None:
        return result
    labels = checked_labels(groups, checked, "groups")
    parts, left_out = _audit_groups(checked, tolerances, ids, sampling, stated, held, labels)
    return replace(result, groups=parts, groups_left_out=left_out)


def _from_frame(frame: Any, subjects: Any, groups: Any, weights: Any) -> tuple[Any, Any, Any, Any]:
    """Split a data frame into its task columns, and spread what belongs to its rows over the tasks."""
    named = tuple(name for name in (subjects, groups, weights) if isinstance(name, str))
    tasks = list(columns(frame, named))

    def of_rows(labels: Any) -> Any:
        if labels is None or isinstance(labels, Mapping):
            return labels
        return dict.fromkeys(tasks, frame[labels] if isinstance(labels, str) else labels)

    rows = np.arange(len(frame)) if subjects is None else subjects
    return frame[tasks], of_rows(rows), of_rows(groups), of_rows(weights)


@dataclass(frozen=True)
class _Sampling:
    pair_seed: int
    pool_size: int
    pairs: int

    def __post_init__(self) -> None:
        for name, least in (("pair_seed", 0), ("pool_size", 1), ("pairs", 1)):
            checked_integer(getattr(self, name), name, least)


@dataclass(frozen=True, eq=False)
class _Clusters:
    """Distinct subject ids [G] and, per task, each sample's index into them."""

    ids: np.ndarray
    codes: dict[str, np.ndarray]


def _audit(
    scores: dict[str, np.ndarray],
    tolerances: dict[Pair, float],
    subjects: dict[str, np.ndarray] | None,
    sampling: _Sampling | None,
    context: AuditContext,
    weights: dict[str, np.ndarray] | None,
) -> AuditResult:
    clusters = _Clusters(*subject_codes(subjects)) if subjects is not None else None
    used, codes, draws = scores, clusters.codes if clusters else None, None
    if sampling:
        used, codes, draws = _sample(scores, codes, tolerances, sampling, weights)
    ranks = None
    fast = compiled.loaded((len(used) - 1) * sum(map(len, used.values())))
    if not weights and not fast and len(used) >= MANY_TASKS and len(set(tolerances.values())) == 1:
        ranks = Ranks(used)
        pools = ranks.pools
        ordered = {task: codes[task][order] for task, order in ranks.orders.items()} if codes else {}
        spread = _spread(pools, ordered, clusters, len(tolerances))
    elif weights is None:
        pools, spread = _sorted(used, codes, clusters, len(tolerances))
    else:
        pools, spread = _weighted(used, weights, clusters, len(tolerances))
    rows, draw_variance = [], np.zeros(2)
    for pair in task_pairs(list(pools)):
        delta = tolerances[pair]
        within = (ranks.within(pair, delta), ranks.within(pair[::-1], delta)) if ranks else None
        terms = pair_terms(pools[pair[0]], pools[pair[1]], delta, within)
        row, variance = _audit_pair(pair, delta, terms, spread, draws[pair] if draws else None)
        rows.append(row)
        draw_variance += variance / len(tolerances) ** 2
    found = spread.total()
    by_subject = spread if isinstance(spread, SubjectSpread) and clusters else None
    counts = by_subject.counts if by_subject and not (weights or sampling) else None
    bias_se, rate_se = np.sqrt(found.errors**2 + draw_variance).tolist()
    bias_freedom, rate_freedom = found.freedoms.tolist()
    return AuditResult(
        context=context,
        tasks=tuple(scores),
        protocol="sampled" if sampling else "exact",
        pair_seed=int(sampling.pair_seed) if sampling else None,
        pool_size=int(sampling.pool_size) if sampling and not weights else None,
        pairs=int(sampling.pairs) if sampling else None,
        samples={task: len(values) for task, values in scores.items()},
        pool_fingerprint=_fingerprint(scores, clusters, weights, counts, ordered=sampling is not None),
        clustered_by="subject" if clusters else "sample",
        clusters=found.units,
        freedom=found.freedom,
        bias_freedom=bias_freedom,
        violation_rate_freedom=rate_freedom,
        effective_pairs=min(found.effective_pairs, sampling.pairs if sampling else math.inf),
        bias=math.fsum(row.bias for row in rows) / len(rows),
        violation_rate=math.fsum(row.violation_rate for row in rows) / len(rows),
        bias_se=bias_se,
        violation_rate_se=rate_se,
        draw_errors=(math.sqrt(draw_variance[0]), math.sqrt(draw_variance[1])),
        per_pair=tuple(rows),
        influences=by_subject.influences() if by_subject else None,
        draws=np.array([[d.violations, d.violated] for d in draws.values()]) if draws else None,
    )


def _sample(
    scores: dict[str, np.ndarray],
    codes: dict[str, np.ndarray] | None,
    tolerances: dict[Pair, float],
    sampling: _Sampling,
    weights: dict[str, np.ndarray] | None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None, dict[Pair, SampledPair]]:
    """Return the sampled pools, the subject codes of their samples and the drawn pairs."""
    generator = np.random.default_rng(sampling.pair_seed)
    if weights:
        return scores, codes, sampled_pairs(scores, tolerances, sampling.pairs, generator, weights)
    chosen = sampled_pools({task: len(pool) for task, pool in scores.items()}, sampling.pool_size, generator)
    used = {task: scores[task][chosen[task]] for task in scores}
    return (
        used,
        {task: codes[task][chosen[task]] for task in scores} if codes else None,
        sampled_pairs(used, tolerances, sampling.pairs, generator),
    )


def _sorted(
    scores: dict[str, np.ndarray],
    codes: dict[str, np.ndarray] | None,
    clusters: _Clusters | None,
    pairs: int,
) -> tuple[dict[str, Pool], SubjectSpread | SampleSpread]:
    """Sort every pool once and prepare the standard errors that fit what is known of its samples."""
    if codes is None:
        pools, ordered = {task: sorted_pool(values) for task, values in scores.items()}, {}
    else:
        carried = {task: sorted_pool_with_codes(scores[task], codes[task]) for task in scores}
        pools = {task: pool for task, (pool, _) in carried.items()}
        ordered = {task: own for task, (_, own) in carried.items()}
    return pools, _spread(pools, ordered, clusters, pairs)


def _spread(
    pools: dict[str, Pool], codes: dict[str, np.ndarray], clusters: _Clusters | None, pairs: int
) -> SubjectSpread | SampleSpread:
    return SubjectSpread(pools, codes, clusters.ids, pairs) if clusters else SampleSpread(pools, pairs)


def _weighted(
    scores: dict[str, np.ndarray], weights: dict[str, np.ndarray], clusters: _Clusters | None, pairs: int
) -> tuple[dict[str, Pool], SubjectSpread]:
    """As ``_sorted`` with weights; without subjects every sample is a subject of its own."""
    if clusters is None:
        ends = np.cumsum([len(values) for values in scores.values()]).tolist()
        codes = {
            task: np.arange(end - len(scores[task]), end) for task, end in zip(scores, ends, strict=True)
        }
        clusters = _Clusters(np.arange(ends[-1]), codes)
    carried = {task: weighted_pool(scores[task], weights[task], clusters.codes[task]) for task in scores}
    pools = {task: pool for task, (pool, _) in carried.items()}
    return pools, SubjectSpread(pools, {task: own for task, (_, own) in carried.items()}, clusters.ids, pairs)


def _audit_pair(
    pair: Pair,
    tolerance: float,
    terms: PairTerms,
    spread: SubjectSpread | SampleSpread,
    draws: SampledPair | None,
) -> tuple[PairAudit, np.ndarray]:
    """Return the row of one task pair and the variances [2] that drawing pairs adds to it."""
    found = spread.add(pair, terms)
    bias, rate, variance = _estimates(terms, draws)
    bias_se, rate_se = np.sqrt(found.errors**2 + variance).tolist()
    bias_freedom, rate_freedom = found.freedoms.tolist()
    row = PairAudit(
        tasks=pair,
        tolerance=tolerance,
        samples=(len(terms.bias_first), len(terms.bias_second)),
        clusters=found.units,
        bias_freedom=bias_freedom,
        violation_rate_freedom=rate_freedom,
        effective_pairs=found.effective_pairs
        if draws is None
        else min(found.effective_pairs, len(draws.first)),
        bias=bias,
        violation_rate=rate,
        bias_se=bias_se,
        violation_rate_se=rate_se,
    )
    return row, variance


def _estimates(terms: PairTerms, draws: SampledPair | None) -> tuple[float, float, np.ndarray]:
    if draws is None:
        return terms.bias, terms.violation_rate, np.zeros(2)
    violations = draws.violations.astype(np.float64)
    variance = np.array([violations.var(), draws.violated.var()]) / len(violations)
    return float(violations.mean()), float(draws.violated.mean()), variance


def _fingerprint(
    scores: dict[str, np.ndarray],
    clusters: _Clusters | None,
    weights: dict[str, np.ndarray] | None,
    counts: dict[str, np.ndarray] | None,
    *,
    ordered: bool,
) -> str:
    """Hash which subjects lie in which pool, how often and how heavy; sampled pools also in which order.

    ``counts`` are the numbers of samples per task and subject, where they are known.
    """
    sizes = {task: len(values) for task, values in scores.items()}
    count = len(clusters.ids) if clusters else 0

    def members() -> Iterator[np.ndarray]:
        for task, own in clusters.codes.items() if clusters else ():
            yield own if ordered else counts[task] if counts else np.bincount(own, minlength=count)
        for task, own in (weights or {}).items():
            in_order = own if ordered else np.sort(own)
            held = np.bincount(clusters.codes[task], own, count) if clusters and not ordered else in_order
            yield held / own.sum()

    return fingerprint(sizes, clusters.ids if clusters else None, members())


def _audit_groups(
    scores: dict[str, np.ndarray],
    tolerances: dict[Pair, float],
    subjects: dict[str, np.ndarray] | None,
    sampling: _Sampling | None,
    context: AuditContext,
    weights: dict[str, np.ndarray] | None,
    labels: dict[str, np.ndarray],
) -> tuple[dict[str, AuditResult], dict[str, str]]:
    """Audit every group by itself, many together where exact and unweighted; tell which are left out."""
    names, codes = subject_codes(labels)
    numbers = {task: np.bincount(own, minlength=len(names)) for task, own in codes.items()}
    held = {task: np.bincount(codes[task], own, len(names)) for task, own in (weights or {}).items()}
    left_out: dict[str, str] = {}
    full = np.min(list(numbers.values()), axis=0) > 0
    for group in np.flatnonzero(~full).tolist():
        empty = [task for task, number in numbers.items() if number[group] == 0]
        left_out[str(names[group])] = f"no sample in the pools of {listed(empty)}"
    if held:
        light = full & (np.min(list(held.values()), axis=0) == 0)
        left_out.update(dict.fromkeys(map(str, names[light]), "no sample of some pool has a weight above 0"))
        full &= ~light
    kept = [str(name) for name in names[full].tolist()]
    if not kept:
        return {}, left_out
    ends = {task: np.append(0, np.cumsum(number[full])) for task, number in numbers.items()}
    order = {task: stable_order(own) for task, own in codes.items()}
    if left_out:
        order = {task: own[full[codes[task][own]]] for task, own in order.items()}
    together = not sampling and not weights
    edges = [
        0,
        *(np.flatnonzero(np.diff(np.sum(list(ends.values()), axis=0)[1:] // TOGETHER)) + 1).tolist(),
        len(kept),
    ]
    results: dict[str, AuditResult] = {}
    for first, last in pairwise(edges if together else range(len(kept) + 1)):
        places = {task: own[ends[task][first] : ends[task][last]] for task, own in order.items()}
        own, own_ids, own_weights = (
            {task: values[task][place] for task, place in places.items()} if values else None
            for values in (scores, subjects, weights)
        )
        assert own is not None
        if together:
            parts = {
                task: np.repeat(np.arange(last - first), np.diff(ends[task][first : last + 1]))
                for task in own
            }
            results |= audit_groups(own, parts, kept[first:last], tolerances, own_ids, context)
        else:
            results[kept[first]] = _audit(own, tolerances, own_ids, sampling, context, own_weights)
    return results, left_out
