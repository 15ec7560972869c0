"""Figures of many methods: Worst against Bias, mean Bias curves with their crossings, and sweeps with traces."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relif_core.pages.figures import METHOD_COLOURS, SERIES_COLOURS, marker_of
from relif_core.pages.results import TITLES, ResultSet, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Curves below this Bias are not looked at for crossings: there is nothing left to rank.
LEAST_BIAS = 1e-3


def colour_by_method(methods: Sequence[str]) -> dict[str, str]:
    """Return a colour per method: a balancer's own, in every version and hybrid, and series colours for variants of ReLiF."""
    colours = {}
    variants = 0
    for method in methods:
        base = _base_title(method)
        if base in METHOD_COLOURS:
            colours[method] = METHOD_COLOURS[base]
        else:
            colours[method] = SERIES_COLOURS[variants % len(SERIES_COLOURS)]
            variants += 1
    return colours


def draw_worst_against_bias(axes: "Axes", results: ResultSet) -> None:
    """Draw every method's mean with its seeds as faint points, labelled beside it; the preferred corner is marked."""
    colours = colour_by_method(list(results.summaries))
    places = []
    for method, summary in results.summaries.items():
        base = _base_title(method)
        filled = base == title_of(method) or not base
        marker = marker_of(base)
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


def draw_sweep_traces(axes: "Axes", results: ResultSet, trace: str, seed: int = 0) -> None:
    """Draw a step trace ("weight" or "smoothed_rate") of one seed of every method, labelled at its end."""
    colours = colour_by_method(list(results.summaries))
    for number, method in enumerate(results.summaries):
        record = next(item for item in results.records if item.method == method and item.seed == seed)
        values = record.trace(trace)
        style = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))[number % 5]
        label = title_of(method).removeprefix("ReLiF, ")
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
    """Write each name beside its point, moved up or down until no two names overlap."""
    figure = axes.figure
    axes.margins(x=0.18, y=0.12)
    figure.canvas.draw()
    height = 11 * figure.dpi / 72
    taken: list[tuple[float, float]] = []
    centre = float(np.mean(axes.get_xlim()))
    for x, y, name in sorted(places, key=lambda place: -place[1]):
        column, row = axes.transData.transform((x, y))
        wanted = row
        while any(abs(wanted - other) < height and abs(column - side) < 130 for side, other in taken):
            wanted -= height / 4
        taken.append((column, wanted))
        right = x <= centre
        axes.annotate(
            name, (x, y), xytext=(9 if right else -9, (wanted - row) * 72 / figure.dpi), textcoords="offset points",
            ha="left" if right else "right", va="center", fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 3} if abs(wanted - row) > height / 3 else None,
        )  # fmt: skip
