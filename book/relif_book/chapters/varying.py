"""Tables and figures of tolerances that follow subgroups or hours, from ``varying_tolerances``."""

import itertools
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pandas as pd

from relif_book.figures.method_plots import label_apart
from relif_book.figures.style import SERIES_COLOURS, colour_of, marker_of
from relif_book.figures.tables import Cell, Interval, Seeds, decimals, seed_rows
from relif_core.audit import ranking_certificate
from relif_core.methods import title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Study = Mapping[str, Any]
Ruler = Literal["fixed", "schedule", "own"]
#: Where each ruler's numbers stand in the rows of a study.
PREFIX: Mapping[Ruler, str] = {"fixed": "", "schedule": "schedule_", "own": "own_"}
#: Half the width of a 95 % interval in standard errors; groups hold tens of subjects and more.
_HALF_WIDTH = statistics.NormalDist().inv_cdf(0.975)


class LevelOrders(NamedTuple):
    """Level pairs of one group in one run.

    Attributes:
        pairs: Their number.
        flipped: Those that change order with a ruler per level.
        certified: Those that cannot by theorem B.2: the fixed gap exceeds both drift budgets.
    """

    pairs: int = 0
    flipped: int = 0
    certified: int = 0


def methods_of(study: Study) -> list[str]:
    """Return the methods of a study, in its order."""
    return list(dict.fromkeys(run["method"] for run in study["runs"]))


def size_rows(study: Study) -> list[dict[str, Cell]]:
    """Return one row per level of every group: its subjects, and why it is left out where it is."""
    return [
        {
            "Group": group["title"],
            "Level": level["level"],
            "Validation subjects": level["validation"],
            "Test subjects": level["test"],
            "Own tolerance": f"none: {level['left_out']}" if level["left_out"] else "calibrated",
        }
        for group in study["groups"]
        for level in group["levels"]
        if level["test"]
    ]


def group_rows(study: Study, method: str) -> list[dict[str, Cell]]:
    """Return per level: Bias and violation rate at δ*, its own tolerance, budget, and the Bias under that."""
    titles = {group["name"]: group["title"] for group in study["groups"]}
    columns = {"Bias at δ*": "bias", "VR at δ*": "violation_rate", "Own δ": "own_tolerance"}
    columns |= {"Drift budget": "budget", "Bias at own δ": "own_bias"}
    runs = [row for row in study["group_audits"] if row["method"] == method]
    rows = seed_rows(runs, {"Group": ("group", titles.get), "Level": ("level", str)}, columns)
    means = {(titles[mean["group"]], mean["level"]): mean for mean in _means(study, method)}
    for row in rows:
        mean = means[row["Group"], row["Level"]]
        row["95 % interval at δ*"] = Interval(*_interval(mean["bias"], mean["bias_se"]))
    return rows


def _means(study: Study, method: str) -> list[dict[str, Any]]:
    return [row for row in study["group_means"] if row["method"] == method]


def level_orders(study: Study) -> LevelOrders:
    """Count the level pairs within groups, over all runs, that a ruler per level turns."""
    runs = pd.DataFrame(study["group_audits"]).groupby(["group", "method", "seed"])
    pairs = [pair for _, own in runs for pair in itertools.combinations(own.to_dict("records"), 2)]
    return LevelOrders(
        len(pairs),
        sum((a["bias"] - b["bias"]) * (a["own_bias"] - b["own_bias"]) < 0 for a, b in pairs),
        sum(ranking_certificate(a["bias"], b["bias"], a["budget"], b["budget"]).certified for a, b in pairs),
    )


def draw_groups(axes: Sequence["Axes"], study: Study, method: str) -> None:
    """Draw a panel per group: levels' mean Bias over seeds at δ* (filled) and own tolerance (open)."""
    means = _means(study, method)
    most = max(row["bias"] for row in means), max(row["own_bias"] for row in means)
    for panel, group in zip(axes, study["groups"], strict=True):
        levels = [row for row in means if row["group"] == group["name"]]
        for place, row in enumerate(levels):
            _draw_level(panel, place, row)
        panel.set_yticks(range(len(levels)), [textwrap.fill(row["level"], 10) for row in levels])
        panel.set(ylim=(len(levels) - 0.4, -0.6), xlim=(0, 1.15 * max(most)), xlabel="Bias")
        panel.set_title(textwrap.fill(group["title"], 18))
        panel.grid(visible=False, axis="y")


def _draw_level(axes: "Axes", place: int, row: Mapping[str, Any]) -> None:
    """Draw both marks with 95 % intervals over subjects; those of the first level carry the rulers' names."""
    for prefix, text, side, marker, colour in (
        ("", "fixed δ*", -1, "o", SERIES_COLOURS[0]),
        ("own_", "own δ", 1, "s", SERIES_COLOURS[1]),
    ):
        bias, height = row[f"{prefix}bias"], place + 0.13 * side
        axes.errorbar(
            bias, height, xerr=_HALF_WIDTH * row[f"{prefix}bias_se"], fmt=marker, color=colour,
            markerfacecolor="white" if prefix else colour, markersize=6, capsize=2,
        )  # fmt: skip
        if place == 0:
            axes.annotate(
                text, (bias, height), xytext=(0, -6 * side), textcoords="offset points", ha="center",
                va="top" if side > 0 else "bottom", fontsize=8.5, color=colour,
            )  # fmt: skip


def hour_rows(study: Study) -> list[dict[str, Cell]]:
    """Return per hour and method: Worst, and Bias under the fixed tolerance, the schedule and own ones."""
    scheduled = {item["hour"]: item["tolerance"] for item in study["schedule"]}
    columns = {"Worst": "worst", "Bias at δ*": "bias", "Bias at δ(t)": "schedule_bias"}
    columns |= {"Own δ": "own_tolerance", "Bias at own δ": "own_bias"}
    runs = [{**run, "scheduled": scheduled[run["hour"]]} for run in study["hour_audits"]]
    runs.sort(key=lambda run: run["hour"])
    by: Mapping[str, tuple[str, Callable[[Any], Cell]]] = {
        "Hour": ("hour", int),
        "Method": ("method", title_of),
        "δ(t)": ("scheduled", "{:.3f}".format),
    }
    return seed_rows(runs, by, columns)


def hour_audits(study: Study, method: str, hour: int) -> list[dict[str, Any]]:
    """Return the audits of a method at an hour, by seed."""
    return [row for row in study["hour_audits"] if (row["method"], row["hour"]) == (method, hour)]


def contrast_rows(study: Study) -> list[dict[str, Cell]]:
    """Return ReLiF minus ERM at every hour under both shared rulers, with intervals over subjects."""
    rows: list[dict[str, Cell]] = []
    for hour in study["hours"]:
        row: dict[str, Cell] = {"Hour": hour}
        for ruler, title in (("fixed", "fixed δ*"), ("schedule", "schedule δ(t)")):
            item = contrast(study, "relif", ruler, hour)
            row[f"Bias, {title}"] = Seeds(tuple(item["bias"]), decimals("bias"), signed=True)
            row[f"95 % interval, {title}"] = Interval(*item["interval"])
        rows.append(row)
    return rows


def contrast(study: Study, method: str, ruler: str, hour: int) -> dict[str, Any]:
    """Return a method minus ERM at an hour under a shared ruler."""
    return next(
        item
        for item in study["hour_contrasts"]
        if (item["method"], item["ruler"], item["hour"]) == (method, ruler, hour)
    )


def draw_hours(axes: "Axes", study: Study, ruler: Ruler) -> None:
    """Draw each method's Bias by hour under one ruler: seeds as faint points, a line through their means."""
    hours, places = study["hours"], []
    for method in methods_of(study):
        title = title_of(method)
        means = []
        for hour in hours:
            values = [row[f"{PREFIX[ruler]}bias"] for row in hour_audits(study, method, hour)]
            axes.plot([hour] * len(values), values, ".", color=colour_of(method), alpha=0.4, markersize=4)
            means.append(statistics.fmean(values))
        axes.plot(hours, means, f"{marker_of(method)}-", color=colour_of(method))
        places.append((hours[-1], means[-1], title))
    most = max(row[f"{prefix}bias"] for row in study["hour_audits"] for prefix in PREFIX.values())
    axes.set(xticks=hours, xlabel="hours of the stay seen", ylabel="Bias", ylim=(0, 1.08 * most or 1.0))
    label_apart(axes, places)


def draw_rulers(axes: "Axes", study: Study) -> None:
    """Draw the fixed tolerance, the schedule and methods' own calibrated mean tolerances by hour."""
    hours, fixed = study["hours"], study["reference"]["tolerance"]
    scheduled = [item["tolerance"] for item in study["schedule"]]
    axes.plot(hours, scheduled, "k-", linewidth=2.4)
    axes.plot(hours, [fixed] * len(hours), "k--", linewidth=1)
    places = [(hours[-1], fixed, "fixed δ*"), (hours[-2:][0], scheduled[-2:][0], "schedule δ(t)")]
    for method in methods_of(study):
        title = title_of(method)
        means = [
            statistics.fmean(row["own_tolerance"] for row in hour_audits(study, method, hour))
            for hour in hours
        ]
        axes.plot(hours, means, f"{marker_of(method)}:", color=colour_of(method))
        places.append((hours[-1], means[-1], f"own, {title}"))
    axes.margins(y=0.2)
    axes.set(xticks=hours, xlabel="hours of the stay seen", ylabel="tolerance")
    axes.set_ylim(*axes.get_ylim())
    label_apart(axes, places)


def _interval(mean: float, error: float) -> tuple[float, float]:
    return max(mean - _HALF_WIDTH * error, 0.0), min(mean + _HALF_WIDTH * error, 1.0)
