"""What the pages on dense prediction share: quick synthetic runs, two tolerances, rows of Tables 1 and 7."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_book.evidence.audit_table import AuditTable, audit_record
from relif_book.evidence.contrasts import influences
from relif_book.evidence.publishing import read_single_task
from relif_book.evidence.reporting import compare_methods
from relif_book.evidence.results import (
    ResultSet,
    certified_pairs,
    comparison_rows,
    published,
    result_set,
    title_of,
)
from relif_book.figures.method_plots import label_apart
from relif_book.figures.style import colour_of, marker_of
from relif_book.figures.tables import MISSING, mean_sd
from relif_book.project import project_root
from relif_core.audit.comparison import Kind
from relif_core.errors import RecordError
from relif_core.methods import look_of
from relif_core.models.vision import TASKS
from relif_core.problems.dense import weights_identity
from relif_core.problems.dense_utility import relative_change
from relif_core.problems.utility import TaskUtility, Utility
from relif_core.record import Record
from relif_core.settings import TrainingSettings, as_json, dense_changes
from relif_core.studies.grid import SEVEN_METHODS, grid, run_study
from relif_core.tensors.folder import read_manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from relif_book import Page

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
#: In pixels: height and width of the paper's images, and the side of a cell of the undilated encoder's map.
PAPER_SIZE, ENCODER_CELL = (288, 384), 32


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
    """Bring every method (ERM among them) to a record and return the records.

    Args:
        page: Told what was used.
        methods: Keys of the methods.
        folder: Of the records.
        data: Dense tensors; empty: synthetic rooms, rendered into ``folder``.
        seeds: Number of seeds.
        epochs: Of training; 0: what the profile says.
        device: "cpu" or "cuda".
        workers: Runs at a time.
        weights: File of encoder weights; empty: random.

    Raises:
        RecordError: A run failed.
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
    from relif_data.synthetic_rooms import prepare

    target = folder / "rooms"
    return target if (target / "manifest.json").is_file() else prepare(None, target, **QUICK_ROOMS)


def scratch_folder(runs: str) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    """Return the folder of a page's runs: the one named, or a temporary one that the page cleans up."""
    if runs:
        return Path(runs), None
    scratch = tempfile.TemporaryDirectory()
    return Path(scratch.name), scratch


def in_table_order(results: ResultSet) -> ResultSet:
    """Put the paper's seven methods first, in its order, and further methods behind them."""
    others = [method for method in results.summaries if method not in SEVEN_METHODS]
    return results.narrowed([*SEVEN_METHODS, *others])


def without_single_tasks(records: Sequence[Record]) -> list[Record]:
    """Return the records that an audit can read: those of more than one task."""
    return [record for record in records if not look_of(record.method).dense]


def image_size(
    page: "Page", results: ResultSet, summary: str = "data/records/nyuv2_data"
) -> tuple[int, int] | None:
    """Return height and width of published records' images; None where the summary is of other data."""
    content = json.loads((page.record(summary) / "summary.json").read_text(encoding="utf-8"))
    same = content["fingerprint"] == results.dataset["fingerprint"]
    return (content["height"], content["width"]) if same else None


def size_in_words(size: tuple[int, int] | None) -> str:
    """Return "96 × 128", or that the size is not known here."""
    return f"{size[0]} × {size[1]}" if size else "unknown size"


def is_small(results: ResultSet) -> bool:
    """Tell whether records fall short of the paper's training (100 epochs)."""
    return results.records[0].settings.training.epochs < TrainingSettings.epochs


def kind_of_records(results: ResultSet) -> str:
    """Return how captions call published records."""
    return "Published, small records" if is_small(results) else "Published"


def limits(results: ResultSet, size: tuple[int, int] | None) -> str:
    """Say what published records are, what they lack against the paper's, and what to read from them."""
    training = results.records[0].settings.training
    missing = [title_of(method) for method in SEVEN_METHODS if method not in results.summaries]
    fewest, most = results.seed_counts
    seeds = "one seed" if most == 1 else f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    lacks = []
    if size and size != PAPER_SIZE:
        lacks.append(f"images of {size_in_words(size)} instead of {size_in_words(PAPER_SIZE)} pixels")
    if is_small(results):
        lacks.append(f"{training.epochs} epochs instead of {TrainingSettings.epochs}")
    if most < 7:
        lacks.append(f"{seeds} per method instead of seven")
    if missing:
        lacks.append(f"no record of {', '.join(missing)}")
    if not lacks:
        return f"These records hold all seven methods with {seeds} at the settings of the paper"
    text = (
        f"{'These are small records' if is_small(results) else 'These records fall short of the paper'}:"
        f" {'; '.join(lacks)}. "
    )
    if most == 1:
        text += (
            "With one seed nothing tells a method from the luck of its initial weights and batch order: an"
            " interval over rooms holds the trained models as they are, so no order of methods in these"
            " tables is established by it. "
        )
    if is_small(results):
        text += (
            "They show that the whole road works on the real images and what numbers look like early in"
            " training. "
        )
    return text + "They do not test the paper's claim about NYUv2"


def published_if_any(page: "Page", folder: str) -> ResultSet | None:
    """Return the published results of a folder of the checkout, None where it was never published."""
    return in_table_order(published(page, folder)) if (project_root() / folder).is_dir() else None


def single_task_records(page: "Page", folder: str) -> list[Record]:
    """Return the runs of one task alone that were published beside a study; none where there are none."""
    return read_single_task(page.record(folder))


def two_tolerances(first: ResultSet) -> tuple[ResultSet, ResultSet]:
    """Return the results at the reference tolerance and at half of it.

    The calibrated levels of one model may lie so close together that two of them ask the same question; half
    the tolerance asks a stricter one, and is fixed by the same validation data.
    """
    second = replace(first.reference, tolerance=first.reference.tolerance / 2)
    return first, result_set(first.label, first.records, second, _at(first, second.tolerance))


def _at(results: ResultSet, tolerance: float) -> AuditTable:
    """Audit the records at another tolerance; what does not depend on it is taken over."""
    old = next(iter(results.summaries.values())).table
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


def table_1_rows(first: ResultSet, second: ResultSet) -> list[dict[str, str | int]]:
    """Worst, Macro, three raw metrics and Bias at two tolerances per method: mean ± sd over seeds."""
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


def further_metric_rows(results: ResultSet, single: Sequence[Record] = ()) -> list[dict[str, str]]:
    """The metrics without room in Table 1, and Δm where ``single`` holds runs of every task alone."""
    changes = {method: relative_changes(results, single, method) for method in results.summaries}
    shown = any(changes.values())
    return [
        {
            "Method": title_of(method),
            **(
                {"Δm, %": mean_sd(changes[method], 1).replace("-", "−") if changes[method] else MISSING}
                if shown
                else {}
            ),
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


def relative_changes(results: ResultSet, single: Sequence[Record], method: str) -> list[float]:
    """Return a method's Δm in percent per seed that has single-task runs of otherwise equal settings."""
    found = []
    for record in results.records:
        if record.method != method:
            continue
        alone = {
            other.tasks[0]: other
            for other in single
            if other.seed == record.seed and _comparable(record, other)
        }
        if set(alone) == set(TASKS):
            metrics = {task: _test_metrics(alone[task])[task] for task in TASKS}
            own = {task: TaskUtility(None, values) for task, values in _test_metrics(record).items()}
            found.append(relative_change(Utility(own), metrics))
    return found


def single_task_rows(single: Sequence[Record]) -> list[dict[str, str | int]]:
    """The runs of one task alone: what Δm compares with."""
    titles = {"miou": "mIoU", "rmse": "depth RMSE, m", "mean_angle": "normals mean, °"}
    rows: list[dict[str, str | int]] = []
    for task in TASKS:
        members = [record for record in single if record.tasks == (task,)]
        for name in _test_metrics(members[0])[task] if members else ():
            if name in titles:
                values = [_test_metrics(record)[task][name] for record in members]
                rows.append(
                    {
                        "Trained alone": task,
                        "Seeds": len(members),
                        "Metric": titles[name],
                        "Value": mean_sd(values),
                    }
                )
    return rows


def protocol_rows(held_out: ResultSet, released: ResultSet) -> list[dict[str, str]]:
    """ERM, ReLiF and whatever else both protocols have, at each protocol's own tolerance and calibration."""
    rows = []
    for method in [name for name in held_out.summaries if name in released.summaries]:
        for title, results in (("held out", held_out), ("as released", released)):
            summary = results.summaries[method]
            rows.append(
                {
                    "Method": title_of(method),
                    "Protocol": title,
                    "Worst": mean_sd(summary.worst),
                    "Macro": mean_sd(summary.macro),
                    "mIoU": mean_sd(metric(results, method, "segmentation", "miou")),
                    "Depth RMSE, m": mean_sd(metric(results, method, "depth", "rmse")),
                    "Normals mean, °": mean_sd(metric(results, method, "normals", "mean_angle"), 1),
                    "δ": f"{results.reference.tolerance:.3f}",
                    "Bias": mean_sd(summary.bias, 4),
                    "Violation rate": mean_sd(summary.violation_rate, 3),
                    "Scores at 0 or 1": f"{100 * clipped_share(results, method):.1f} %",
                }
            )
    return rows


def protocol_sentence(held_out: ResultSet, released: ResultSet | None) -> str:
    """Say in numbers what selecting and calibrating on the test images does, or that no records show it."""
    if released is None:
        return "No records of the protocol as released are published yet"
    methods = [name for name in held_out.summaries if name in released.summaries]
    parts = []
    for method in methods:
        before, after = held_out.summaries[method], released.summaries[method]
        parts.append(
            f"{title_of(method)} moves by {np.mean(after.worst) - np.mean(before.worst):+.3f} in Worst, by "
            f"{np.mean(after.bias) - np.mean(before.bias):+.4f} in Bias"
        )
    gains = [
        max(record.result["history"]["worst"]) - record.result["history"]["worst"][-1]
        for record in released.records
    ]
    return (
        f"From held out to as released, {'; '.join(parts)}. Choosing the epoch on the test images themselves"
        f" gains {max(gains):.3f} in test Worst over taking the last epoch, at most; the tolerance goes from"
        f" {held_out.reference.tolerance:.3f} to {released.reference.tolerance:.3f}; and"
        f" {100 * clipped_share(held_out, 'erm'):.0f} % of ERM's depth and normals scores are clipped held"
        f" out against {100 * clipped_share(released, 'erm'):.0f} % as released, where the calibration fixes"
        " that share"
    ).replace("-", "−")


def clipped_share(results: ResultSet, method: str) -> float:
    """Return the share of a method's depth and normals test scores that are clipped to 0 or 1."""
    pools = [
        record.scores("test")[task]
        for record in results.records
        if record.method == method
        for task in ("depth", "normals")
    ]
    return float(np.isin(np.concatenate(pools), (0, 1)).mean())


def violation_rows(results: ResultSet) -> list[dict[str, str]]:
    """Violation rate per method at a tolerance: mean ± seed spread, interval over rooms, task pairs."""
    rows = []
    for method, summary in results.summaries.items():
        low, high = summary.interval("violation_rate")
        rows.append(
            {
                "Method": title_of(method),
                "Violation rate": mean_sd(summary.violation_rate, 3),
                "Smallest and largest seed": (
                    f"{min(summary.violation_rate):.3f} to {max(summary.violation_rate):.3f}"
                ),
                "95 % interval over rooms": f"[{low:.3f}, {high:.3f}]",
                "Bias": mean_sd(summary.bias, 4),
                "Mean drift budget": mean_sd(summary.budget, 3),
            }
        )
    return rows


def score_rows(results: ResultSet) -> list[dict[str, str]]:
    """Where the test images' audit scores lie: mean over images and seeds, shares clipped to 0 and 1."""
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


def comparisons(results: ResultSet) -> list[dict[str, str]]:
    """Every other method minus ERM, then ReLiF minus every other; one row saying so if only ERM is there."""
    others = [method for method in results.summaries if method != "erm"]
    pairs = [("erm", method) for method in others]
    if "relif" in others:
        pairs += [(method, "relif") for method in others if method != "relif"]
    return comparison_rows(results, pairs) if pairs else [{"Comparison": "only ERM has records"}]


def certificates(results: ResultSet) -> str:
    """Say how many orders in Bias between two methods are certified at the fixed tolerance."""
    found, pairs = certified_pairs(results)
    return f"{found} of {pairs}"


def verdict(results: ResultSet) -> str:
    """Say what the records tell of ReLiF's Bias against ERM's, its place, and how far its weight moved."""
    if "relif" not in results.summaries:
        return "The records hold no ReLiF run yet, so they compare nothing"
    summaries = results.shared.summaries
    found = compare_methods(results.summaries["erm"], results.summaries["relif"])
    biases = sorted(float(np.mean(summary.bias)) for summary in summaries.values())
    place = 1 + biases.index(float(np.mean(summaries["relif"].bias)))
    rank = (
        f" In mean Bias ReLiF stands at place {place} of {len(biases)} (1 is lowest)."
        if len(biases) > 2
        else ""
    )
    low, high = found.interval
    reading = "holds zero" if low <= 0 <= high else "lies below zero" if high < 0 else "lies above zero"
    traces = [record.trace("weight") for record in results.records if record.method == "relif"]
    ends = sorted({f"{trace[-1]:.3f}" for trace in traces})
    return (
        f"Bias differs by {np.mean(found.differences):+.4f} (ReLiF minus ERM); the 95 % interval over test"
        f" rooms, [{low:+.4f}, {high:+.4f}], {reading}.{rank} The penalty weight, 0.1 during the first"
        f" {results.records[0].settings.controller.warmup} updates, stands at {' and '.join(ends)} after"
        f" {len(traces[0])}"
    ).replace("-", "−")


def draw_progress(axes: "Axes", results: ResultSet) -> None:
    """Draw validation Worst after every epoch of every run, named at its end."""
    from matplotlib.ticker import MaxNLocator

    places = []
    for method in results.summaries:
        name = title_of(method)
        runs = [record for record in results.records if record.method == method]
        for record in runs:
            values = record.result["history"]["worst"]
            axes.plot(
                range(1, len(values) + 1),
                values,
                color=colour_of(method),
                marker=marker_of(method) if len(values) < 20 else None,
                markersize=5,
                linewidth=1.4,
                linestyle=("-", "--", ":", "-.")[record.seed % 4],
            )
        ends = [record.result["history"]["worst"] for record in runs]
        places.append((max(map(len, ends)), float(np.mean([values[-1] for values in ends])), name))
    axes.set(xlabel="epoch", ylabel="validation Worst", title=results.label)
    axes.set_ylim(0, 1.05 * max(max(record.result["history"]["worst"]) for record in results.records))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_apart(axes, places)


def draw_score_ranges(axes: Sequence["Axes"], results: ResultSet) -> None:
    """Draw per task where each method's test scores lie: middle 90 %, middle half, median."""
    methods = list(results.summaries)
    for panel, task in zip(axes, results.task_titles, strict=True):
        for row, method in enumerate(methods):
            pools = [record.scores("test")[task] for record in results.records if record.method == method]
            low, first, middle, third, high = np.quantile(
                np.concatenate(pools), (0.05, 0.25, 0.5, 0.75, 0.95)
            )
            colour = colour_of(method)
            panel.plot([low, high], [row, row], color=colour, linewidth=1.2)
            panel.plot(
                [first, third], [row, row], color=colour, linewidth=5, solid_capstyle="butt", alpha=0.7
            )
            panel.plot(middle, row, marker_of(method), color=colour, markersize=8, markeredgecolor="white")
        panel.set(title=results.task_titles[task], xlim=(-0.03, 1.03), xlabel="audit score")
        panel.set_ylim(len(methods) - 0.5, -0.5)
    axes[0].set_yticks(range(len(methods)), [title_of(method) for method in methods])


def metric(results: ResultSet, method: str, task: str, name: str) -> list[float]:
    """Return a raw test metric of a method, one value per seed; a NaN where it is undefined."""
    found = [
        record.result["utility"]["test"]["tasks"][task]["metrics"].get(name, np.nan)
        for record in results.records
        if record.method == method
    ]
    return [float(value) for value in found]


def metric_range(results: ResultSet, task: str, name: str, digits: int) -> str:
    """Return the smallest and largest mean over seeds of a raw test metric among the methods, in words."""
    means = [float(np.mean(metric(results, method, task, name))) for method in results.summaries]
    low, high = f"{min(means):.{digits}f}", f"{max(means):.{digits}f}"
    return low if low == high else f"{low} to {high}"


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
