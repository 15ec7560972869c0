"""Tables and figures of the comparison of label readings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_book.evidence.results import title_of
from relif_book.figures.style import colour_of, marker_of
from relif_book.figures.tables import MISSING, mean_sd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READING_TITLES = {
    "causal": "causal",
    "later_hours": "later hours",
    "released": "later hours, drawn labels",
}
"""Names of the readings for readers."""


def runs_of(study: Mapping[str, Any], reading: str, method: str) -> list[dict[str, Any]]:
    """Return the runs of one reading and method, by seed."""
    return [run for run in study["runs"] if (run["reading"], run["method"]) == (reading, method)]


def combinations(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the (reading, method) pairs of a study, in the order of its runs."""
    return list(dict.fromkeys((run["reading"], run["method"]) for run in study["runs"]))


def utility_rows(study: Mapping[str, Any]) -> list[dict[str, str]]:
    """Worst, Macro and test scores per reading and method; tasks that are read anew have a dagger."""
    rows = []
    for reading, method in combinations(study):
        runs = runs_of(study, reading, method)
        row = {"Reading": READING_TITLES[reading], "Method": title_of(method)}
        row |= {name.capitalize(): mean_sd([run[name] for run in runs]) for name in ("worst", "macro")}
        for task, title in study["tasks"].items():
            scores = [run["scores"][task] for run in runs if run["scores"][task] is not None]
            row[f"{title} †" if task in study["reread"] else title] = mean_sd(scores) if scores else MISSING
        rows.append(row)
    return rows


def audit_rows(study: Mapping[str, Any]) -> list[dict[str, str]]:
    """Bias and violation rate at the shared tolerance, Bias at the runs' own, and induced tolerances."""
    columns = {
        "bias": ("Bias, fixed δ", 4),
        "violation_rate": ("Violation rate, fixed δ", 3),
        "raw_bias": ("Bias, own δ", 4),
        "induced_tolerance": ("Induced tolerance", 3),
    }
    return [
        {
            "Reading": READING_TITLES[reading],
            "Method": title_of(method),
            **{
                title: mean_sd([run[name] for run in runs_of(study, reading, method)], digits)
                for name, (title, digits) in columns.items()
            },
        }
        for reading, method in combinations(study)
    ]


def contrast_rows(study: Mapping[str, Any]) -> list[dict[str, str]]:
    """Each reading minus the causal one: differences over seeds and the interval over test subjects."""
    return [
        {
            "Reading minus causal": READING_TITLES[item["reading"]],
            "Method": title_of(item["method"]),
            "Worst": mean_sd(item["worst"]),
            "Macro": mean_sd(item["macro"]),
            "Bias": mean_sd(item["bias"], 4),
            "95 % interval of Bias": "[{:+.4f}, {:+.4f}]".format(*item["bias_interval"]).replace("-", "−"),
            "Violation rate": mean_sd(item["violation_rate"]),
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
            [run["worst"] for run in runs],
            [run["bias"] for run in runs],
            marker_of(method),
            color=colour_of(method),
            fillstyle=fill,
            markeredgewidth=edge or 0.5,
            markersize=8,
            label=f"{title_of(method)}, {READING_TITLES[reading]}",
        )
    axes.set(xlabel="Worst", ylabel="Bias at the fixed δ", title=study["title"])
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def draw_length_alone(axes: "Axes", study: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    """Draw per hourly task what the input's length alone achieves, against the hours after the label."""
    points = study["length_alone"]
    markers = dict(zip(colours, "os^D", strict=False))
    for task in points[0]["scores"]:
        scores = [np.nan if point["scores"][task] is None else point["scores"][task] for point in points]
        axes.plot(
            [point["hours_after"] for point in points],
            scores,
            f"{markers[task]}-",
            color=colours[task],
            label=study["tasks"][task],
        )
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    axes.set(
        xlabel="hours after the label in the input",
        ylabel="task score",
        ylim=(0.45, 1.02),
        title=study["title"],
    )
