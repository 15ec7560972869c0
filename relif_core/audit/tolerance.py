"""Where tolerances come from: a method's own prototypes (induced), or calibration on reference distances."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from relif_core.audit.door import given
from relif_core.audit.pools import (
    Pair,
    Pools,
    checked_fraction,
    checked_integer,
    checked_numbers,
    in_order,
    labels_of,
    of_task,
    present,
    row_index,
    task_pairs,
)
from relif_core.errors import InputError, listed


def induced_tolerances(
    embeddings: Mapping[str, Any],
    scores: Mapping[str, Any],
    k: int = 5,
    *,
    weights: Mapping[str, Any] | None = None,
) -> dict[Pair, float]:
    """Return the tolerance that a method's own representation induces for each task pair.

    Args:
        embeddings: Task name to [n, D] embeddings of the task's valid samples.
        scores: Task name to [n] audit scores of the same samples.
        k: Number of highest-scoring samples per prototype; all of them where a pool is smaller.
        weights: Task name to weights of the same samples. Those of weight 0 are in no prototype; other
            weights change nothing, for which samples score highest does not depend on them.

    A prototype is the mean embedding of the k highest-scoring samples (ties: the lower index first), scaled
    to length 1; the tolerance of (i, j) is (1 − cos) / 2 in [0, 1]. A diagnostic: methods audited each at its
    own induced tolerance are measured with different rulers.

    Raises:
        InputError: k below 1, scores or weights that :func:`audit` refuses, embeddings that are missing,
            misaligned or not finite, or a prototype of length 0.

    >>> induced_tolerances({"a": [[1.0, 0.0]], "b": [[0.0, 1.0]]}, {"a": [0.9], "b": [0.4]})
    {('a', 'b'): 0.5}
    """
    checked_integer(k, "k", 1)
    pools = Pools.of(scores, weights=weights)
    units = {
        task: _prototype(task, _embedding(embeddings, task, pools.scores), pools, k) for task in pools.scores
    }
    widths = {task: len(unit) for task, unit in units.items()}
    if len(set(widths.values())) > 1:
        raise InputError(
            f"embeddings differ in width between tasks: {widths}; they must share one representation"
        )
    cosines = {(i, j): float(units[i] @ units[j]) for i, j in task_pairs(list(units))}
    return {pair: min(1.0, max(0.0, (1.0 - cosine) / 2)) for pair, cosine in cosines.items()}


def _embedding(embeddings: Mapping[str, Any], task: str, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    array = of_task(embeddings, task, scores, "embeddings")
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise InputError(
            f"task {task!r}: embeddings have shape {array.shape} of {array.dtype}, expected numbers of shape "
            f"[{len(array)}, D], one row per score"
        )
    return array.astype(np.float64, copy=False)


def _prototype(task: str, embedding: np.ndarray, pools: Pools, k: int) -> np.ndarray:
    scores = pools.scores[task]
    if task in pools.weights:
        scores, embedding = (rows[pools.weights[task] > 0] for rows in (scores, embedding))
    chosen = np.argsort(-scores, kind="stable")[:k]
    mean = embedding[chosen].mean(axis=0)
    length = float(np.linalg.norm(mean))
    if not math.isfinite(length):
        raise InputError(
            f"task {task!r}: embeddings of the prototypes, samples {listed(chosen)}, are not finite"
        )
    if length == 0:
        raise InputError(
            f"task {task!r}: the prototype has length 0, so no angle to it exists; inspect the embeddings"
        )
    return mean / length


def calibration_pairs(subjects: Any, seed: int) -> np.ndarray:
    """Return a random matching of subjects as sample indices, int64 [⌊G/2⌋, 2] for G distinct subjects.

    One sample is drawn per subject and subjects are paired at random, so that no two pairs share a subject:
    distances of such pairs are exchangeable, as :func:`conformal_tolerance` requires. With an odd number one
    subject stays unpaired.

    Args:
        subjects: Ids [n] of the samples, integers or text.
        seed: Of the draw, at least 0.

    Raises:
        InputError: Ids that are not one-dimensional, missing or of another kind, a seed that is no integer of
            at least 0, or fewer than two subjects.
    """
    ids = subject_ids(subjects)
    generator = np.random.default_rng(checked_integer(seed, "seed", 0))
    shuffled = generator.permutation(len(ids))
    distinct, first_seen = np.unique(ids[shuffled], return_index=True)
    if len(distinct) < 2:
        raise InputError(f"calibration pairs need at least two subjects, got {len(distinct)}")
    order = generator.permutation(len(distinct))
    chosen = shuffled[first_seen][order]
    return chosen[: len(chosen) - len(chosen) % 2].reshape(-1, 2)


def subject_ids(subjects: Any, beside: Any = None) -> np.ndarray:
    """Return subject ids [n] in the order of the embeddings beside them; ``InputError`` for others."""
    found = in_order(given(subjects, "subjects"), row_index(beside), "subjects", "embeddings")
    ids = labels_of(present(found, "", "subjects"), "", "subjects")
    if beside is not None and len(ids) != len(beside):
        raise InputError(
            f"embeddings have {len(beside)} rows, and there are {len(ids)} subjects; give one per row"
        )
    return ids


def reference_distances(embeddings: Any, subjects: Any, seed: int) -> np.ndarray:
    """Return (1 − cos) / 2 of a reference model's embeddings over disjoint subject pairs, float64 [⌊G/2⌋].

    Args:
        embeddings: [n, D] embeddings of the calibration samples.
        subjects: [n] subject ids.
        seed: Of the random matching.

    Raises:
        InputError: Misaligned arrays, embeddings not finite or of length 0, fewer than two subjects.
    """
    units = unit_rows(embeddings)
    return matched_distances(units, subject_ids(subjects, embeddings), seed)


def unit_rows(embeddings: Any) -> np.ndarray:
    """Return embeddings [n, D] scaled to length 1; ``InputError`` for those without a direction."""
    array = checked_numbers(embeddings, "embeddings", 2)
    lengths = np.linalg.norm(array, axis=1)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        bad = int((~np.isfinite(lengths) | (lengths == 0)).sum())
        raise InputError(
            f"{bad} of {len(array)} embeddings are not finite or have length 0; they have no direction"
        )
    return array / lengths[:, None]


def matched_distances(units: np.ndarray, ids: np.ndarray, seed: int) -> np.ndarray:
    """Return (1 − cos) / 2 of unit rows over the matching of subjects that ``seed`` draws."""
    pairs = calibration_pairs(ids, seed)
    cosines = np.einsum("nd,nd->n", units[pairs[:, 0]], units[pairs[:, 1]])
    return np.clip((1.0 - cosines) / 2, 0.0, 1.0)


def refuse_weights(weights: Any) -> None:
    """Refuse (``InputError``) to calibrate with weights."""
    if weights is not None:
        raise InputError(
            "calibration takes no weights: its guarantee (theorem B.3) is for exchangeable pairs, and under"
            " weights it would need the exact likelihood ratio of audited to calibration data; calibrate on"
            " data drawn as the audited data will be, or resample to that first"
        )


def conformal_tolerance(
    distances: Sequence[float] | np.ndarray, alpha: float, *, weights: None = None
) -> float:
    """Return the tolerance that a new exchangeable distance exceeds with probability at most ``alpha``.

    Args:
        distances: [n] reference distances in [0, 1] of exchangeable pairs (see :func:`calibration_pairs`).
        alpha: In (0, 1); read as the decimal number it prints as, so that (n+1)(1−α) does not round up.
        weights: Refused: weighted distances are not exchangeable.

    The k-th smallest distance with k = ⌈(n + 1)(1 − α)⌉ if k ≤ n, else 1 (split conformal prediction,
    Vovk, Gammerman and Shafer 2005; theorem B.3).

    Raises:
        InputError: No distances, a shape other than [n], NaN, a distance outside [0, 1], alpha outside (0,
            1), or weights.

    >>> conformal_tolerance([0.1, 0.2, 0.3, 0.4], alpha=0.2)
    0.4
    >>> conformal_tolerance([0.1, 0.2, 0.3, 0.4], alpha=0.1)
    1.0
    """
    refuse_weights(weights)
    array = checked_numbers(distances, "distances", 1)
    if array.size == 0:
        raise InputError("distances must be a non-empty list of numbers")
    if np.isnan(array).any():
        raise InputError(f"{int(np.isnan(array).sum())} of {array.size} reference distances are NaN")
    if array.min() < 0 or array.max() > 1:
        raise InputError(f"reference distances must lie in [0, 1], got {array.min():g} to {array.max():g}")
    rank = math.ceil((array.size + 1) * (1 - Fraction(str(checked_fraction(alpha, "alpha")))))
    if rank > array.size:
        return 1.0
    return float(np.partition(array, rank - 1)[rank - 1])
