"""Summaries of clinical data as figures and tables: cohort flow, channels, labels, groups."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from relif_book.figures.style import SERIES_COLOURS
from relif_book.figures.tables import MISSING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KIND = {"binary": "yes or no", "binned": "{} classes", "multilabel": "{} yes or no"}


def size_rows(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, str | int]]:
    """Return one row per data set: stays, subjects, stay-hours, and the stays of each split."""
    return [
        {
            "Data set": summary["title"],
            "Stays": summary["stays"],
            "Subjects": summary["subjects"],
            "Stay-hours": summary["stay_hours"],
            **{name.capitalize(): part["stays"] for name, part in summary["splits"].items()},
            "Channels": len(summary["channels"]),
        }
        for summary in summaries
    ]


def draw_cohort_flow(axes: "Axes", summary: Mapping[str, Any], width: int = 44) -> None:
    """Draw the cohort's rules top to bottom: what each removed (right) and left, and the final splits."""
    axes.set_axis_off()
    axes.set(xlim=(0, 10), title=summary["title"])
    top = 0.0
    for number, step in enumerate(summary["cohort"]):
        text = textwrap.fill(step["rule"], width)
        height = 0.75 + 0.55 * (text.count("\n") + 1)
        left = "some" if step["stays"] is None else f"{step['stays']:,}"
        people = "" if step["subjects"] is None else f" of {step['subjects']:,} subjects"
        _box(axes, (0.1, 6.6), top, height, f"{text}\n{left} stays{people}")
        if number:
            _arrow(axes, top)
            removed = "a few removed" if step["removed"] is None else f"{step['removed']:,} removed"
            axes.text(7.0, top - height / 2, removed, va="center", fontsize=9)
        top -= height + 0.5
    _arrow(axes, top)
    for place, (name, part) in enumerate(summary["splits"].items()):
        _box(axes, (0.1 + 3.3 * place, 3.1), top, 1.3, f"{name}\n{part['stays']:,} stays")
    axes.set_ylim(top - 1.5, 0.2)


def _arrow(axes: "Axes", top: float) -> None:
    axes.annotate("", (3.35, top), (3.35, top + 0.5), arrowprops={"arrowstyle": "->", "color": "#333333"})


def _box(axes: "Axes", span: tuple[float, float], top: float, height: float, text: str) -> None:
    from matplotlib.patches import Rectangle

    start, width = span
    look: dict[str, Any] = {"facecolor": "#f3f6fa", "edgecolor": "#4a6079", "linewidth": 0.9}
    axes.add_patch(Rectangle((start, top - height), width, height, **look))
    axes.text(start + width / 2, top - height / 2, text, ha="center", va="center", fontsize=8.5)


def draw_missingness(axes: "Axes", summary: Mapping[str, Any]) -> None:
    """Draw per channel the share of stay-hours with a measurement, most often measured on top."""
    channels = [channel for channel in summary["channels"] if channel["observed_hours"] is not None]
    channels.sort(key=lambda channel: channel["observed_hours"])
    shares = [channel["observed_hours"] / summary["stay_hours"] for channel in channels]
    axes.barh([channel["name"] for channel in channels], shares, color=SERIES_COLOURS[0], height=0.7)
    axes.set(xlim=(0, 1), xlabel="measured share", xticks=(0, 0.5, 1))
    axes.tick_params(axis="y", labelsize=8.5 if len(channels) <= 24 else 7)
    axes.grid(visible=False, axis="y")
    axes.margins(y=0.01)


def channel_rows(summary: Mapping[str, Any]) -> list[dict[str, str | int]]:
    """Return one row per channel: unit, columns, and how much of it was measured."""
    return [
        {
            "Channel": channel["name"],
            "Unit": channel["unit"] or MISSING,
            "Value columns": channel["columns"],
            "Stay-hours measured": _share(channel["observed_hours"], summary["stay_hours"]),
            "Stays ever measured": _ever(channel, summary["stays"], summary["least_count"]),
        }
        for channel in summary["channels"]
    ]


def label_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one row per task: its kind, where its labels stand, and prevalence or class spread per split."""
    return [
        {
            "Task": task["title"],
            "Kind": _KIND[task["kind"]].format(len(task["class_names"])),
            "Read at": _place(task),
            **{name.capitalize(): _spread(task, part) for name, part in task["splits"].items()},
        }
        for task in summary["tasks"]
    ]


def group_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one row per group: its levels with their stays."""
    rows = []
    for group in summary["groups"]:
        if group["stays"] is None:
            levels = f"{group['levels']} levels"
        else:
            shown = [
                f"{level}: {'hidden' if count is None else format(count, ',')}"
                for level, count in zip(group["levels"], group["stays"], strict=True)
                if count != 0
            ]
            levels = "; ".join(shown)
        rows.append({"Group": group["title"], "Stays per level": levels})
    return rows


def _place(task: Mapping[str, Any]) -> str:
    if task["level"] == "hourly":
        return "every labelled hour"
    return "end of the stay" if task["horizon_hours"] is None else f"hour {task['horizon_hours']}"


def _share(count: int | None, total: int) -> str:
    return "hidden" if count is None else f"{100 * count / total:.1f} %"


def _ever(channel: Mapping[str, Any], stays: int, least: int) -> str:
    """Return the share of stays ever measured.

    Where the stays are hidden and the hours are not, the stays without any measurement are few.
    """
    if channel["observed_stays"] is None and channel["observed_hours"] is not None:
        return f"all but fewer than {least}"
    return _share(channel["observed_stays"], stays)


def _spread(task: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """Return a binary task's prevalence, a binned one's commonest class, a multilabel one's prevalences."""
    labels, counts = part["labels"], part["counts"]
    if not labels:
        return "hidden" if labels is None else "no label"
    shown = [count for count in counts if count is not None]
    if task["kind"] == "binary":
        return f"{'hidden' if counts[1] is None else f'{100 * counts[1] / labels:.1f} %'} of {labels:,}"
    if task["kind"] == "binned":
        most = max(shown, default=0)
        if most <= labels - sum(shown) and len(shown) < len(counts):
            return f"hidden, of {labels:,}"
        return (
            f"commonest {task['class_names'][counts.index(most)]}, {100 * most / labels:.0f} % of {labels:,}"
        )
    if 2 * len(shown) < len(counts):
        return f"hidden, of {labels:,}"
    few = "" if len(shown) == len(counts) else f" ({len(counts) - len(shown)} of {len(counts)} hidden)"
    return f"{100 * min(shown) / labels:.0f} to {100 * max(shown) / labels:.0f} % of {labels:,}{few}"
