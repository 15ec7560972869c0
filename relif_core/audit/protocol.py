"""The audit itself: from scores and a tolerance to a result, under the exact or the sampled protocol."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from relif_core.audit.exact import PairTerms, pair_terms
from relif_core.audit.pools import (
    Pair,
    Pool,
    Tolerance,
    checked_labels,
    checked_scores,
    checked_tolerances,
    sorted_pool,
    subject_codes,
    task_pairs,
)
from relif_core.audit.result import AuditContext, AuditResult, PairAudit
from relif_core.audit.sampled import SampledPair, sampled_pairs, sampled_pools
from relif_core.audit.uncertainty import Influences, clustered_error, independent_variance, subject_influences
from relif_core.errors import InputError


def audit(
    scores: Mapping[str, Any],
    tolerance: Tolerance,
    *,
    subjects: Mapping[str, Any] | None = None,
    protocol: str = "exact",
    pair_seed: int = 42,
    pool_size: int = 256,
    pairs: int = 4096,
    groups: Mapping[str, Any] | None = None,
    context: AuditContext | Mapping[str, Any] | None = None,
) -> AuditResult:
    """Measure Bias and violation rate of a multi-task model at fixed tolerances.

    Args:
        scores: task name to one-dimensional audit scores in [0, 1], one per valid sample; at least two tasks.
        tolerance: δ, one number for every task pair or a mapping (task_i, task_j) to number.
        subjects: task name to subject ids (integers or text) aligned with the scores. Samples of one subject, in
            whichever pools, count as one independent unit; without ids every sample does.
        protocol: "exact" evaluates all n_i · n_j pairs; "sampled" draws pools and pairs as the authors' released
            implementation does, number for number, so that published values can be compared.
        pair_seed, pool_size, pairs: settings of the sampled protocol; the exact one ignores them.
        groups: task name to group labels aligned with the scores; every group is audited by itself as well.
        context: what the numbers belong to (:class:`AuditContext`); checked when results are compared.

    For a task pair i < j with x and y drawn independently from pools i and j,

        Bias_ij = E[max(0, |x − y| − δ_ij)],   VR_ij = P(|x − y| > δ_ij),

    and the result averages both over task pairs. Exact: O(n log n) time and O(n) memory per pair. Standard
    errors come from influences summed per subject (:func:`subject_influences`); under the sampled protocol the
    variance of the pair draws is added.

    Raises:
        InputError: fewer than two tasks; an empty pool; a wrong shape; NaN or scores outside [0, 1]; a tolerance
            that is negative, NaN or misses a pair; subjects or groups misaligned with the scores; an unknown
            protocol; a pool size or number of pairs below 1.

    >>> result = audit({"mortality": [0.1, 0.9], "stay": [0.2, 0.3]}, 0.25)
    >>> round(result.bias, 6), result.violation_rate
    (0.2, 0.5)
    """
    checked = checked_scores(scores)
    tasks = tuple(checked)
    tolerances = checked_tolerances(tolerance, tasks)
    stated = AuditContext.of(context)
    if protocol not in ("exact", "sampled"):
        raise InputError(f"protocol {protocol!r} is unknown; use 'exact' or 'sampled'")
    sampling = _Sampling(pair_seed, pool_size, pairs) if protocol == "sampled" else None
    ids = checked_labels(subjects, checked, "subjects") if subjects is not None else None
    result = _audit(checked, tolerances, ids, sampling, stated)
    if groups is None:
        return result
    labels = checked_labels(groups, checked, "groups")
    parts, left_out = _audit_groups(checked, tolerances, ids, sampling, stated, labels)
    return AuditResult(**{**vars(result), "groups": parts, "groups_left_out": left_out})


@dataclass(frozen=True)
class _Sampling:
    pair_seed: int
    pool_size: int
    pairs: int

    def __post_init__(self) -> None:
        for name, least in (("pair_seed", 0), ("pool_size", 1), ("pairs", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} must be an integer of at least {least}, got {value!r}")


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
) -> AuditResult:
    clusters = _Clusters(*subject_codes(subjects)) if subjects is not None else None
    draws: dict[Pair, SampledPair] | None = None
    used, codes = scores, clusters.codes if clusters else None
    if sampling:
        generator = np.random.default_rng(sampling.pair_seed)
        chosen = sampled_pools(
            {task: len(pool) for task, pool in scores.items()}, sampling.pool_size, generator
        )
        used = {task: scores[task][chosen[task]] for task in scores}
        codes = {task: codes[task][chosen[task]] for task in scores} if codes else None
        draws = sampled_pairs(used, tolerances, sampling.pairs, generator)
    pools = {task: sorted_pool(used[task], codes[task] if codes else None) for task in used}
    tally = _Tally(pools, len(clusters.ids) if clusters else None, len(tolerances))
    for pair in task_pairs(list(pools)):
        tally.add(pair, tolerances[pair], draws[pair] if draws else None)
    return AuditResult(
        context=context,
        tasks=tuple(scores),
        protocol="sampled" if sampling else "exact",
        pair_seed=int(sampling.pair_seed) if sampling else None,
        pool_size=int(sampling.pool_size) if sampling else None,
        pairs=int(sampling.pairs) if sampling else None,
        samples={task: len(values) for task, values in scores.items()},
        pool_fingerprint=_fingerprint(scores, clusters, ordered=sampling is not None),
        influences=tally.influences(clusters.ids) if clusters else None,
        **tally.summary(),
    )


class _Tally:
    """Adds up task pairs: estimates with equal weight, influences per subject, variance of pair draws."""

    def __init__(self, pools: dict[str, Pool], subjects: int | None, pairs: int) -> None:
        self.pools = pools
        self.subjects = subjects
        self.weight = 1 / pairs
        self.rows: list[PairAudit] = []
        self.draw_variance = np.zeros(2)
        self.shares = np.zeros((2, subjects or 0))
        self.sample_means = {
            task: np.zeros((2, 0 if subjects else pool.size)) for task, pool in pools.items()
        }
        self.present = {
            task: np.bincount(pool.codes, minlength=subjects) > 0
            for task, pool in pools.items()
            if subjects is not None and pool.codes is not None
        }

    def add(self, pair: Pair, tolerance: float, draws: SampledPair | None) -> None:
        first, second = self.pools[pair[0]], self.pools[pair[1]]
        terms = pair_terms(first, second, tolerance)
        bias, rate, draw_variance = _estimates(terms, draws)
        if self.subjects is None:
            errors, clusters = self._sample_errors(pair, terms), first.size + second.size
        else:
            shares = np.stack(subject_influences(terms, first, second, self.subjects))
            self.shares += self.weight * shares
            clusters = int(np.count_nonzero(self.present[pair[0]] | self.present[pair[1]]))
            errors = np.array([clustered_error(share, clusters) for share in shares])
        self.draw_variance += self.weight**2 * draw_variance
        bias_se, rate_se = np.sqrt(errors**2 + draw_variance).tolist()
        self.rows.append(
            PairAudit(
                tasks=pair,
                tolerance=tolerance,
                samples=(first.size, second.size),
                clusters=clusters,
                bias=bias,
                violation_rate=rate,
                bias_se=bias_se,
                violation_rate_se=rate_se,
            )
        )

    def _sample_errors(self, pair: Pair, terms: PairTerms) -> np.ndarray:
        """Also add the pair's per-sample means, which later pairs share, to the pools they belong to."""
        variance = np.zeros(2)
        for task, means in (
            (pair[0], (terms.bias_first, terms.rate_first)),
            (pair[1], (terms.bias_second, terms.rate_second)),
        ):
            for kind, values in enumerate(means):
                self.sample_means[task][kind] += self.weight * values
                variance[kind] += independent_variance(values)
        return np.sqrt(variance)

    def summary(self) -> dict[str, Any]:
        """Return the fields of a result that average over pairs."""
        if self.subjects is None:
            variance = sum(
                np.array([independent_variance(values) for values in means])
                for means in self.sample_means.values()
            )
            clusters = sum(pool.size for pool in self.pools.values())
            freedom = clusters - len(self.pools)
        else:
            clusters = int(np.count_nonzero(np.logical_or.reduce(list(self.present.values()))))
            variance = np.array([clustered_error(share, clusters) ** 2 for share in self.shares])
            freedom = clusters - 1
        bias_se, rate_se = np.sqrt(variance + self.draw_variance).tolist()
        return {
            "clustered_by": "sample" if self.subjects is None else "subject",
            "clusters": clusters,
            "freedom": freedom,
            "bias": math.fsum(row.bias for row in self.rows) * self.weight,
            "violation_rate": math.fsum(row.violation_rate for row in self.rows) * self.weight,
            "bias_se": bias_se,
            "violation_rate_se": rate_se,
            "per_pair": tuple(self.rows),
        }

    def influences(self, ids: np.ndarray) -> Influences:
        """Return the influences of the subjects whose samples were audited."""
        used = np.logical_or.reduce(list(self.present.values()))
        return Influences(ids[used], self.shares[0][used], self.shares[1][used])


def _estimates(terms: PairTerms, draws: SampledPair | None) -> tuple[float, float, np.ndarray]:
    """Return Bias, violation rate and the variances [2] that drawing pairs adds to them."""
    if draws is None:
        return terms.bias, terms.violation_rate, np.zeros(2)
    violations = draws.violations.astype(np.float64)
    variance = np.array([violations.var(), draws.violated.var()]) / len(violations)
    return float(violations.mean()), float(draws.violated.mean()), variance


def _fingerprint(scores: dict[str, np.ndarray], clusters: _Clusters | None, *, ordered: bool) -> str:
    """Hash which subjects lie in which pool how often; sampled pools depend on the order too.

    Without subject ids only the sizes are known.
    """
    digest = hashlib.sha256()
    for task, values in scores.items():
        digest.update(f"{task}\0{len(values)}\0".encode())
    if clusters is not None:
        ids = clusters.ids
        digest.update("\0".join(ids).encode() if ids.dtype.kind == "U" else ids.astype(np.int64).tobytes())
        for codes in clusters.codes.values():
            digest.update(
                (codes if ordered else np.bincount(codes, minlength=len(ids))).astype(np.int64).tobytes()
            )
    return digest.hexdigest()[:32]


def _audit_groups(
    scores: dict[str, np.ndarray],
    tolerances: dict[Pair, float],
    subjects: dict[str, np.ndarray] | None,
    sampling: _Sampling | None,
    context: AuditContext,
    labels: dict[str, np.ndarray],
) -> tuple[dict[str, AuditResult], dict[str, str]]:
    results: dict[str, AuditResult] = {}
    left_out: dict[str, str] = {}
    for label in np.unique(np.concatenate([np.unique(array) for array in labels.values()])):
        members = {task: labels[task] == label for task in scores}
        empty = [task for task in scores if not members[task].any()]
        if empty:
            left_out[str(label)] = f"no sample in the pools of {', '.join(empty)}"
            continue
        own = {task: scores[task][members[task]] for task in scores}
        ids = {task: subjects[task][members[task]] for task in scores} if subjects else None
        results[str(label)] = _audit(own, tolerances, ids, sampling, context)
    return results, left_out
