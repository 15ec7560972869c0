"""Tables and figures of the comparison of label readings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_book.figures.style import colour_of, marker_of
from relif_book.figures.tables import Cell, Interval, Seeds, decimals, seed_rows
from relif_core.methods import title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns = Mapping[str, str]
READING_TITLES = {"causal": "causal", "later_hours": "later hours", "released": "later hours, drawn labels"}
"""Names of the readings for readers."""
_BY = {"Reading": ("reading", READING_TITLES.__getitem__), "Method": ("method", title_of)}


def runs_of(study: Mapping[str, Any], reading: str, method: str) -> list[dict[str, Any]]:
    """Return the runs of one reading and method, by seed."""
    return [run for run in study["runs"] if (run["reading"], run["method"]) == (reading, method)]


def combinations(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the (reading, method) pairs of a study, in the order of its runs."""
    return list(dict.fromkeys((run["reading"], run["method"]) for run in study["runs"]))


def utility_rows(study: Mapping[str, Any]) -> list[dict[str, Cell]]:
    """Return Worst, Macro and each task's test score per reading and method; † marks tasks read anew."""
    return _with_tasks(study, {"Worst": "worst", "Macro": "macro"}, {})


def score_rows(study: Mapping[str, Any]) -> list[dict[str, Cell]]:
    """Return each task's test score and Bias, at the shared tolerance and at own ones, as above."""
    return _with_tasks(study, {}, {"Bias, fixed δ": "bias", "Bias, own δ": "raw_bias"})


def _with_tasks(study: Mapping[str, Any], before: Columns, after: Columns) -> list[dict[str, Cell]]:
    tasks = {
        f"{title} †" if task in study["reread"] else title: task for task, title in study["tasks"].items()
    }
    runs = [{**run, **run["scores"]} for run in study["runs"]]
    return seed_rows(runs, _BY, {**before, **tasks, **after})


def audit_rows(study: Mapping[str, Any]) -> list[dict[str, Cell]]:
    """Return Bias and violation rate at the shared tolerance, Bias at own ones, and induced tolerances."""
    columns = {
        "Bias, fixed δ": "bias",
        "Violation rate, fixed δ": "violation_rate",
        "Bias, own δ": "raw_bias",
        "Induced tolerance": "induced_tolerance",
    }
    return seed_rows(study["runs"], _BY, columns)


def contrast_rows(study: Mapping[str, Any]) -> list[dict[str, Cell]]:
    """Return each reading minus the causal one: over seeds, with the interval over test subjects."""
    return [
        {
            "Reading minus causal": READING_TITLES[item["reading"]],
            "Method": title_of(item["method"]),
            "Worst": Seeds(tuple(item["worst"]), signed=True),
            "Macro": Seeds(tuple(item["macro"]), signed=True),
            "Bias": Seeds(tuple(item["bias"]), decimals("bias"), signed=True),
            "95 % interval of Bias": Interval(*item["bias_interval"]),
            "Violation rate": Seeds(tuple(item["violation_rate"]), signed=True),
        }
        for item in study["contrasts"]
    ]


def draw_readings(axes: "Axes", study: Mapping[str, Any]) -> None:
    """Draw every run at its (Worst, Bias): filled for the causal reading, open where later hours are seen."""
    styles = {"causal": ("full", 0.0), "later_hours": ("none", 1.3), "released": ("bottom", 1.0)}
    for reading, method in combinations(study):
        runs = runs_of(study, reading, method)
        fill, edge = styles[reading]
        axes.plot(
            [run["worst"] for run in runs], [run["bias"] for run in runs], marker_of(method),
            color=colour_of(method), fillstyle=fill, markeredgewidth=edge or 0.5, markersize=8,
            label=f"{title_of(method)}, {READING_TITLES[reading]}",
        )  # fmt: skip
    axes.set(xlabel="Worst", ylabel="Bias at the fixed δ", title=study["title"])
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def draw_length_alone(axes: "Axes", study: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    """Draw per hourly task what the input's length alone achieves, against the hours after the label."""
    points = study["length_alone"]
    markers = dict(zip(colours, "os^D", strict=False))
    for task in points[0]["scores"]:
        scores = [np.nan if point["scores"][task] is None else point["scores"][task] for point in points]
        hours = [point["hours_after"] for point in points]
        axes.plot(hours, scores, f"{markers[task]}-", color=colours[task], label=study["tasks"][task])
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="hours after the label in the input", ylabel="task score", ylim=(0.45, 1.02))
    axes.set_title(study["title"])
