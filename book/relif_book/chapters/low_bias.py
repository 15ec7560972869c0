"""What a low Bias proves: the theorems' quantities, read from the pools of kept runs."""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from relif_book.evidence.result_set import ResultSet
from relif_core.audit import (
    SimilarPairs,
    audit,
    bias_parts,
    coupling_bounds,
    same_subject_audit,
    similar_pairs,
)
from relif_core.audit.pools import task_pairs
from relif_core.errors import RecordError
from relif_core.record import Record
from relif_core.tensors.clinical import ClinicalTensors

Scores = Mapping[str, np.ndarray]
#: The dense tasks whose score is the norm of a decoder map.
MAP_TASKS = ("depth", "normals")


def coarsened(scores: Scores, bins: int) -> dict[str, np.ndarray]:
    """Replace every score by the mean of its bin, the bins holding equally many samples: E[p | bin].

    Args:
        scores: Task name to scores [n].
        bins: Number of bins per task, at least 1; more bins than samples leave every score as it is.
    """
    coarse = {}
    for task, values in scores.items():
        order, used = np.argsort(values, kind="stable"), min(bins, len(values))
        bin_of = np.empty(len(values), dtype=np.int64)
        bin_of[order] = np.arange(len(values)) * used // len(values)
        coarse[task] = (np.bincount(bin_of, values.astype(np.float64)) / np.bincount(bin_of))[bin_of]
    return coarse


def perfect_scores(record: Record, split: str = "test") -> dict[str, np.ndarray]:
    """Return the pools of a predictor that knows every label: 1 for a binned task, 0 or 1 for a binary one.

    The base rate of a binary task is the prevalence that the record states.
    """
    kinds = {task["name"]: task["kind"] for task in record.content["dataset"]["tasks"]}
    pools = {}
    for task, values in record.scores(split).items():
        pools[task] = np.ones(len(values))
        if kinds[task] == "binary":
            pools[task][round(base_rate(record, task, split) * len(values)) :] = 0.0
    return pools


def base_rate(record: Record, task: str, split: str = "test") -> float:
    """Return a task's calibrated constant score: prevalence (binary) or accuracy (top label)."""
    metrics = record.result["utility"][split]["tasks"][task]["metrics"]
    return float(metrics["prevalence"] if "prevalence" in metrics else metrics["accuracy"])


def calibration_floor(record: Record, tolerance: float, split: str = "test") -> float:
    """Return the least Bias of calibrated scores with this record's base rates (theorem T1)."""
    rates = [base_rate(record, task, split) for task in record.tasks]
    gaps = [abs(a - b) for a, b in itertools.combinations(rates, 2)]
    return float(np.mean(np.maximum(np.array(gaps) - tolerance, 0)))


def spread_and_mismatch(scores: Scores, tolerance: float) -> np.ndarray:
    """Return the two parts [2] of Bias, averaged over task pairs (theorem T3)."""
    found = [bias_parts(scores[i], scores[j], tolerance) for i, j in task_pairs(list(scores))]
    return np.mean([(parts.spread, parts.mismatch) for parts in found], axis=0)


def coupling_interval(record: Record, tolerance: float, split: str = "test") -> dict[str, float]:
    """Return what two marginals allow on a pair's common subjects (theorem T4), averaged over task pairs.

    ``low`` and ``high`` are the bounds over all joint laws, ``independent`` the paper's Bias of these
    subjects, ``same`` the observed same-subject excess and ``position`` its place between the bounds, 0 to 1.

    Raises:
        RecordError: A subject has several samples of a task.
    """
    scores, subjects = record.scores(split), record.subjects(split)
    rows = []
    for i, j in task_pairs(list(scores)):
        common, at_i, at_j = np.intersect1d(subjects[i], subjects[j], return_indices=True)
        if any(np.isin(subjects[task], common).sum() > len(common) for task in (i, j)):
            raise RecordError(f"record {record.key[:12]}: a subject has several samples of a task")
        pair = {i: scores[i][at_i], j: scores[j][at_j]}
        low, high = coupling_bounds(pair[i], pair[j], tolerance)
        same = same_subject_audit(pair, dict.fromkeys(pair, common), tolerance).excess
        rows.append((low, high, audit(pair, tolerance).bias, same))
    low, high, independent, same = np.mean(rows, axis=0).tolist()
    position = (same - low) / (high - low)
    return {"low": low, "high": high, "independent": independent, "same": same, "position": position}


def raw_scores(record: Record, task: str, split: str = "test") -> np.ndarray:
    """Return the norm of a decoder map per image: as the record keeps it, else from the calibrated score.

    A calibrated score of 0 or 1 was clipped: its raw score is taken at the bound, q10 or q90
    (:func:`clipped_share`).
    """
    kept = record.arrays.get(f"raw/{split}/{task}")
    if kept is not None:
        return kept.astype(np.float64)
    low, high = _quantiles(record, task)
    return low + record.scores(split)[task].astype(np.float64) * (high - low)


def clipped_share(record: Record, task: str, split: str = "test") -> tuple[float, float]:
    """Return the shares of a task's scores at 0 and at 1."""
    scores = record.scores(split)[task]
    return float((scores == 0).mean()), float((scores == 1).mean())


def rescaled(record: Record, factors: Mapping[str, float], split: str = "test") -> dict[str, np.ndarray]:
    """Return the scores after decoder maps are multiplied, and outputs divided, by ``factors`` (theorem T5).

    Args:
        record: A dense run; no prediction of it changes.
        factors: Task name to a factor in [0, ∞], 0 and infinity being the limits.
        split: Whose scores.
    """
    scores = {task: values.astype(np.float64) for task, values in record.scores(split).items()}
    for task, factor in factors.items():
        low, high = _quantiles(record, task)
        if factor == 1:
            continue
        if factor in (0, np.inf):
            scores[task] = np.full(len(scores[task]), float(factor > 0))
        else:
            scores[task] = np.clip((factor * raw_scores(record, task, split) - low) / (high - low), 0, 1)
    return scores


def clipping_loss(record: Record, factors: Mapping[str, float], split: str = "test") -> float:
    """Return by how much the Bias of :func:`rescaled` scores can be off, since clipping hid some raw scores.

    Bias of a pair moves by at most the mean change of either task's scores; a clipped score lies anywhere
    between what its bound makes and the end of the range.
    """
    error = dict.fromkeys(record.tasks, 0.0)
    for task, factor in factors.items():
        if f"raw/{split}/{task}" not in record.arrays:
            low, high = _quantiles(record, task)
            at_bounds = np.clip((factor * np.array([low, high]) - low) / (high - low), 0, 1)
            at_zero, at_one = clipped_share(record, task, split)
            error[task] = at_zero * at_bounds[0] + at_one * (1 - at_bounds[1])
    return float(np.mean([error[i] + error[j] for i, j in task_pairs(list(error))]))


def scale_map(record: Record, tolerance: float, logs: np.ndarray) -> np.ndarray:
    """Return Bias [depth, normals] for every pair of factors exp(logs) of the two decoder maps."""

    def bias(depth: float, normals: float) -> float:
        return audit(rescaled(record, {"depth": depth, "normals": normals}), tolerance).bias

    factors = [float(np.exp(one)) for one in logs]
    return np.array([[bias(a, b) for b in factors] for a in factors])


def attainable(record: Record, tolerance: float, scaled: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest Bias that factors of the two maps surely give a run.

    Surely: with factors of 0 or ∞, which need no raw scores, and where the record keeps these, on the map
    ``scaled`` of :func:`scale_map`.
    """
    found = [
        audit(rescaled(record, dict(zip(MAP_TASKS, factors, strict=True))), tolerance).bias
        for factors in itertools.product((0, 1, np.inf), repeat=len(MAP_TASKS))
    ]
    if all(f"raw/test/{task}" in record.arrays for task in MAP_TASKS):
        found += [float(scaled.min()), float(scaled.max())]
    return min(found), max(found)


def own_calibrated(record: Record, split: str = "test") -> dict[str, np.ndarray] | None:
    """Scale scores by the model's own validation quantiles; None where clipping hid one of them."""
    scores = {task: values.astype(np.float64) for task, values in record.scores(split).items()}
    for task in MAP_TASKS:
        shared = record.scores("validation")[task]
        kept = f"raw/validation/{task}" in record.arrays
        if not kept and ((shared == 0).mean() > 0.101 or (shared == 1).mean() > 0.101):
            return None
        low, high = np.quantile(raw_scores(record, task, "validation"), [0.1, 0.9])
        scores[task] = np.clip((raw_scores(record, task, split) - low) / (high - low), 0, 1)
    return scores


def both_calibrations(results: ResultSet) -> dict[str, dict[str, float]]:
    """Return every method's mean Bias at the shared quantiles (key "") and at each run's own ("-own").

    NaN where clipping hid one of these.
    """
    shared, own = {}, {}
    for method, records in results.runs.items():
        shared[method] = results.mean(method, "bias")
        scores = [own_calibrated(record) for record in records]
        biases = [audit(each, results.reference.tolerance).bias if each else math.nan for each in scores]
        own[method] = float(np.mean(biases))
    return {"": shared, "-own": own}


def lead_lost(results: ResultSet) -> float:
    """Return the share of ReLiF's lead over ERM in Bias that own quantiles take away, over shared seeds."""
    seeds = [record.seed for record in results.records if record.method == "relif"]
    shared, own = both_calibrations(results.narrowed(("erm", "relif")).of_seeds(seeds)).values()
    return 1 - (own["erm"] - own["relif"]) / (shared["erm"] - shared["relif"])


def rank_normalised(scores: Scores) -> dict[str, np.ndarray]:
    """Replace every score by its mid-rank in (0, 1): (rank − ½) / n, ties sharing the mean."""
    return {task: (rankdata(values) - 0.5) / len(values) for task, values in scores.items()}


def explained_share(columns: np.ndarray, target: np.ndarray) -> float:
    """Return the share of a target's variance [n] that a linear fit on ``columns`` [n, k] explains (R²)."""
    from sklearn.linear_model import LinearRegression

    return float(LinearRegression().fit(columns, target).score(columns, target))


def _quantiles(record: Record, task: str) -> tuple[float, float]:
    low, high = record.result["score_calibration"]["quantiles"][task]
    return float(low), float(high)


def stay_pairs(record: Record, stays: Scores, k: int, split: str = "test") -> SimilarPairs:
    """Pair a split's stays by the distance of :func:`stay_inputs`, which a data set's records share.

    Raises:
        RecordError: The inputs are of other stays than the record.
    """
    order = np.argsort(stays["subject"])
    known, inputs = stays["subject"][order], stays["inputs"][order].astype(np.float64)
    found, subjects = {}, record.subjects(split)
    for task, own in subjects.items():
        place = np.searchsorted(known, own).clip(max=len(known) - 1)
        if not np.array_equal(known[place], own):
            raise RecordError(f"record {record.key[:12]}, task {task!r}: the inputs are of other stays")
        found[task] = inputs[place]
    return similar_pairs(found, subjects=subjects, k=k)


def stay_inputs(folder: Path, width: int = 16) -> dict[str, np.ndarray]:
    """Return what the similar-pair audit compares stays by: few numbers per validation and test stay.

    Every value column is standardised by the training rows' statistics and averaged over a stay's hours; the
    leading principal axes of the training stays, which keep Euclidean distances as far as their variance
    goes, are what is left.

    Args:
        folder: Clinical tensors.
        width: Number of axes.

    Returns:
        ``subject`` [n] as records number them, ``split`` [n] (1 validation, 2 test), ``inputs`` float16 [n,
        width], ``variance`` (the share of variance kept) and one ``label/<task>`` [n] per binary or binned
        task, −1 where there is none.
    """
    tensors = ClinicalTensors.open(folder)
    arrays, statistics = tensors.arrays, tensors.manifest["statistics"]
    offsets = arrays["offsets"]
    standard = (arrays["values"] - np.float32(statistics["mean"])) / np.float32(
        statistics["standard_deviation"]
    )
    means = np.add.reduceat(standard, offsets[:-1], axis=0, dtype=np.float64) / np.diff(offsets)[:, None]
    train = means[arrays["split"] == 0]
    values, axes = np.linalg.eigh(np.cov(train.T))
    reduced = (means - train.mean(axis=0)) @ axes[:, ::-1][:, :width]
    kept = np.flatnonzero(arrays["split"] > 0)
    found = {
        "subject": np.unique(arrays["subjects"], return_inverse=True)[1][kept].astype(np.int32),
        "split": arrays["split"][kept],
        "inputs": reduced[kept].astype(np.float16),
        "variance": np.float64(values[::-1][:width].sum() / values.sum()),
    }
    for task in tensors.tasks:
        if task.level == "stay" and task.kind != "multilabel":
            labels = np.where(arrays[f"masks/{task.name}"], arrays[f"labels/{task.name}"], -1)
            found[f"label/{task.name}"] = labels[kept].astype(np.int8)
    return found
