"""What the pages on dense prediction share: raw metrics, two tolerances, protocols, and where scores lie."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from relif_book.evidence.audit_table import AuditTable, audit_record, covariances, estimates
from relif_book.evidence.frame import final_frame, wide_frame
from relif_book.evidence.results import ResultSet, Rows, method_rows, published
from relif_book.evidence.trivial import DENSE_METRICS, below_constant
from relif_book.figures.tables import QUANTITIES, Cell, Seeds, decimals, shown
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
#: The raw metrics that Table 1 has no room for.
FURTHER = (
    "pixel_accuracy/segmentation",
    "absolute_error/depth",
    "relative_error/depth",
    "median_angle/normals",
    "within_11.25/normals",
    "within_22.5/normals",
    "within_30/normals",
)


def in_table_order(results: ResultSet) -> ResultSet:
    """Return the results with the paper's seven methods first, in its order, and further ones behind them."""
    others = [method for method in results.runs if method not in SEVEN_METHODS]
    return results.narrowed([*SEVEN_METHODS, *others])


def against_two(results: ResultSet) -> list[tuple[str, str]]:
    """Return the pairs of ERM with every other method, then of every other one with ReLiF."""
    others = [method for method in results.runs if method != "erm"]
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
    return in_table_order(published(page, folder)) if page.awaits(folder) else None


def two_tolerances(first: ResultSet) -> tuple[ResultSet, ResultSet]:
    """Return the results at the reference tolerance and at half of it.

    The calibrated levels of one model may lie so close together that two of them ask the same question; half
    the tolerance asks a stricter one, and is fixed by the same validation data.
    """
    second = replace(first.reference, tolerance=first.reference.tolerance / 2)
    return first, replace(first, reference=second, table=_at(first, second.tolerance))


def _at(results: ResultSet, tolerance: float) -> AuditTable:
    """Return the audit table of the records at another tolerance; what does not depend on it is kept."""
    old = results.table
    rows = [old.keys.index(record.key) for record in results.records]
    numbers, shares = estimates([audit_record(record, tolerance) for record in results.records])
    kept = {name: old.numbers[name][rows] for name in ("raw_bias", "bias_curve", "violation_rate_curve")}
    return replace(
        old,
        tolerance=tolerance,
        keys=[record.key for record in results.records],
        numbers={**numbers, **kept, "curve_tolerances": old.curve_tolerances, **covariances(shares)},
        shares=shares,
    )


def metric_range(results: ResultSet, quantity: str) -> str:
    """Return the smallest and largest mean over seeds of a quantity among the methods, in words."""
    means = [results.mean(method, quantity) for method in results.runs]
    return " to ".join(dict.fromkeys(shown(quantity, end) for end in (min(means), max(means))))


def table_1_rows(first: ResultSet, second: ResultSet) -> Rows:
    """Return Worst, Macro, the three raw task metrics and Bias at two tolerances per method."""
    rows = method_rows(first, "worst", "macro", *DENSE_METRICS)
    for results in (first, second):
        for row, own in zip(rows, method_rows(results, "bias"), strict=True):
            row[f"Bias, δ = {results.reference.tolerance:.3f}"] = own["Bias"]
    return rows


def further_metric_rows(results: ResultSet, single: Sequence[Record] = ()) -> Rows:
    """Return the metrics that Table 1 has no room for, and Δm where ``single`` holds runs of tasks alone."""
    changes = [relative_changes(results, single, method) for method in results.runs]
    rows = method_rows(results)
    for row, change, metrics in zip(rows, changes, method_rows(results, *FURTHER), strict=True):
        if any(changes):
            row["Δm, %"] = Seeds(tuple(change), 1, signed=True)
        row |= metrics
    return rows


def relative_changes(results: ResultSet, single: Sequence[Record], method: str) -> list[float]:
    """Return Δm in percent of a method, one value per seed.

    Seeds count that have a run of every task alone with otherwise the same settings.
    """
    found = []
    for record in results.runs[method]:
        alone = [other for other in single if other.seed == record.seed and _comparable(record, other)]
        base = {task: values for other in alone for task, values in _test_metrics(other).items()}
        if set(base) == set(TASKS):
            own = {task: TaskUtility(None, values) for task, values in _test_metrics(record).items()}
            found.append(relative_change(Utility(own), {task: base[task] for task in TASKS}))
    return found


def single_task_rows(single: Sequence[Record]) -> Rows:
    """Return the runs of one task alone: what Δm compares with."""
    frame = wide_frame(final_frame(single)) if single else pd.DataFrame()
    return [
        {
            "Trained alone": column.partition("/")[2],
            "Metric": QUANTITIES[column][0],
            "Value": Seeds(tuple(frame[column].dropna()), decimals(column)),
        }
        for column in DENSE_METRICS
        if column in frame
    ]


def protocol_rows(held_out: ResultSet, released: ResultSet) -> Rows:
    """Return the methods that both protocols have, at each one's own tolerance and calibration."""
    both = [method for method in held_out.runs if method in released.runs]
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for title, results in (("held out", held_out.narrowed(both)), ("as released", released.narrowed(both))):
        metrics = method_rows(results, "worst", "macro", *DENSE_METRICS)
        audits = method_rows(results, "bias", "violation_rate")
        for method, row, audit in zip(both, metrics, audits, strict=True):
            clipped = f"{100 * clipped_share(results, method):.1f}"
            found[method, title] = {
                "Method": row.pop("Method"), "Protocol": title, **row, "δ": results.reference.tolerance,
                "Bias": audit["Bias"], "Violation rate": audit["Violation rate"],
                "Scores at 0 or 1, %": clipped,
            }  # fmt: skip
    return [found[method, title] for method in both for title in ("held out", "as released")]


def beaten_by_constant(results: ResultSet) -> str:
    """Return who lies below a constant in which task, in words that fill "a constant beats …"."""
    below = below_constant(results)
    return ", ".join(f"{who} in {task.lower()}" for task, who in below.items()) or "no method in any task"


def pools_of(results: ResultSet, method: str, task: str) -> np.ndarray:
    """Return a method's audit scores of a task on the test images, all seeds together."""
    return np.concatenate([record.scores("test")[task] for record in results.runs[method]])


def clipped_share(results: ResultSet, method: str) -> float:
    """Return the share of a method's depth and normals scores of the test images clipped to 0 or 1."""
    return float(np.mean([np.isin(pools_of(results, method, task), (0, 1)) for task in TASKS[1:]]))


def score_rows(results: ResultSet) -> Rows:
    """Return where the audit scores of the test images lie, and the shares in % clipped to 0 and to 1."""
    rows: Rows = []
    for row, method in zip(method_rows(results), results.runs, strict=True):
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
    """Return the raw metrics per task on the test images."""
    return {task: found["metrics"] for task, found in record.result["utility"]["test"]["tasks"].items()}


def _comparable(record: Record, alone: Record) -> bool:
    """Tell whether a run of one task was made on the same data with the same training and model."""
    own, other = record.settings, alone.settings
    return (
        record.content["dataset"]["fingerprint"] == alone.content["dataset"]["fingerprint"]
        and own.training == other.training
        and as_json(own.model) == {k: v for k, v in as_json(other.model).items() if k != "task"}
    )
