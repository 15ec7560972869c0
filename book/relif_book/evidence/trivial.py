"""Rows that train nothing: a constant, the oracle, ERM shrunk to the winner's Bias, ERM temperature-scaled.

A constant predicts the training base rates of a binary or multilabel task and the most frequent training
class of a binned one, so its audit scores are the (largest) rate and that frequency, and every AUROC and
(κ + 1)/2 is 0.5. The oracle's binary scores are the labels, its top labels have probability 1. Both need
label counts, and are left out where one is hidden. Shrinking, p ↦ (1 − ε)p + εc, takes Bias to
(1 − ε)·B(δ/(1 − ε)) and leaves every rank and argmax (theorem T2).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from relif_book.evidence.results import ResultSet, Rows
from relif_book.figures.tables import MISSING, QUANTITIES, Cell, shown
from relif_book.project import project_root
from relif_core.audit import audit
from relif_core.files import read_json
from relif_core.methods import title_of
from relif_core.record import Record

CONSTANT_UTILITY = 0.5
#: The raw metrics of Table 1.
DENSE_METRICS = ("miou/segmentation", "rmse/depth", "mean_angle/normals")


@dataclass(frozen=True)
class TrivialRow:
    """A row without training of its own: name, Worst, Macro, Bias and violation rate as functions of δ.

    ``metrics`` are those of dense tasks; a dense constant has no audit scores, so it has no Bias.
    """

    title: str
    worst: float
    macro: float
    bias: Callable[[float], float] | None = None
    rate: Callable[[float], float] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def cells(self, columns: list[str], tolerance: float, titled: Sequence[float] = ()) -> dict[str, Cell]:
        """Return the row for a table with these columns; what it does not have is a dash.

        A column "… δ = 0.421" is of the one of ``titled`` that rounds to it, else of just this tolerance.
        """
        rounded = {f"{delta:.3f}": delta for delta in titled}
        numbers = {"worst": self.worst, "macro": self.macro, **self.metrics}
        if self.rate is not None:
            numbers["violation_rate"] = self.rate(tolerance)
        if self.bias is not None:
            numbers["bias"] = self.bias(tolerance)
        known = {"Method": self.title}
        known |= {QUANTITIES[name][0]: shown(name, value) for name, value in numbers.items()}
        for column in columns:
            text = column.partition("δ = ")[2]
            if text and self.bias is not None:
                known[column] = shown("bias", self.bias(rounded.get(text) or float(text)))
        return {column: known.get(column, MISSING) for column in columns}


def trivial_rows(results: ResultSet) -> list[TrivialRow]:
    """Return the trivial rows that the records and the published label counts of their data set allow."""
    rows = []
    counts = results.label_counts
    if counts is not None:
        constant = [_constant_score(task["kind"], task["splits"]["train"]) for task in counts]
        if np.isfinite(constant).all():
            rows.append(TrivialRow("Constant", CONSTANT_UTILITY, CONSTANT_UTILITY, _bias_of_points(constant)))
        binary = [task for task in counts if task["kind"] != "binned"]
        if all(
            (task["kind"], task["level"]) == ("binary", "stay")
            and None not in task["splits"]["test"]["counts"]
            for task in binary
        ):
            rows.append(TrivialRow("Oracle", 1.0, 1.0, _oracle_bias(counts)))
    rows += _dense_constants(results)
    if "erm" in results.runs:
        rows += [row for row in (_shrunk(results), _calibrated(results)) if row is not None]
    return rows


def with_trivial(results: ResultSet, rows: Rows, titled: Sequence[float] = ()) -> Rows:
    """Return a table's rows with the trivial ones beneath them (:meth:`TrivialRow.cells`)."""
    return rows + [
        row.cells(list(rows[0]), results.reference.tolerance, titled) for row in trivial_rows(results)
    ]


def untrained_points(results: ResultSet) -> list[tuple[float, float, str]]:
    """Return Bias, Worst and name of the trivial rows for a figure; the oracle lies far above it."""
    tolerance = results.reference.tolerance
    return [
        (row.bias(tolerance), row.worst, row.title)
        for row in trivial_rows(results)
        if row.bias is not None and row.title != "Oracle"
    ]


def below_constant(results: ResultSet) -> dict[str, str]:
    """Return by title of a task who has a mean score below the constant's in it; others have no entry."""
    below = {}
    for task, floor in _floors(results).items():
        means = {method: results.mean(method, f"score/{task}") for method in results.runs}
        named = [title_of(method) for method, mean in means.items() if mean < floor]
        if named:
            below[results.task_titles[task]] = (
                "every method" if len(named) == len(means) else ", ".join(named)
            )
    return below


def constant_in_words(results: ResultSet) -> str:
    """Return who lies below a constant, and on which data: "on … below a constant in …: …"."""
    below = "; ".join(f"{task}: {who}" for task, who in below_constant(results).items())
    said = f"below a constant in {below}" if below else "no method lies below a constant in any task"
    return f"on {results.data} {said}"


def _floors(results: ResultSet) -> dict[str, float]:
    """Return the score of the first constant in every task."""
    if "segmentation" not in results.task_titles:
        return dict.fromkeys(results.task_titles, CONSTANT_UTILITY)
    dense = _constants_of(results)
    tasks = {} if dense is None else dense["rows"][0]["tasks"]
    return {task: tasks[task]["score"] if tasks else 0.0 for task in results.task_titles}


def shrinkage(bias: Callable[[float], float], tolerance: float, wanted: float) -> float:
    """Return the ε at which shrunk scores have Bias ``wanted`` at ``tolerance``; 0 where theirs is less."""
    low, high = 0.0, 1.0 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        above = (1 - middle) * bias(tolerance / (1 - middle)) > wanted
        low, high = (middle, high) if above else (low, middle)
    return low


def _dense_constants(results: ResultSet) -> list[TrivialRow]:
    """Return the predictors that look at no image, of these images or else at another size."""
    item = _constants_of(results)
    if item is None:
        return []
    same = item["fingerprint"] == results.dataset["fingerprint"]
    return [
        TrivialRow(
            row["title"] + ("" if same else f" (at {item['height']} × {item['width']})"),
            row["worst"],
            row["macro"],
            metrics={
                column: row["tasks"][task]["metrics"][name]
                for column in DENSE_METRICS
                for name, _, task in [column.partition("/")]
            },
        )
        for row in item["rows"]
    ]


def _constants_of(results: ResultSet) -> dict[str, Any] | None:
    path = project_root() / "data" / "records" / "nyuv2_data" / "constants.json"
    known = read_json(path) if path.is_file() else []
    known = [item for item in known if item["dataset"] == results.dataset["dataset"]]
    known.sort(key=lambda item: item["fingerprint"] != results.dataset["fingerprint"])
    return known[0] if known else None


def _constant_score(kind: str, part: Mapping[str, Any]) -> float:
    """Return a constant's audit score from the training labels; NaN where a count is hidden or all are 0."""
    counts, labels = part["counts"], part["labels"]
    if None in counts or not labels:
        return float("nan")
    return float(counts[1] if kind == "binary" else max(counts)) / labels


def _bias_of_points(scores: list[float]) -> Callable[[float], float]:
    gaps = np.array([abs(a - b) for a, b in itertools.combinations(scores, 2)])
    return lambda tolerance: float(np.mean(np.maximum(gaps - tolerance, 0)))


def _oracle_bias(counts: list[dict[str, Any]]) -> Callable[[float], float]:
    """Return Bias of scores that are 1 but for the share of negatives of binary tasks."""
    splits = [(task["kind"], task["splits"]["test"]) for task in counts]
    zeros = [part["counts"][0] / part["labels"] if kind == "binary" else 0.0 for kind, part in splits]
    differ = [a * (1 - b) + b * (1 - a) for a, b in itertools.combinations(zeros, 2)]
    return lambda tolerance: float(np.mean(differ)) * max(0.0, 1 - tolerance)


def _shrunk(results: ResultSet) -> TrivialRow | None:
    """Return ERM shrunk to the Bias of the method with the lowest mean; None where that is ERM."""
    winner, delta = results.lowest("bias"), results.reference.tolerance
    if winner == "erm":
        return None
    bias, rate = (_mean_curve(results, kind) for kind in ("bias", "violation_rate"))
    epsilon = shrinkage(bias, delta, results.mean(winner, "bias"))
    title = f"ERM shrunk to {title_of(winner)} (ε = {epsilon:.2f})"
    return _erm_row(
        results,
        title,
        lambda tolerance: (1 - epsilon) * bias(tolerance / (1 - epsilon)),
        lambda tolerance: rate(tolerance / (1 - epsilon)),
    )


def _mean_curve(results: ResultSet, kind: str) -> Callable[[float], float]:
    """Return ERM's mean curve as a function of the tolerance; beyond its grid there is nothing."""
    curve, grid = results.curves("erm", kind).mean(axis=0), results.curve_tolerances
    return lambda tolerance: float(np.interp(tolerance, grid, curve, right=0.0))


def _erm_row(
    results: ResultSet,
    title: str,
    bias: Callable[[float], float],
    rate: Callable[[float], float] | None = None,
) -> TrivialRow:
    """Return a row with ERM's utilities, which neither shrinking nor temperatures change."""
    worst, macro = (results.mean("erm", name) for name in ("worst", "macro"))
    metrics = {name: results.mean("erm", name) for name in DENSE_METRICS if name in results.wide}
    return TrivialRow(title, worst, macro, bias, rate, metrics)


def _calibrated(results: ResultSet) -> TrivialRow | None:
    """Return ERM with one temperature per task that has logits; None where the records hold no scores."""
    title = "ERM, temperature-scaled"
    if results.kind == "dense":
        found = [scores for scores in map(heated_scores, results.runs["erm"]) if scores is not None]
        if len(found) < len(results.runs["erm"]):
            return None

        def mean(kind: Literal["bias", "violation_rate"], tolerance: float) -> float:
            return float(np.mean([getattr(audit(scores, tolerance), kind) for scores in found]))

        return _erm_row(results, title, partial(mean, "bias"), partial(mean, "violation_rate"))
    if "calibrated_bias" not in results.table.kinds:
        return None
    return _erm_row(results, title, _mean_curve(results, "calibrated_bias"))


def heated_scores(record: Record) -> dict[str, np.ndarray] | None:
    """Return a dense run's test scores, segmentation's at the temperature that validation prefers.

    That is the one of the record's temperatures with the least mean loss per validation image; maps of depth
    and normals have none. None where the record keeps no losses.
    """
    losses = record.arrays.get("raw/validation/segmentation_nll")
    if losses is None:
        return None
    heated = record.arrays["raw/test/segmentation"][:, int(losses.mean(axis=0).argmin())]
    return record.scores("test") | {"segmentation": heated}
