"""What the pages on dense prediction share: raw metrics, two tolerances, protocols, and where scores lie."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_book.evidence.audit_table import AuditTable, audit_record
from relif_book.evidence.contrasts import influences
from relif_book.evidence.results import ResultSet, Rows, method_rows, published, result_set
from relif_book.evidence.trivial import below_constant
from relif_book.figures.tables import Cell, Seeds
from relif_book.project import project_root
from relif_core.audit.comparison import Kind
from relif_core.files import read_json
from relif_core.models.vision import TASKS
from relif_core.problems.dense_utility import relative_change
from relif_core.problems.utility import TaskUtility, Utility
from relif_core.record import Record
from relif_core.settings import as_json
from relif_core.studies.grid import SEVEN_METHODS

if TYPE_CHECKING:
    from relif_book import Page

#: The size of the paper's images, and the height and width of one cell of the undilated encoder's map.
PAPER_SIZE, ENCODER_CELL = (288, 384), 32
#: Columns of raw metrics: title → task, metric, decimals.
Columns = Mapping[str, tuple[str, str, int]]
MAIN: Columns = {
    "mIoU": ("segmentation", "miou", 3),
    "Depth RMSE, m": ("depth", "rmse", 3),
    "Normals mean, °": ("normals", "mean_angle", 1),
}
FURTHER: Columns = {
    "Pixel accuracy": ("segmentation", "pixel_accuracy", 3),
    "Depth abs. error, m": ("depth", "absolute_error", 3),
    "Depth rel. error": ("depth", "relative_error", 3),
    "Normals median, °": ("normals", "median_angle", 1),
    "within 11.25°": ("normals", "within_11.25", 3),
    "within 22.5°": ("normals", "within_22.5", 3),
    "within 30°": ("normals", "within_30", 3),
}


def in_table_order(results: ResultSet) -> ResultSet:
    """Return the results with the paper's seven methods first, in its order, and further ones behind them."""
    others = [method for method in results.summaries if method not in SEVEN_METHODS]
    return results.narrowed([*SEVEN_METHODS, *others])


def against_two(results: ResultSet) -> list[tuple[str, str]]:
    """Return the pairs of ERM with every other method, then of every other one with ReLiF."""
    others = [method for method in results.summaries if method != "erm"]
    return [("erm", method) for method in others] + [
        (method, "relif") for method in others if method != "relif" and "relif" in others
    ]


def image_size(
    page: "Page", results: ResultSet, summary: str = "data/records/nyuv2_data"
) -> tuple[int, int] | None:
    """Return the height and width of the images behind kept records.

    None where the committed constants are of other data.
    """
    sizes = {
        item["fingerprint"]: (item["height"], item["width"])
        for item in read_json(page.record(summary) / "constants.json")
    }
    return sizes.get(results.dataset["fingerprint"])


def size_in_words(size: tuple[int, int] | None) -> str:
    """Return "96 × 128", or that the size is not known here."""
    return f"{size[0]} × {size[1]}" if size else "unknown size"


def published_if_any(page: "Page", folder: str) -> ResultSet | None:
    """Return the kept results of a folder of the checkout, None where it was never published."""
    return in_table_order(published(page, folder)) if (project_root() / folder).is_dir() else None


def two_tolerances(first: ResultSet) -> tuple[ResultSet, ResultSet]:
    """Return the results at the reference tolerance and at half of it.

    The calibrated levels of one model may lie so close together that two of them ask the same question; half
    the tolerance asks a stricter one, and is fixed by the same validation data.
    """
    second = replace(first.reference, tolerance=first.reference.tolerance / 2)
    table = _at(first, second.tolerance)
    return first, result_set(first.label, first.records, second, table, first.study)


def _at(results: ResultSet, tolerance: float) -> AuditTable:
    """Return the audit table of the records at another tolerance; what does not depend on it is kept."""
    old = results.table
    rows = [old.keys.index(record.key) for record in results.records]
    audits = [audit_record(record, tolerance) for record in results.records]
    kinds: tuple[Kind, ...] = ("bias", "violation_rate")
    shares: dict[str, np.ndarray] = {kind: influences(audits, kind) for kind in kinds}
    values: dict[str, Any] = {
        name: np.array([getattr(found, name) for found in audits])
        for kind in kinds
        for name in (kind, f"{kind}_freedom")
    }
    return replace(
        old,
        tolerance=tolerance,
        keys=[record.key for record in results.records],
        raw_bias=old.raw_bias[rows],
        pair_bias=np.array([[row.bias for row in found.per_pair] for found in audits]),
        bias_curve=old.bias_curve[rows],
        violation_rate_curve=old.violation_rate_curve[rows],
        more={},
        shares=shares,
        **values,
        bias_covariance=shares["bias"] @ shares["bias"].T,
        violation_rate_covariance=shares["violation_rate"] @ shares["violation_rate"].T,
    )


def metric(results: ResultSet, method: str, task: str, name: str) -> list[float]:
    """Return a raw test metric of a method, one value per seed; a NaN where it is undefined."""
    return [
        float(_test_metrics(record)[task].get(name, np.nan))
        for record in results.records
        if record.method == method
    ]


def metric_range(results: ResultSet, title: str) -> str:
    """Return the smallest and largest mean over seeds of a metric among the methods, in words."""
    task, name, digits = {**MAIN, **FURTHER}[title]
    means = [float(np.mean(metric(results, method, task, name))) for method in results.summaries]
    low, high = f"{min(means):.{digits}f}", f"{max(means):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def _metrics(results: ResultSet, method: str, columns: Columns) -> dict[str, Cell]:
    return {
        title: Seeds(tuple(metric(results, method, task, name)), digits)
        for title, (task, name, digits) in columns.items()
    }


def table_1_rows(first: ResultSet, second: ResultSet) -> Rows:
    """Return Worst, Macro, the three raw task metrics and Bias at two tolerances per method."""
    rows = method_rows(first, "worst", "macro")
    for method, row in zip(first.summaries, rows, strict=True):
        row |= _metrics(first, method, MAIN)
        for results in (first, second):
            title = f"Bias, δ = {results.reference.tolerance:.3f}"
            row[title] = Seeds(tuple(results.values(method, "bias")), 4)
    return rows


def further_metric_rows(results: ResultSet, single: Sequence[Record] = ()) -> Rows:
    """Return the metrics that Table 1 has no room for, and Δm where ``single`` holds runs of tasks alone."""
    rows = method_rows(results)
    changes = [relative_changes(results, single, method) for method in results.summaries]
    for method, row, change in zip(results.summaries, rows, changes, strict=True):
        if any(changes):
            row["Δm, %"] = Seeds(tuple(change), 1, signed=True)
        row |= _metrics(results, method, FURTHER)
    return rows


def relative_changes(results: ResultSet, single: Sequence[Record], method: str) -> list[float]:
    """Return Δm in percent of a method, one value per seed.

    Seeds count that have a run of every task alone with otherwise the same settings.
    """
    found = []
    for record in results.records:
        alone = {
            other.tasks[0]: other
            for other in single
            if record.method == method and other.seed == record.seed and _comparable(record, other)
        }
        if set(alone) == set(TASKS):
            metrics = {task: _test_metrics(alone[task])[task] for task in TASKS}
            own = {task: TaskUtility(None, values) for task, values in _test_metrics(record).items()}
            found.append(relative_change(Utility(own), metrics))
    return found


def single_task_rows(single: Sequence[Record]) -> Rows:
    """Return the runs of one task alone: what Δm compares with."""
    rows: Rows = []
    for title, (task, name, digits) in MAIN.items():
        members = [record for record in single if record.tasks == (task,)]
        if members:
            values = tuple(_test_metrics(record)[task][name] for record in members)
            rows.append({"Trained alone": task, "Metric": title, "Value": Seeds(values, digits)})
    return rows


def protocol_rows(held_out: ResultSet, released: ResultSet) -> Rows:
    """Return the methods that both protocols have, at each one's own tolerance and calibration."""
    rows: Rows = []
    both = [name for name in held_out.summaries if name in released.summaries]
    for title, results in (("held out", held_out.narrowed(both)), ("as released", released.narrowed(both))):
        for method, row in zip(both, method_rows(results, "worst", "macro"), strict=True):
            named: dict[str, Cell] = {"Method": row.pop("Method"), "Protocol": title, **row}
            named |= _metrics(results, method, MAIN)
            named["δ"] = results.reference.tolerance
            named["Bias"] = Seeds(tuple(results.values(method, "bias")), 4)
            named["Violation rate"] = Seeds(tuple(results.values(method, "violation_rate")))
            named["Scores at 0 or 1, %"] = f"{100 * clipped_share(results, method):.1f}"
            rows.append(named)
    return sorted(rows, key=lambda row: [str(name["Method"]) for name in rows].index(str(row["Method"])))


def beaten_by_constant(results: ResultSet) -> str:
    """Return who lies below a constant in which task, in words that fill "a constant beats …"."""
    found = below_constant(results).removeprefix(f"on {results.data} ")
    if not found.startswith("below a constant in "):
        return "no method in any task"
    parts = [part.partition(": ") for part in found.removeprefix("below a constant in ").split("; ")]
    return ", ".join(f"{names} in {task.lower()}" for task, _, names in parts)


def pools_of(results: ResultSet, method: str, task: str) -> np.ndarray:
    """Return a method's audit scores of a task on the test images, all seeds together."""
    return np.concatenate(
        [record.scores("test")[task] for record in results.records if record.method == method]
    )


def clipped_share(results: ResultSet, method: str) -> float:
    """Return the share of a method's depth and normals scores of the test images clipped to 0 or 1."""
    return float(np.mean([np.isin(pools_of(results, method, task), (0, 1)) for task in TASKS[1:]]))


def score_rows(results: ResultSet) -> Rows:
    """Return where the audit scores of the test images lie, and the shares in % clipped to 0 and to 1."""
    rows: Rows = []
    for row, method in zip(method_rows(results), results.summaries, strict=True):
        for task, title in results.task_titles.items():
            values = pools_of(results, method, task)
            rows.append(
                {
                    "Method": row["Method"],
                    "Task": title,
                    "Mean score": float(values.mean()),
                    "Standard deviation": float(values.std()),
                    "at 0, %": f"{100 * (values == 0).mean():.1f}",
                    "at 1, %": f"{100 * (values == 1).mean():.1f}",
                }
            )
    return rows


def _test_metrics(record: Record) -> dict[str, dict[str, float]]:
    """Task → raw metrics on the test images."""
    return {task: found["metrics"] for task, found in record.result["utility"]["test"]["tasks"].items()}


def _comparable(record: Record, alone: Record) -> bool:
    """Tell whether a run of one task was made on the same data with the same training and model."""
    own, other = record.settings, alone.settings
    return (
        record.content["dataset"]["fingerprint"] == alone.content["dataset"]["fingerprint"]
        and own.training == other.training
        and as_json(own.model) == {k: v for k, v in as_json(other.model).items() if k != "task"}
    )
