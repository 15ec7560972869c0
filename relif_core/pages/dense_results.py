"""What the pages on dense prediction share: quick runs on synthetic rooms, two tolerances, and the rows of Tables 1 and 7."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_core.datasets.folder import read_manifest
from relif_core.dense import weights_identity
from relif_core.errors import RecordError
from relif_core.pages.results import ResultSet, comparison_rows, result_set, title_of
from relif_core.pages.tables import mean_sd
from relif_core.record import Record
from relif_core.reporting import compare_methods
from relif_core.settings import dense_changes
from relif_core.study import grid, run_study

if TYPE_CHECKING:
    from relif_core.pages import Page

#: A run of a few seconds on a processor; far too little training for a verdict.
QUICK: dict[str, Any] = {
    "model": {"encoder": "resnet18"},
    "training": {"epochs": 2, "learning_rate": 1e-3},
    "controller": {"warmup": 2},
}
QUICK_ROOMS: dict[str, Any] = {
    "frames": 64,
    "height": 48,
    "width": 64,
    "views": 1,
    "validation_fraction": 0.4,
    "seed": 0,
}
SEVEN_METHODS = ("erm", "uncertainty", "gradnorm", "pcgrad", "fairgrad", "cats_as_released", "relif")


def this_run(
    page: "Page",
    methods: Sequence[str],
    folder: Path,
    *,
    data: str = "",
    seeds: int = 1,
    epochs: int = 0,
    device: str = "cpu",
    workers: int = 1,
    weights: str = "",
) -> list[Record]:
    """Bring every method (ERM among them) to a record under ``folder`` and return the records.

    ``data`` is a dense tensor folder (empty: synthetic rooms, rendered into ``folder``), ``weights`` a file of encoder weights (empty:
    random). Raises ``RecordError`` where a run failed.
    """
    page.device = device
    tensors = Path(data) if data else quick_rooms(folder)
    precision = "bfloat16" if device.startswith("cuda") else "float32"
    changes = page.choose(quick=QUICK, full={"training": {"precision": precision}})
    if epochs:
        changes = {**changes, "training": {**changes["training"], "epochs": epochs}}
    if weights:
        changes = {**changes, "model": {**changes.get("model", {}), "weights": weights_identity(weights)}}
    summary = run_study(
        grid(methods, range(seeds), **dense_changes(**changes)),
        tensors,
        folder / "records",
        workers=workers,
        device=device,
        weights=Path(weights) if weights else None,
    )
    if summary.failed:
        raise RecordError("; ".join(f"{job}: {problem}" for job, problem in summary.failed.items()))
    manifest = read_manifest(tensors)
    page.uses_data(manifest["title"], licence=manifest["licence"], synthetic=manifest["synthetic"])
    print(f"{len(summary.records)} runs on {manifest['title']}")
    return summary.records


def quick_rooms(folder: Path) -> Path:
    """Return the tensor folder of the synthetic rooms that quick pages use, rendered where it is missing."""
    from relif_core.datasets.synthetic_rooms import prepare

    target = folder / "rooms"
    return target if (target / "manifest.json").is_file() else prepare(None, target, **QUICK_ROOMS)


def scratch_folder(runs: str) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    """Return the folder that keeps a page's runs: the one named, or a temporary one to be cleaned up by the page."""
    if runs:
        return Path(runs), None
    scratch = tempfile.TemporaryDirectory()
    return Path(scratch.name), scratch


def two_tolerances(first: ResultSet) -> tuple[ResultSet, ResultSet]:
    """Return the results at the reference tolerance and at half of it.

    The calibrated levels of one model may lie so close together that two of them ask the same question; half the
    tolerance asks a stricter one, and is fixed by the same validation data.
    """
    second = replace(first.reference, tolerance=first.reference.tolerance / 2)
    return first, result_set(first.label, first.records, second)


def table_1_rows(first: ResultSet, second: ResultSet) -> list[dict[str, str | int]]:
    """Worst, Macro, the three raw task metrics and Bias at two tolerances per method: mean ± standard deviation over seeds."""
    rows: list[dict[str, str | int]] = []
    for method, summary in first.summaries.items():
        rows.append(
            {
                "Method": title_of(method),
                "Seeds": len(summary.seeds),
                "Worst": mean_sd(summary.worst),
                "Macro": mean_sd(summary.macro),
                "mIoU": mean_sd(metric(first, method, "segmentation", "miou")),
                "Depth RMSE, m": mean_sd(metric(first, method, "depth", "rmse")),
                "Normals mean, °": mean_sd(metric(first, method, "normals", "mean_angle"), 1),
                f"Bias, δ = {first.reference.tolerance:.3f}": mean_sd(summary.bias, 4),
                f"Bias, δ = {second.reference.tolerance:.3f}": mean_sd(second.summaries[method].bias, 4),
            }
        )
    return rows


def further_metric_rows(results: ResultSet) -> list[dict[str, str]]:
    """The metrics that Table 1 has no room for, per method."""
    return [
        {
            "Method": title_of(method),
            "Pixel accuracy": mean_sd(metric(results, method, "segmentation", "pixel_accuracy")),
            "Depth abs. error, m": mean_sd(metric(results, method, "depth", "absolute_error")),
            "Depth rel. error": mean_sd(metric(results, method, "depth", "relative_error")),
            "Normals median, °": mean_sd(metric(results, method, "normals", "median_angle"), 1),
            "within 11.25°": mean_sd(metric(results, method, "normals", "within_11.25")),
            "within 22.5°": mean_sd(metric(results, method, "normals", "within_22.5")),
            "within 30°": mean_sd(metric(results, method, "normals", "within_30")),
        }
        for method in results.summaries
    ]


def violation_rows(results: ResultSet) -> list[dict[str, str]]:
    """Violation rate per method at one tolerance: mean ± seed spread, interval over rooms, and every task pair."""
    rows = []
    for method, summary in results.summaries.items():
        low, high = summary.interval("violation_rate")
        rows.append(
            {
                "Method": title_of(method),
                "Violation rate": mean_sd(summary.violation_rate, 3),
                "Smallest and largest seed": f"{min(summary.violation_rate):.3f} to {max(summary.violation_rate):.3f}",
                "95 % interval over rooms": f"[{low:.3f}, {high:.3f}]",
                "Bias": mean_sd(summary.bias, 4),
                "Mean drift budget": mean_sd(summary.budget, 3),
            }
        )
    return rows


def score_rows(results: ResultSet) -> list[dict[str, str]]:
    """Where the audit scores of the test images lie: mean over images and seeds, and the shares clipped to 0 and to 1."""
    rows = []
    for method in results.summaries:
        for task in results.task_titles:
            pools = [record.scores("test")[task] for record in results.records if record.method == method]
            values = np.concatenate(pools)
            rows.append(
                {
                    "Method": title_of(method),
                    "Task": results.task_titles[task],
                    "Mean score": f"{values.mean():.3f}",
                    "Standard deviation": f"{values.std():.3f}",
                    "at 0": f"{100 * (values == 0).mean():.1f} %",
                    "at 1": f"{100 * (values == 1).mean():.1f} %",
                }
            )
    return rows


def against_erm(results: ResultSet) -> list[dict[str, str]]:
    """Every other method minus ERM, as ``comparison_rows``; one row that says so where only ERM has records."""
    others = [("erm", method) for method in results.summaries if method != "erm"]
    return comparison_rows(results, others) if others else [{"Comparison": "only ERM has records"}]


def verdict(results: ResultSet) -> str:
    """Say in a sentence what the records tell of ReLiF's Bias against ERM's, and how far the penalty weight moved."""
    if "relif" not in results.summaries:
        return "The records hold no ReLiF run yet, so they compare nothing"
    found = compare_methods(results.summaries["erm"], results.summaries["relif"])
    low, high = found.interval
    reading = "holds zero" if low <= 0 <= high else "lies below zero" if high < 0 else "lies above zero"
    traces = [record.trace("weight") for record in results.records if record.method == "relif"]
    ends = sorted({f"{trace[-1]:.3f}" for trace in traces})
    return (
        f"Bias differs by {np.mean(found.differences):+.4f} (ReLiF minus ERM); the 95 % interval over test rooms, [{low:+.4f}, {high:+.4f}], "
        f"{reading}. The penalty weight, 0.1 during the first {results.records[0].settings.controller.warmup} updates, stands at "
        f"{' and '.join(ends)} after {len(traces[0])}"
    ).replace("-", "−")


def metric(results: ResultSet, method: str, task: str, name: str) -> list[float]:
    """Return a raw test metric of a method, one value per seed; a NaN where it is undefined."""
    found = [
        record.result["utility"]["test"]["tasks"][task]["metrics"].get(name, np.nan)
        for record in results.records
        if record.method == method
    ]
    return [float(value) for value in found]
