"""Differences between methods as the analysis plan measures them, from the records of a study.

A quantity is named by its kind: a column of :attr:`.ResultSet.wide` ("bias", "last_worst",
"induced/validation", "at_minimum" …), or "bias@δ" and "calibrated_bias@δ" from the exact curves.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from relif_book.evidence.audit_table import audit_record
from relif_book.evidence.contrasts import influences
from relif_book.evidence.judging import Difference, paired, unpaired
from relif_book.evidence.plan import MACRO_SUBJECTS, MATCHED_WORST, WORST_SUBJECTS
from relif_book.evidence.result_set import ResultSet, nearest_column
from relif_core.errors import InputError
from relif_core.record import Record

_audited: dict[tuple[str, str], np.ndarray] = {}

#: How far below the common validation Worst a run may be read.
BELOW_COMMON = 0.005


def seed_values(results: ResultSet, method: str, kind: str) -> dict[int, float]:
    """Return a method's values by seed; a run that failed has the worst value of any run of the study.

    Raises:
        InputError: The method has no record, or its records do not hold the quantity.
    """
    if method not in results.runs:
        raise InputError(f"{method}: no record in this study; run it first")
    values = _values(results, method, kind)
    failed = [item["seed"] for item in results.table.failed if item["method"] == method]
    everyone = [value for name in results.runs for value in _values(results, name, kind).values()]
    if failed and everyone:
        low = kind.rpartition("_")[2] in ("worst", "macro")
        values |= dict.fromkeys(failed, min(everyone) if low else max(everyone))
    return values


def contrast(results: ResultSet, weights: Mapping[str, float], kind: str) -> Difference:
    """Return Σ w_m · mean of method m over the seeds that all have; two without common seeds by Welch.

    Raises:
        InputError: A method has fewer than two seeds, whose spread nothing shows.
    """
    if len(weights) == 2:
        (a, first), (b, second) = ((method, seed_values(results, method, kind)) for method in weights)
        if len(first.keys() & second.keys()) < 2:
            return unpaired(
                [weights[a] * value for value in first.values()],
                [-weights[b] * value for value in second.values()],
                _subject_error(results, weights, {a: list(first), b: list(second)}, kind),
                _subjects(results),
            )
    return between_kinds(results, {(method, kind): weight for method, weight in weights.items()})


def between_kinds(results: ResultSet, terms: Mapping[tuple[str, str], float]) -> Difference:
    """Return Σ w · mean over methods and kinds, as :func:`contrast`.

    Errors over subjects of two kinds are added, for nothing shows how they go together.

    Raises:
        InputError: As :func:`contrast`.
    """
    values = {term: seed_values(results, *term) for term in terms}
    seeds = sorted(set.intersection(*(set(own) for own in values.values())))
    rows = [sum(weight * values[term][seed] for term, weight in terms.items()) for seed in seeds]
    error = 0.0
    for kind in dict.fromkeys(kind for _, kind in terms):
        weights = {method: weight for (method, own), weight in terms.items() if own == kind}
        error += _subject_error(results, weights, dict.fromkeys(weights, seeds), kind)
    return paired(rows, error, _subjects(results))


def matched(
    results: ResultSet, method: str, other: str, share: float = 1.0
) -> tuple[Difference, tuple[int, int]]:
    """Return Bias of one method minus that of another at matched utility; pairs matched, pairs.

    For every seed u is the lower of the two runs' best validation Worst; each run is read at its first epoch
    among those audited on the test split whose validation Worst reaches u − 0.005. Pairs whose two values
    differ by more than 0.01 are left out. The error over subjects is that at the selected epochs.

    Args:
        results: Records of both.
        method: The method.
        other: The other.
        share: The other's Bias counts times this.

    Raises:
        InputError: The records hold no epochs, or fewer than two pairs are matched.
    """
    two = results.narrowed((method, other))
    worst = two.by_epoch("epoch_worst")
    bias = two.by_epoch("epoch_bias", "test", results.reference.tolerance)
    seeds = results.seeds(method, other)
    rows, kept = [], []
    for seed in seeds:
        runs = [(method, seed), (other, seed)]
        for run in runs:
            if run not in bias.index:
                raise InputError(f"{run[0]}, seed {seed}: no audits by epoch; records of revision 2 on do")
        common = min(float(worst.loc[run].max()) for run in runs)
        (reached, own), (other_reached, others) = (
            _first_reaching(run, worst, bias, common - BELOW_COMMON) for run in runs
        )
        if abs(reached - other_reached) <= MATCHED_WORST:
            rows.append(own - share * others)
            kept.append(seed)
    error = _subject_error(
        results, {method: 1.0, other: -share}, dict.fromkeys((method, other), kept), "bias"
    )
    return paired(rows, error, _subjects(results)), (len(kept), len(seeds))


def _first_reaching(
    run: tuple[str, int], worst: pd.DataFrame, bias: pd.DataFrame, wanted: float
) -> tuple[float, float]:
    """Return validation Worst and test Bias at a run's first test-audited epoch that reaches ``wanted``."""
    for epoch, found in bias.loc[run].dropna().items():
        reached = float(worst.loc[run].get(epoch, 0.0))
        if reached >= wanted:
            return reached, float(found)
    raise InputError(f"{run[0]}, seed {run[1]}: no audited epoch reaches a validation Worst of {wanted:.3f}")


def _values(results: ResultSet, method: str, kind: str) -> dict[int, float]:
    """Return a quantity of a method by seed, where it is finite."""
    name, _, at = kind.partition("@")
    if at:
        if not hasattr(results.table, f"{name}_curve"):
            raise InputError(f"these records hold no curves of {name}; publish newer ones")
        column = results.curves(method, name)[:, nearest_column(results.curve_tolerances, float(at))]
        found = dict(zip(results.seeds(method), column.tolist(), strict=True))
    elif kind in results.wide:
        found = results.wide.loc[method][kind].to_dict()
    else:
        what = kind.replace("_", " ").replace("bias", "Bias")
        raise InputError(f"these records hold no {what}; publish newer ones")
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def _subject_error(
    results: ResultSet, weights: Mapping[str, float], seeds: Mapping[str, Sequence[int]], kind: str
) -> float:
    """Return the standard error over subjects of Σ w_m · mean over seeds; NaN where nothing shows it.

    Induced tolerances and shares of steps have none. Records of PhysioNet 2012 without logits have the plan's
    bounds of Worst and Macro, which were measured on the same test stays.
    """
    if kind in ("induced/validation", "at_minimum"):
        return 0.0
    table = results.table
    if kind in table.kinds:
        covariance = table.covariance(kind)
        total = np.zeros(len(table.keys))
        for method, weight in weights.items():
            own = results.rows(method, seeds[method])
            rows = [row for row in own if np.isfinite(covariance[row, row])]
            if not rows:
                return math.nan
            total[rows] += weight / len(rows)
        used = np.flatnonzero(total)
        return math.sqrt(max(float(total[used] @ covariance[np.ix_(used, used)] @ total[used]), 0.0))
    if kind in ("worst", "macro") and results.dataset["dataset"] == "physionet2012":
        return WORST_SUBJECTS if kind == "worst" else MACRO_SUBJECTS
    if kind != "raw_bias" and "@" not in kind:
        return math.nan
    shares = []
    for method, weight in weights.items():
        records = [
            record
            for record in results.runs[method]
            if record.seed in seeds[method] and (record.has("") or record.logits("test"))
        ]
        if not records:
            return math.nan
        shares.append(weight * np.mean([_shares(record, kind) for record in records], axis=0))
    return float(np.linalg.norm(np.sum(shares, axis=0)))


def _subjects(results: ResultSet) -> int:
    """Return how many subjects an error is worth: one more than the fewest degrees of freedom."""
    return int(results.table.bias_freedom.min()) + 1


def _shares(record: Record, kind: str) -> np.ndarray:
    """Influences per subject [G] of a record's Bias at its own or the kind's tolerance; audited once."""
    if (record.key, kind) not in _audited:
        name, _, at = kind.partition("@")
        view = name.removesuffix("bias").rstrip("_") if at else ""
        found = audit_record(record, float(at) if at else record.induced_tolerances("test"), view=view)
        _audited[record.key, kind] = influences([found], "bias")[0]
    return _audited[record.key, kind]
