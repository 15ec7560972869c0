"""How far Worst and Macro move with other test subjects: one bootstrap for all records of a data set.

Every replicate draws subjects with replacement; a record's task utilities are computed anew with every row
counted as often as its subject was drawn. Records that share the draws are paired, so the covariance of their
replicates is that of their estimates.
"""

from collections.abc import Mapping

import numpy as np

from relif_core.calibration import LabelledLogits
from relif_core.record import Record

REPLICATES = 1000
SEED = 20120
#: Entries of one block of replicates × rows.
_BLOCK = 1 << 22


def bootstrap_counts(
    subjects: Mapping[str, np.ndarray], replicates: int = REPLICATES, seed: int = SEED
) -> np.ndarray:
    """Return how often every replicate drew each subject [replicates, highest number + 1]."""
    present = np.unique(np.concatenate(list(subjects.values())))
    generator = np.random.default_rng(seed)
    counts = np.zeros((replicates, int(present[-1]) + 1), dtype=np.float32)
    for row in counts:
        row[present] = np.bincount(generator.integers(0, len(present), len(present)), minlength=len(present))
    return counts


def utility_replicates(
    record: Record, counts: np.ndarray, split: str = "test", *, last: bool = False
) -> np.ndarray:
    """Return a record's task utilities per replicate [replicates, tasks]; NaN where undefined.

    Tasks that the split itself leaves undefined are left out; a record without logits has NaN in one column.
    """
    if not record.logits(split, last=last):
        return np.full((len(counts), 1), np.nan)
    subjects = record.subjects(split)
    columns = []
    for task, found in record.logits(split, last=last).items():
        rows = np.repeat(subjects[task], found.rows)
        block = max(1, _BLOCK // max(len(rows), 1))
        parts = [
            _utility(found, counts[start : start + block, rows]) for start in range(0, len(counts), block)
        ]
        columns.append(np.concatenate(parts))
    defined = [column for column in columns if np.isfinite(column).any()]
    return np.stack(defined or columns[:1], axis=1)


def _utility(found: LabelledLogits, weights: np.ndarray) -> np.ndarray:
    if found.kind == "binned":
        return (weighted_kappa(found.labels, found.logits.argmax(1), weights, found.logits.shape[1]) + 1) / 2
    labels: np.ndarray = found.labels.reshape(found.logits.shape)
    areas = [
        weighted_auroc(labels[:, column], found.logits[:, column], weights)
        for column in range(labels.shape[-1])
    ]
    counted = np.isfinite(areas)
    total = np.where(counted, areas, 0).sum(0)
    return np.divide(total, counted.sum(0), out=np.full(len(weights), np.nan), where=counted.any(0))


def weighted_auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return AUROC [replicates] for row weights [replicates, rows]; ties count half, NaN with one class."""
    order = np.argsort(scores, kind="stable")
    positive = labels[order].astype(bool)
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    ordered = weights[:, order].astype(np.float64)
    hits = np.add.reduceat(ordered * positive, starts, axis=1)
    misses = np.add.reduceat(ordered * ~positive, starts, axis=1)
    below = np.cumsum(misses, axis=1) - misses / 2
    pairs = hits.sum(1) * misses.sum(1)
    return np.divide((hits * below).sum(1), pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def weighted_kappa(
    labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, classes: int
) -> np.ndarray:
    """Return Cohen's linear-weighted κ [replicates] for row weights [replicates, rows]; NaN if undefined."""
    cells = labels.astype(np.int64) * classes + predicted
    indicator = np.zeros((len(cells), classes * classes), dtype=weights.dtype)
    indicator[np.arange(len(cells)), cells] = 1
    table = (weights @ indicator).astype(np.float64).reshape(-1, classes, classes)
    steps = np.abs(np.subtract.outer(np.arange(classes), np.arange(classes)))
    chance = np.einsum("bi,bj,ij->b", table.sum(2), table.sum(1), steps)
    seen = (table * steps).sum((1, 2)) * table.sum((1, 2))
    return 1 - np.divide(seen, chance, out=np.full(len(weights), np.nan), where=chance > 0)
