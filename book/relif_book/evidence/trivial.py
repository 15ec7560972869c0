"""Rows that train nothing: a constant, the oracle, ERM shrunk to the winner's Bias, ERM temperature-scaled.

A constant predicts the training base rate of a binary task and the most frequent training class of a binned
one, so its audit scores are that rate and that frequency, and every AUROC and (κ + 1)/2 is 0.5. The oracle's
binary scores are the labels, its top labels have probability 1. Both need only label counts. Shrinking, p ↦
(1 − ε)p + εc, takes Bias to (1 − ε)·B(δ/(1 − ε)) and leaves every rank and argmax (theorem T2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from relif_book.evidence.results import ResultSet, Rows
from relif_book.figures.tables import MISSING, Cell
from relif_book.project import project_root
from relif_core.audit import audit
from relif_core.files import read_json
from relif_core.methods import title_of
from relif_core.record import Record

CONSTANT_UTILITY = 0.5
#: Columns of dense tables and where a utility holds them.
DENSE_METRICS = {
    "mIoU": ("segmentation", "miou"),
    "Depth RMSE, m": ("depth", "rmse"),
    "Normals mean, °": ("normals", "mean_angle"),
}


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
        known = {"Method": self.title, "Worst": f"{self.worst:.3f}", "Macro": f"{self.macro:.3f}"}
        known |= {
            name: f"{value:.1f}" if "°" in name else f"{value:.3f}" for name, value in self.metrics.items()
        }
        if self.rate is not None:
            known["Violation rate"] = f"{self.rate(tolerance):.3f}"
        if self.bias is not None:
            known["Bias"] = f"{self.bias(tolerance):.4f}"
            for column in columns:
                text = column.partition("δ = ")[2]
                if text:
                    known[column] = f"{self.bias(rounded.get(text) or float(text)):.4f}"
        return {column: known.get(column, MISSING) for column in columns}


def trivial_rows(results: ResultSet) -> list[TrivialRow]:
    """Return the trivial rows that the records and the published label counts of their data set allow."""
    rows = []
    counts = results.label_counts
    if counts is not None:
        constant = [_constant_score(task["kind"], task["splits"]["train"]["counts"]) for task in counts]
        rows.append(TrivialRow("Constant", CONSTANT_UTILITY, CONSTANT_UTILITY, _bias_of_points(constant)))
        if all(
            task["kind"] == "binned" or (task["kind"], task["level"]) == ("binary", "stay") for task in counts
        ):
            rows.append(TrivialRow("Oracle", 1.0, 1.0, _oracle_bias(counts)))
    rows += _dense_constants(results)
    if "erm" in results.summaries:
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


def below_constant(results: ResultSet) -> str:
    """Name the methods whose mean score of some task lies below the constant's."""
    below = []
    for task, floor in _floors(results).items():
        scores = {method: results.values(method, f"score/{task}") for method in results.summaries}
        named = [title_of(method) for method, known in scores.items() if known and np.mean(known) < floor]
        if named:
            which = "every method" if len(named) == len(scores) else ", ".join(named)
            below.append(f"{results.task_titles[task]}: {which}")
    if not below:
        return f"on {results.data} no method lies below a constant in any task"
    return f"on {results.data} below a constant in {'; '.join(below)}"


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
                title: row["tasks"][task]["metrics"][name] for title, (task, name) in DENSE_METRICS.items()
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


def _constant_score(kind: str, counts: list[int | None]) -> float:
    known = [count or 0 for count in counts]
    return known[1] / sum(known) if kind == "binary" else max(known) / sum(known)


def _bias_of_points(scores: list[float]) -> Callable[[float], float]:
    gaps = np.array([abs(a - b) for place, a in enumerate(scores) for b in scores[place + 1 :]])
    return lambda tolerance: float(np.mean(np.maximum(gaps - tolerance, 0)))


def _oracle_bias(counts: list[dict[str, Any]]) -> Callable[[float], float]:
    """Bias of scores that are 1 but for the share of negatives of binary tasks."""
    zeros = [
        task["splits"]["test"]["counts"][0] / task["splits"]["test"]["labels"]
        if task["kind"] == "binary"
        else 0.0
        for task in counts
    ]
    differ = [a * (1 - b) + b * (1 - a) for place, a in enumerate(zeros) for b in zeros[place + 1 :]]
    return lambda tolerance: float(np.mean(differ)) * max(0.0, 1 - tolerance)


def _shrunk(results: ResultSet) -> TrivialRow | None:
    """ERM shrunk to the Bias of the method with the lowest mean; None where that is ERM."""
    means = {method: float(np.mean(summary.bias)) for method, summary in results.shared.summaries.items()}
    winner = min(means, key=lambda method: means[method])
    if winner == "erm":
        return None
    erm = results.summaries["erm"]
    curve = erm.table.bias_curve[erm.rows].mean(axis=0)

    rates = erm.table.violation_rate_curve[erm.rows].mean(axis=0)

    def bias(tolerance: float) -> float:
        return float(np.interp(tolerance, erm.table.curve_tolerances, curve, right=0.0))

    def rate(tolerance: float) -> float:
        return float(np.interp(tolerance, erm.table.curve_tolerances, rates, right=0.0))

    epsilon = shrinkage(bias, results.reference.tolerance, float(np.mean(results.summaries[winner].bias)))
    return TrivialRow(
        f"ERM shrunk to {title_of(winner)} (ε = {epsilon:.2f})",
        float(np.mean(erm.worst)),
        float(np.mean(erm.macro)),
        lambda tolerance: (1 - epsilon) * bias(tolerance / (1 - epsilon)),
        lambda tolerance: rate(tolerance / (1 - epsilon)),
        _erm_metrics(results),
    )


def _erm_metrics(results: ResultSet) -> dict[str, float]:
    """Return ERM's mean dense metrics, which shrinking leaves; none for clinical tasks."""
    if "segmentation" not in results.task_titles:
        return {}
    tasks = [
        record.result["utility"]["test"]["tasks"] for record in results.records if record.method == "erm"
    ]
    return {
        title: float(np.mean([found[task]["metrics"][name] for found in tasks]))
        for title, (task, name) in DENSE_METRICS.items()
    }


def _calibrated(results: ResultSet) -> TrivialRow | None:
    """ERM with one temperature per task that has logits; None where the records do not hold its scores."""
    erm = results.summaries["erm"]
    title, worst, macro = "ERM, temperature-scaled", float(np.mean(erm.worst)), float(np.mean(erm.macro))
    if "segmentation" in results.task_titles:
        scaled = [heated_scores(record) for record in results.records if record.method == "erm"]
        found = [scores for scores in scaled if scores is not None]
        if len(found) < len(scaled):
            return None

        def mean(kind: Literal["bias", "violation_rate"], tolerance: float) -> float:
            return float(np.mean([getattr(audit(scores, tolerance), kind) for scores in found]))

        bias, rate = (partial(mean, kind) for kind in ("bias", "violation_rate"))
        return TrivialRow(title, worst, macro, bias, rate, _erm_metrics(results))
    if "calibrated_bias" not in erm.table.kinds:
        return None
    curve = erm.table.calibrated_bias_curve[erm.rows].mean(axis=0)
    return TrivialRow(
        title, worst, macro, lambda tolerance: float(np.interp(tolerance, erm.table.curve_tolerances, curve))
    )


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
