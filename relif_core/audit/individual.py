"""Audits about individuals, beside the paper's: one person across tasks, and similar people within a task.

The paper's audit draws the two people of a pair independently and so sees marginal distributions only. These
two look at who got which score.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from relif_core.audit.door import Given, is_number
from relif_core.audit.neighbours import nearest_neighbours
from relif_core.audit.pools import (
    Pools,
    Scores,
    Tolerance,
    checked_fraction,
    checked_integer,
    checked_labels,
    checked_numbers,
    distinct_codes,
    pool_index,
    row_index,
)
from relif_core.audit.subject_ids import subject_codes
from relif_core.audit.uncertainty import NO_VARIATION, combined_error, scaled_influences
from relif_core.errors import InputError

_PAIRS_TOGETHER = 1 << 21


@dataclass(frozen=True, kw_only=True)
class _Individual:
    subjects: int
    gap: float
    excess: float
    share: float
    excess_se: float
    share_se: float
    excess_freedom: float | None = None
    share_freedom: float | None = None


@dataclass(frozen=True, kw_only=True)
class IndividualRow(_Individual):
    """What an audit about individuals finds in one task pair or one task.

    Attributes:
        tasks: Two names (same subject) or one (similar pairs).
        limit: The tolerance δ or the constant L.
        pairs: Number of pairs of samples.
        subjects: Number of people in them.
        gap: Mean gap.
        excess: Mean of the gap's part beyond what is allowed, with ``excess_se``.
        share: Share of pairs beyond it, with ``share_se``.
        excess_freedom: Degrees of freedom of ``excess_se``; None for similar pairs.
        share_freedom: Likewise.
    """

    tasks: tuple[str, ...]
    limit: float
    pairs: int


@dataclass(frozen=True, kw_only=True)
class IndividualAudit(_Individual):
    """Excess and violation share, means over ``rows`` of equal weight with subject-clustered errors."""

    rows: tuple[IndividualRow, ...]


def same_subject_audit(
    scores: Mapping[str, Any],
    subjects: Mapping[str, Any],
    tolerance: Tolerance,
    *,
    weights: Mapping[str, Any] | None = None,
) -> IndividualAudit:
    """Measure how far one person's scores lie apart between tasks.

    With S_ij the subjects that have samples of both tasks, a subject's gap terms are averaged over all pairs
    of its own samples x of task i and y of task j, then over subjects in proportion to their weights w_s (1
    without ``weights``)::

        excess_ij = Σ_s w_s mean_xy (|p_i(x) − p_j(y)| − δ_ij)₊ / Σ_s w_s
        share_ij = Σ_s w_s mean_xy 1[|p_i(x) − p_j(y)| > δ_ij] / Σ_s w_s

    Unlike Bias, both change when scores are handed to other people; unweighted they lie within
    :func:`coupling_bounds`.

    Args:
        scores: Task name to one-dimensional scores in [0, 1]; at least two tasks.
        subjects: Task name to subject ids aligned with the scores.
        tolerance: δ, one number or a mapping from task pairs to numbers.
        weights: Task name to weights aligned with the scores, at least 0. They are people's: a whole weight
            is so many people with the same scores. All samples of a subject have one weight, in all tasks,
            but for those of weight 0, which are left out.

    Returns:
        One row per task pair, and their mean. A subject's influence is w_s / Σw times its mean less the
        estimate, summed over task pairs; from influences and shares w_s / Σw the errors and their degrees of
        freedom follow as in :func:`audit` (:class:`.SubjectSpread`).

    Raises:
        InputError: What :func:`audit` refuses, a task pair without a common subject, or a subject with
            samples of different weights.

    >>> scores, subjects = {"a": [0.125, 1.0], "b": [1.0, 0.125]}, {"a": [1, 2], "b": [1, 2]}
    >>> same_subject_audit(scores, subjects, tolerance=0.5).excess
    0.375
    """
    pools = Pools.of(scores, tolerance, subjects, weights, clustered=True).weighty()
    people = pools.people
    mass = _subject_weights(pools.weights, pools.codes, people)
    rows, summed, largest, effective = [], np.zeros((2, people)), np.zeros(people), []
    for (i, j), delta in pools.tolerances.items():
        first, second = ((pools.scores[task], pools.codes[task]) for task in (i, j))
        *sums, count = _within_subjects(first, second, people, delta)
        common = np.flatnonzero(count)
        if not len(common):
            raise InputError(f"tasks {i!r} and {j!r} have no subject in common; give both the same ids")
        means = np.array([total[common] for total in sums]) / count[common]
        gap, *centres = np.average(means, axis=1, weights=mass[common] if pools.weights else None)
        share = mass[common] / mass[common].sum()
        influences = (means[1:] - np.array(centres)[:, None]) * share
        summed[:, common] += influences / len(pools.tolerances)
        largest[common] = np.maximum(largest[common], share)
        effective.append(1 / float(np.square(share).sum()))
        rows.append(
            IndividualRow(
                tasks=(i, j),
                limit=delta,
                pairs=int(count.sum()),
                subjects=len(common),
                **_means(gap, *centres),
                **_subject_errors(influences, share, effective[-1]),
            )
        )
    seen = largest > 0
    errors = _subject_errors(summed[:, seen], largest[seen], min(effective))
    return _summary(rows, int(np.count_nonzero(seen)), **errors)


def _subject_weights(
    weights: Mapping[str, np.ndarray], codes: Mapping[str, np.ndarray], people: int
) -> np.ndarray:
    """Return every subject's weight [people], 1 without weights."""
    mass = np.ones(people)
    for task, own in weights.items():
        mass[codes[task]] = own
    for task, own in weights.items():
        wrong = len(np.unique(codes[task][own != mass[codes[task]]]))
        if wrong:
            raise InputError(
                f"task {task!r}: {wrong} subjects have samples of another weight, here or in another task;"
                " people are weighed: give all samples of a subject one weight, or 0 to leave a sample out"
            )
    return mass


def _subject_errors(influences: np.ndarray, share: np.ndarray, effective: float) -> dict[str, float]:
    """Return both errors and their degrees of freedom from influences [2, G] of subjects with shares [G]."""
    errors = {}
    for name, own in zip(("excess", "share"), influences, strict=True):
        found = combined_error(scaled_influences(own, share), effective - 1)
        errors[f"{name}_se"], errors[f"{name}_freedom"] = found
    return errors


def _within_subjects(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], people: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return per subject [people] the sums of gap, excess and violations over its pairs, and their number.

    Both sides are scores and subject codes.
    """
    (first_scores, first_codes), (second_scores, second_codes) = first, second
    order = np.argsort(second_codes, kind="stable")
    partners, held = second_scores[order].astype(np.float64), np.bincount(second_codes, minlength=people)
    begin = np.cumsum(held) - held
    own = np.argsort(first_codes, kind="stable")
    values, whose = first_scores[own].astype(np.float64), first_codes[own]
    ends = np.cumsum(held[whose])
    sums = np.zeros((3, people))
    start = 0
    while start < len(values):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_TOGETHER, side="right")))
        times = held[whose[start:stop]]
        who = np.repeat(whose[start:stop], times)
        place = np.arange(len(who)) - np.repeat(np.cumsum(times) - times, times) + begin[who]
        gap = np.abs(np.repeat(values[start:stop], times) - partners[place])
        for total, terms in zip(sums, (gap, np.maximum(gap - tolerance, 0), gap > tolerance), strict=True):
            total += np.bincount(who, terms, people)
        start = stop
    return *sums, np.bincount(first_codes, minlength=people) * held


@dataclass(frozen=True, eq=False)
class SimilarPairs:
    """Who is compared with whom, found once for all models that are audited on the same samples.

    Attributes:
        pairs: Task → samples a, their neighbours b and the distances between them, each [n · k].
        codes: Task → [n], equal for samples of one subject.
        indices: Task → the samples' pandas index, None where there is none.
    """

    pairs: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    codes: dict[str, np.ndarray]
    indices: dict[str, Any] = field(default_factory=dict)


def similar_pairs(
    inputs: Mapping[str, Any], *, subjects: Mapping[str, Any] | None = None, k: int = 5
) -> SimilarPairs:
    """Pair every sample with its k nearest samples of other subjects, within each task.

    Exact, without an n × n array: 100,000 subjects with 16 inputs take about 10 to 20 seconds on one core.

    Args:
        inputs: Task name to [n, D] inputs.
        subjects: Task name to subject ids aligned with the inputs; without ids every sample is one subject.
        k: Neighbours per sample; ties by the lower index.

    Raises:
        InputError: k below 1, inputs of a wrong shape or not finite, subject ids that :func:`audit` refuses,
            or a sample with fewer than k samples of other subjects.
    """
    checked_integer(k, "k", 1)
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs must map task names to arrays, not be a {type(inputs).__name__}")
    arrays = {task: _checked_inputs(task, values) for task, values in inputs.items()}
    indices = {task: row_index(values) for task, values in inputs.items()}
    codes = _codes(arrays, indices, subjects)
    pairs = {}
    for task, array in arrays.items():
        if len(array) - np.bincount(codes[task]).max(initial=0) < k:
            raise InputError(
                f"task {task!r}: some sample has fewer than {k} samples of other subjects; lower k"
            )
        neighbours, distances = nearest_neighbours(array, codes[task], k)
        pairs[task] = np.repeat(np.arange(len(array)), k), neighbours.ravel(), distances.ravel()
    return SimilarPairs(pairs, codes, indices)


def similar_pair_audit(
    scores: Mapping[str, Any],
    pairs: SimilarPairs,
    lipschitz: float | Mapping[str, float],
    *,
    weights: Mapping[str, Any] | None = None,
) -> IndividualAudit:
    """Measure whether similar people get similar scores within each task, as Dwork et al. (2012) ask.

    Over each sample a and its nearest samples b of other subjects, d their distance::

        excess = mean (|p(a) − p(b)| − L·d(a, b))₊,   share = mean 1[|p(a) − p(b)| > L·d(a, b)]

    The distance must come from outside the audited model (standardised inputs, a reference representation),
    and L from validation data of a reference model (:func:`lipschitz_limit`); both shared by all methods, or
    their rulers differ.

    Args:
        scores: Task name to one-dimensional scores in [0, 1]; one task is enough.
        pairs: The neighbours of the same samples (:func:`similar_pairs`).
        lipschitz: L, one number or one per task, at least 0.
        weights: Task name to weights aligned with the scores, at least 0: a mean over samples a then draws
            them in proportion; b may have any weight.

    Returns:
        One row per task, and their mean. Two pairs that share a subject are dependent: the variance is the
        sum of the products of all such pairs' deviations (Aronow, Samii and Assenova 2015). Where the
        expected gap varies with the place in input space the errors come out a little too large (10 to 22 %
        in a simulation).

    Raises:
        InputError: Scores or weights that :func:`audit` refuses, a task without pairs or with pairs of
            another number of samples, or a negative L.
    """
    pools = _paired(scores, pairs, weights)
    limits = _limits(lipschitz, list(pools.scores))
    rows, ends, shares = [], [], []
    for task, (a, b, distance), own, gap in _gaps(pools, pairs):
        terms = np.array([np.maximum(gap - limits[task] * distance, 0), gap > limits[task] * distance])
        means = np.average(terms, axis=1, weights=own)
        deviations = terms - means[:, None]
        deviations = deviations / len(gap) if own is None else deviations * own
        people = pairs.codes[task][np.array([a, b])]
        rows.append(
            IndividualRow(
                tasks=(task,),
                limit=limits[task],
                pairs=len(gap),
                subjects=len(np.unique(people)),
                **_means(np.average(gap, weights=own), *means),
                **_dyadic_errors(people, deviations),
            )
        )
        ends.append(people)
        shares.append(deviations / len(limits))
    people = np.hstack(ends)
    return _summary(rows, len(np.unique(people)), **_dyadic_errors(people, np.hstack(shares)))


def lipschitz_limit(
    scores: Mapping[str, Any],
    pairs: SimilarPairs,
    alpha: float = 0.1,
    *,
    weights: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Return per task the L of :func:`similar_pair_audit` that a share α of a reference's pairs exceeds.

    L is the smallest observed ``|p(a) − p(b)| / d(a, b)`` that at most a share α of the pairs lies above.
    Pairs share people, so this is a description of validation data and no conformal guarantee.

    Args:
        scores: Task name to validation scores of the reference model.
        pairs: The neighbours of the same samples (:func:`similar_pairs`).
        alpha: Share in (0, 1).
        weights: As for :func:`similar_pair_audit`: of the share of pairs.

    Raises:
        InputError: As :func:`similar_pair_audit`, alpha outside (0, 1), or no finite L because more than a
            share α of the pairs have distance 0 and different scores.
    """
    checked_fraction(alpha, "alpha")
    limits = {}
    for task, (_, _, distance), own, gap in _gaps(_paired(scores, pairs, weights), pairs):
        ratio = np.divide(gap, distance, out=np.where(gap > 0, np.inf, 0.0), where=distance > 0)
        order = np.argsort(ratio)
        reached = np.arange(1, len(ratio) + 1) / len(ratio) if own is None else np.cumsum(own[order])
        limits[task] = float(ratio[order][np.argmax(1 - reached <= alpha + NO_VARIATION)])
        if limits[task] == np.inf:
            raise InputError(
                f"task {task!r}: more than {alpha:g} of the neighbour pairs have equal inputs and different"
                " scores; no L allows for them: use richer inputs or a larger alpha"
            )
    return limits


def _gaps(
    pools: Pools, pairs: SimilarPairs
) -> Iterator[tuple[str, tuple[np.ndarray, ...], np.ndarray | None, np.ndarray]]:
    """Yield per task the pairs whose first sample weighs anything, their weights of sum 1 and their gaps."""
    for task, scores in pools.scores.items():
        values, found, own = scores.astype(np.float64), pairs.pairs[task], None
        if task in pools.weights:
            first = pools.weights[task][found[0]]
            kept = first > 0
            found, own = tuple(part[kept] for part in found), first[kept] / first[kept].sum()
        yield task, found, own, np.abs(values[found[0]] - values[found[1]])


def _paired(scores: Any, pairs: SimilarPairs, weights: Any) -> Pools:
    if not isinstance(pairs, SimilarPairs):
        raise InputError(f"pairs must come from similar_pairs, not be a {type(pairs).__name__}")
    pools = Pools.of(scores, weights=weights, least=1)
    for task, values in pools.scores.items():
        if task not in pairs.pairs:
            raise InputError(f"task {task!r}: no pairs were made of it; give its inputs to similar_pairs")
        if len(values) != len(pairs.codes[task]):
            raise InputError(
                f"task {task!r}: {len(values)} scores, but the pairs are of {len(pairs.codes[task])} samples;"
                " give one score per input, in the same order"
            )
        own, index = pool_index(pools.scores, task), pairs.indices.get(task)
        if own is not None and index is not None and not index.equals(own):
            raise InputError(
                f"task {task!r}: the scores have another index than the inputs that pairs were made of; sort"
                " both alike"
            )
    return pools


def _checked_inputs(task: str, values: Any) -> np.ndarray:
    array = checked_numbers(values, f"task {task!r}: inputs", 2)
    if not len(array):
        raise InputError(f"task {task!r}: there are no inputs; leave the task out")
    if bad := int((~(np.abs(array) < 1e150)).any(axis=1).sum()):  # squares of more overflow
        wrong = f"{bad} of {len(array)} inputs are not finite or beyond 1e150; impute or drop them"
        raise InputError(f"task {task!r}: {wrong}")
    return array


def _limits(lipschitz: float | Mapping[str, float], tasks: list[str]) -> dict[str, float]:
    given = lipschitz if isinstance(lipschitz, Mapping) else dict.fromkeys(tasks, lipschitz)
    for task in tasks:
        if task not in given:
            raise InputError(f"task {task!r}: lipschitz is missing; give one number or one per task")
        if not (is_number(given[task]) and np.isfinite(given[task]) and given[task] >= 0):
            raise InputError(f"task {task!r}: lipschitz must be a finite number, at least 0")
    return {task: float(given[task]) for task in tasks}


def _codes(
    inputs: Mapping[str, np.ndarray], indices: Mapping[str, Any], subjects: Mapping[str, Any] | None
) -> dict[str, np.ndarray]:
    """Return every sample's subject code; without ids, codes that no two samples share."""
    if subjects is not None:
        samples = Scores()
        for task, array in inputs.items():
            samples[task], samples.kept[task] = array[:, 0], None
            samples.given[task] = Given(array[:, 0], index=indices[task])
        return subject_codes(checked_labels(subjects, samples, "subjects"))[1]
    return distinct_codes({task: len(values) for task, values in inputs.items()})


def _dyadic_errors(people: np.ndarray, deviations: np.ndarray) -> dict[str, float]:
    """Return both standard errors from the deviations [2, pairs] of pairs of people [2, pairs].

    The variance is Σ e_p·e_q over pairs p, q with a person in common: Σ_s (Σ_{p∋s} e_p)² counts each pair of
    people twice with itself, so Σ over pairs of people is taken off once.
    """
    _, people = np.unique(people, return_inverse=True)
    people = people.reshape(2, -1)
    count = int(people.max()) + 1
    _, dyad = np.unique(people.min(axis=0) * count + people.max(axis=0), return_inverse=True)
    errors = {}
    for name, share in zip(("excess_se", "share_se"), deviations, strict=True):
        per_person = np.bincount(people.ravel(), np.tile(share, 2), count)
        per_dyad = np.square(np.bincount(dyad, share)).sum()
        variance = max(np.square(per_person).sum() - per_dyad, per_dyad)
        errors[name] = float(np.sqrt(variance * count / (count - 1)))
    return errors


def _summary(rows: list[IndividualRow], subjects: int, **errors: float) -> IndividualAudit:
    columns = zip(*((row.gap, row.excess, row.share) for row in rows), strict=True)
    means = _means(*(float(np.mean(own)) for own in columns))
    return IndividualAudit(subjects=subjects, rows=tuple(rows), **means, **errors)


def _means(gap: float, excess: float, share: float) -> dict[str, float]:
    return {"gap": float(gap), "excess": float(excess), "share": float(share)}
