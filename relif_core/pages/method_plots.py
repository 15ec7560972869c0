"""Figures of many methods: Worst against Bias, mean Bias curves with their crossings, and sweeps with traces."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from relif_core.pages.figures import METHOD_COLOURS, SERIES_COLOURS, marker_of
from relif_core.pages.results import TITLES, ResultSet, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Curves below this Bias are not looked at for crossings: there is nothing left to rank.
LEAST_BIAS = 1e-3
#: Variants of ReLiF: the series colours that are not ReLiF's or ERM's, and marks that no balancer has.
VARIANT_COLOURS = tuple(colour for colour in SERIES_COLOURS if colour not in ("#0072B2", "#555555"))
VARIANT_MARKERS = ("X", "h", "<", ">", "p", "d", "8", "H")


def colour_by_method(methods: Sequence[str]) -> dict[str, str]:
    """Return a colour per method: a balancer's own, in every version and hybrid, and series colours for variants of ReLiF."""
    colours = {}
    variants = 0
    for method in methods:
        base = _base_title(method)
        if base in METHOD_COLOURS:
            colours[method] = METHOD_COLOURS[base]
        else:
            colours[method] = VARIANT_COLOURS[variants % len(VARIANT_COLOURS)]
            variants += 1
    return colours


def draw_worst_against_bias(axes: "Axes", results: ResultSet) -> None:
    """Draw every method's mean with its seeds as faint points, labelled beside it; the preferred corner is marked."""
    colours = colour_by_method(list(results.summaries))
    variant_markers = itertools.cycle(VARIANT_MARKERS)
    places = []
    for method, summary in results.summaries.items():
        base = _base_title(method)
        filled = base == title_of(method) or not base
        marker = marker_of(base) if base else next(variant_markers)
        axes.plot(summary.bias, summary.worst, ".", color=colours[method], alpha=0.45, markersize=5)
        x, y = float(np.mean(summary.bias)), float(np.mean(summary.worst))
        axes.plot(
            x,
            y,
            marker,
            color=colours[method],
            markerfacecolor=colours[method] if filled else "white",
            markersize=10 if marker == "*" else 8,
        )
        places.append((x, y, title_of(method)))
    _label_apart(axes, places)
    axes.annotate(
        "preferred", (0.02, 0.97), xycoords="axes fraction", xytext=(0.16, 0.86), textcoords="axes fraction",
        arrowprops={"arrowstyle": "->", "color": "#333333"}, color="#333333", fontsize=9,
    )  # fmt: skip
    axes.set(xlabel=f"Bias at δ = {results.reference.tolerance:.3f}", ylabel="test Worst")
    axes.set_xlim(left=max(axes.get_xlim()[0], -0.04 * axes.get_xlim()[1]))


def draw_mean_curves(axes: "Axes", results: ResultSet, kind: str = "bias") -> None:
    """Draw each method's Bias curve, averaged over seeds, with its name in the legend and the fixed tolerance marked."""
    colours = colour_by_method(list(results.summaries))
    for index, (method, curve) in enumerate(mean_curves(results, kind).items()):
        name = title_of(method)
        axes.plot(
            results.curve_tolerances, curve, color=colours[method], linewidth=1.4, label=name,
            marker=marker_of(name), markevery=(index * 5, 40), markersize=5,
        )  # fmt: skip
    axes.axvline(results.reference.tolerance, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="tolerance δ", ylabel="Bias" if kind == "bias" else "violation rate", xlim=(0, 0.8))
    axes.set_ylim(bottom=0)


def draw_crossings(axes: "Axes", results: ResultSet) -> None:
    """Mark where two methods' mean Bias curves cross."""
    points = crossings(results)
    axes.plot(
        [point[2] for point in points], [point[3] for point in points], "o",
        color="black", markerfacecolor="none", markersize=7, linestyle="none", label="crossing",
    )  # fmt: skip


def mean_curves(results: ResultSet, kind: str = "bias") -> dict[str, np.ndarray]:
    """Return each method's exact curve [D] averaged over seeds, at ``results.curve_tolerances``."""
    return {
        method: getattr(summary.table, f"{kind}_curve")[summary.rows].mean(axis=0)
        for method, summary in results.summaries.items()
    }


def crossings(results: ResultSet, least: float = LEAST_BIAS) -> list[tuple[str, str, float, float]]:
    """Return (a, b, δ, Bias) where the mean Bias curves of two methods cross at a Bias of at least ``least``.

    The curves are exact at 201 tolerances and piecewise linear; between two of these the crossing is interpolated.
    """
    tolerances, curves = results.curve_tolerances, mean_curves(results)
    names = list(curves)
    found = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            gap = curves[a] - curves[b]
            for place in np.flatnonzero(gap[:-1] * gap[1:] < 0):
                share = gap[place] / (gap[place] - gap[place + 1])
                delta = tolerances[place] + share * (tolerances[place + 1] - tolerances[place])
                bias = curves[a][place] + share * (curves[a][place + 1] - curves[a][place])
                if bias >= least:
                    found.append((a, b, float(delta), float(bias)))
    return found


def draw_sweep_traces(
    axes: "Axes", results: ResultSet, trace: str, swept: Literal["step_size", "target"], seed: int = 0
) -> None:
    """Draw a step trace ("weight" or "smoothed_rate") of one seed of every method, named by the swept setting."""
    colours = colour_by_method(list(results.summaries))
    for number, method in enumerate(results.summaries):
        record = next(item for item in results.records if item.method == method and item.seed == seed)
        values = record.trace(trace)
        style = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))[number % 5]
        symbol = "η" if swept == "step_size" else "ρ*"
        label = f"{symbol} = {getattr(record.settings.controller, swept):g}"
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            linestyle=style,
            color=colours[method],
            linewidth=1.4,
            label=label,
        )
    axes.set(xlabel="step", ylabel="penalty weight λ" if trace == "weight" else "smoothed violation rate")
    if trace == "weight":
        axes.set_yscale("log")


def _base_title(method: str) -> str:
    """The title of the balancer behind a version or hybrid; empty for a variant of ReLiF."""
    if method.startswith("relif_"):
        return ""
    balancer = method.partition("+")[0]
    return title_of(balancer if balancer in TITLES else balancer.removesuffix("_as_released"))


def _label_apart(axes: "Axes", places: Sequence[tuple[float, float, str]]) -> None:
    """Write the names in a column right of the axes, in the order of the points' heights, each with a thin line to its point."""
    axes.margins(x=0.08, y=0.12)
    low, high = axes.get_ylim()
    ordered = sorted(places, key=lambda place: place[1])
    spacing = min(0.075, 1 / max(len(ordered), 1))
    heights: list[float] = []
    for _, y, _ in ordered:
        wanted = (y - low) / (high - low)
        heights.append(max(wanted, heights[-1] + spacing) if heights else wanted)
    excess = max(heights[-1] - 1, 0) if heights else 0
    for number in range(len(heights) - 1, -1, -1):
        above = heights[number + 1] - spacing if number + 1 < len(heights) else 1.0
        heights[number] = min(heights[number], above) if excess else heights[number]
    for (x, y, name), height in zip(ordered, heights, strict=True):
        axes.annotate(
            name, (x, y), xytext=(1.04, height), textcoords="axes fraction", va="center", fontsize=9,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 5, "relpos": (0, 0.5)},
        )  # fmt: skip
