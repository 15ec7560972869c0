"""Figures of many methods: Worst against Bias, Bias curves with their crossings, sweeps with traces."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from relif_book.figures.style import colour_of, marker_of
from relif_core.methods import look_of, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from relif_book.evidence.results import ResultSet
    from relif_core.record import Record

#: Curves below this Bias are not looked at for crossings: there is nothing left to rank.
LEAST_BIAS = 1e-3
LINES = ("-", "--", ":", "-.")
_LABELS = {
    "bias": "Bias", "violation_rate": "violation rate", "weight": "penalty weight λ",
    "smoothed_rate": "smoothed violation rate", "step_size": "step size η", "target": "target ρ*",
}  # fmt: skip


def draw_worst_against_bias(
    axes: "Axes", results: "ResultSet", untrained: Sequence[tuple[float, float, str]] = ()
) -> None:
    """Draw each method's mean over common seeds (faint) with 95 % t intervals, and its name; mark the corner.

    ``untrained`` holds Bias, Worst and name of rows beside the methods, drawn as grey crosses.
    """
    places = []
    shared = results.shared
    for method in shared.runs:
        look = look_of(method)
        bias, worst = (shared.values(method, kind) for kind in ("bias", "worst"))
        axes.plot(bias, worst, ".", color=look.colour, alpha=0.45, markersize=5)
        x, y = shared.mean(method, "bias"), shared.mean(method, "worst")
        wide, high = (shared.seed_interval(method, kind) for kind in ("bias", "worst"))
        axes.errorbar(
            x, y, xerr=[[x - wide[0]], [wide[1] - x]], yerr=[[y - high[0]], [high[1] - y]], fmt=look.marker,
            color=look.colour, markerfacecolor="white" if look.hollow else look.colour,
            markersize=10 if look.marker == "*" else 8, elinewidth=1, capsize=2,
        )  # fmt: skip
        places.append((x, y, look.title))
    for x, y, title in untrained:
        axes.plot(x, y, "x", color="#6b6b6b", markersize=8, markeredgewidth=1.8)
        places.append((x, y, title))
    axes.margins(x=0.08, y=0.12)
    axes.set_xlim(left=max(axes.get_xlim()[0], -0.04 * axes.get_xlim()[1]))
    label_apart(axes, places)
    axes.annotate(
        "preferred", (0.02, 0.97), xycoords="axes fraction", xytext=(0.16, 0.86), textcoords="axes fraction",
        arrowprops={"arrowstyle": "->", "color": "#333333"}, color="#333333", fontsize=9,
    )  # fmt: skip
    axes.set(xlabel=f"Bias at δ = {results.reference.tolerance:.3f}", ylabel="test Worst")


def draw_seeds(axes: "Axes", results: "ResultSet", quantity: str, label: str) -> None:
    """Draw a quantity of every run as a faint point in its method's row, with mean and 95 % t interval."""
    import seaborn

    titles = {method: title_of(method) for method in results.runs}
    data = results.wide[quantity].dropna().reset_index().replace({"method": titles})
    palette = {title: colour_of(method) for method, title in titles.items()}
    options = {"data": data, "x": quantity, "y": "method", "hue": "method", "palette": palette}
    seaborn.stripplot(**options, alpha=0.45, size=4, jitter=False, legend=False, ax=axes)
    for place, method in enumerate(m for m in results.runs if results.values(m, quantity)):
        mean, (low, high) = results.mean(method, quantity), results.seed_interval(method, quantity)
        error = [[mean - low], [high - mean]]
        axes.errorbar(mean, place, xerr=error, fmt="o", color=colour_of(method), capsize=2)
    axes.set(xlabel=label, ylabel="")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))


def draw_curves(axes: "Axes", results: "ResultSet", kind: str = "bias") -> None:
    """Draw every run's exact Bias (or "violation_rate") curve; mark the fixed tolerance."""
    import seaborn

    curves = pd.concat(
        pd.DataFrame({"δ": results.curve_tolerances, "value": curve, "Method": title_of(method), "run": row})
        for method in results.runs
        for row, curve in enumerate(results.curves(method, kind))
    )
    palette = {title_of(method): colour_of(method) for method in results.runs}
    seaborn.lineplot(
        curves, x="δ", y="value", hue="Method", style="Method", units="run", estimator=None, palette=palette,
        linewidth=1.2, alpha=0.8, ax=axes,
    )  # fmt: skip
    _dress(axes, results, kind)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.legend(title=None)


def _dress(axes: "Axes", results: "ResultSet", kind: str) -> None:
    """Label curves over the tolerance and mark the fixed one."""
    axes.axvline(results.reference.tolerance, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="tolerance δ", ylabel=_LABELS[kind])


def _draw_trace(axes: "Axes", record: "Record", trace: str, **look: Any) -> np.ndarray:
    """Draw a trace of a run over its steps, labelled, and return it."""
    values = record.trace(trace)
    axes.plot(np.arange(1, len(values) + 1), values, color=colour_of(record.method), **look)
    axes.set(xlabel="step", ylabel=_LABELS[trace])
    return values


def draw_traces(weight_axes: "Axes", rate_axes: "Axes", results: "ResultSet", method: str = "relif") -> None:
    """Draw λ and the smoothed violation rate of every seed of a method over its steps, with the target."""
    records = results.runs[method]
    for record, line in zip(records, itertools.cycle(LINES), strict=False):
        for axes, trace in ((weight_axes, "weight"), (rate_axes, "smoothed_rate")):
            _draw_trace(axes, record, trace, linestyle=line, linewidth=1.2, label=f"seed {record.seed}")
    target = records[0].settings.controller.target
    rate_axes.axhline(target, color="black", linewidth=0.8, linestyle="--")
    rate_axes.annotate(
        f"target ρ* = {target:g}", (0.98, target), xycoords=("axes fraction", "data"), ha="right", va="bottom"
    )
    rate_axes.set_ylim(0, 1)
    weight_axes.legend(frameon=False)


def draw_mean_curves(axes: "Axes", results: "ResultSet", kind: str = "bias") -> None:
    """Draw each method's Bias curve, averaged over common seeds and named, and mark the fixed tolerance."""
    curves = mean_curves(results, kind)
    tolerances = results.curve_tolerances
    top = 1.02 * max(float(curve[0]) for curve in curves.values())
    falling = sorted(curves, key=lambda method: float(curves[method].mean()), reverse=True)
    places = []
    for rank, method in enumerate(falling):
        curve, name = curves[method], title_of(method)
        # Names stand one below the other; each points straight at the place where its curve has that height.
        height = min((0.92 - 0.08 * rank) * top, float(curve[0]))
        delta = float(np.interp(-height, -curve, tolerances))
        axes.plot(tolerances, curve, color=colour_of(method), linewidth=1.4)
        axes.plot(delta, height, marker_of(method), color=colour_of(method), markersize=6)
        places.append((delta, height, name))
    visible = np.flatnonzero(np.max(list(curves.values()), axis=0) > 0.01 * top)
    axes.set_xlim(0, float(tolerances[visible[-1]]) if len(visible) else 1.0)
    axes.set_ylim(0, top)
    label_apart(axes, places)
    _dress(axes, results, kind)


def draw_crossings(axes: "Axes", results: "ResultSet") -> None:
    """Mark where two methods' mean Bias curves cross."""
    points = np.array([point[2:] for point in crossings(results)]).reshape(-1, 2)
    axes.plot(*points.T, "o", color="black", markerfacecolor="none", markersize=7, linestyle="none")


def mean_curves(results: "ResultSet", kind: str = "bias") -> dict[str, np.ndarray]:
    """Return each method's exact curve [D] over the common seeds, at ``results.curve_tolerances``."""
    return {method: results.shared.curves(method, kind).mean(axis=0) for method in results.runs}


def crossings(results: "ResultSet", least: float = LEAST_BIAS) -> list[tuple[str, str, float, float]]:
    """Return (a, b, δ, Bias) where the mean Bias curves of two methods cross at a Bias of at least ``least``.

    The curves are exact at 201 tolerances; between two of these the crossing is interpolated.
    """
    tolerances, curves = results.curve_tolerances, mean_curves(results)
    found = []
    for a, b in itertools.combinations(curves, 2):
        gap = curves[a] - curves[b]
        for place in np.flatnonzero(gap[:-1] * gap[1:] < 0):
            share = gap[place] / (gap[place] - gap[place + 1])
            delta, bias = (
                float(values[place] + share * (values[place + 1] - values[place]))
                for values in (tolerances, curves[a])
            )
            if bias >= least:
                found.append((a, b, delta, bias))
    return found


def draw_sweep(
    axes: "Axes", results: "ResultSet", swept: Literal["step_size", "target"], kind: Literal["bias", "worst"]
) -> None:
    """Draw Bias or Worst against the swept setting: small points are seeds, the line joins the means."""
    found = sorted((_swept(results, method, swept), method) for method in results.runs)
    values = [results.values(method, kind) for _, method in found]
    settings = [setting for setting, _ in found]
    for setting, seeds in zip(settings, values, strict=True):
        axes.plot([setting] * len(seeds), seeds, ".", color=colour_of("relif"), alpha=0.5)
    axes.plot(settings, [float(np.mean(seeds)) for seeds in values], "o-", color=colour_of("relif"))
    axes.set_xscale("log")
    axes.set_xticks(settings, [f"{setting:g}" for setting in settings])
    axes.minorticks_off()
    axes.set(
        xlabel=_LABELS[swept],
        ylabel=f"Bias at δ = {results.reference.tolerance:.3f}" if kind == "bias" else "test Worst",
    )


def draw_sweep_traces(
    axes: "Axes", results: "ResultSet", trace: str, swept: Literal["step_size", "target"]
) -> None:
    """Draw a trace ("weight" or "smoothed_rate") of each method's first common seed, labelled by setting."""
    lines = []
    for number, (method, records) in enumerate(results.shared.runs.items()):
        look = {"linestyle": ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))[number % 5], "linewidth": 1.4}
        values = _draw_trace(axes, records[0], trace, **look)
        name = f"{_LABELS[swept].split()[-1]} = {_swept(results, method, swept):g}"
        lines.append((values, name, {**look, "color": colour_of(method)}))
    if trace == "weight":
        axes.set_yscale("log")
    axes.set_xlim(1, max(len(values) for values, _, _ in lines))
    _continue_to_labels(axes, lines)


def _continue_to_labels(axes: "Axes", lines: Sequence[tuple[np.ndarray, str, dict[str, Any]]]) -> None:
    """Lead every line on beyond the axes to its label; call it when the axes' limits stand."""
    to_axes = axes.transData + axes.transAxes.inverted()
    # Lines that end at one height are labelled in the order in which they ran.
    ordered = sorted(lines, key=lambda line: (round(float(line[0][-1]), 9), float(line[0].mean())))
    ends = [to_axes.transform((len(values), values[-1])) for values, _, _ in ordered]
    heights = _apart([float(end[1]) for end in ends])
    for (_, name, look), end, height in zip(ordered, ends, heights, strict=True):
        axes.plot(
            [end[0], 1.06, 1.16], [end[1], height, height], transform=axes.transAxes, clip_on=False, **look
        )
        axes.annotate(name, (1.18, height), xycoords="axes fraction", va="center", fontsize=9)


def _swept(results: "ResultSet", method: str, swept: str) -> float:
    return float(getattr(results.runs[method][0].settings.controller, swept))


def label_apart(axes: "Axes", places: Sequence[tuple[float, float, str]]) -> None:
    """Write names in a column right of the axes, ordered by height, each with a thin line to its point.

    Call it when the limits of the axes stand.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    ordered = sorted(places, key=lambda place: place[1])
    wanted = [float(to_axes.transform((x, y))[1]) for x, y, _ in ordered]
    for (x, y, name), height in zip(ordered, _apart(wanted), strict=True):
        axes.annotate(
            name, (x, y), xytext=(1.04, height), textcoords="axes fraction", va="center", fontsize=9,
            arrowprops=dict(arrowstyle="-", color="#999999", linewidth=0.6, shrinkB=3, relpos=(0, 0.5)),
        )  # fmt: skip


def _apart(wanted: Sequence[float], spacing: float = 0.075) -> list[float]:
    """Move rising heights at least ``spacing`` apart (less if need be) in [0, 1], by least squares.

    Height i minus i times the spacing must rise: an isotonic regression, whose solution the bounds cut.
    """
    from sklearn.isotonic import isotonic_regression

    spacing = min(spacing, 1 / max(len(wanted) - 1, 1))
    steps = spacing * np.arange(len(wanted))
    moved = isotonic_regression(np.asarray(wanted, dtype=float) - steps)
    room = 1 - steps[-1]
    return [float(height) for height in np.clip(moved, 0, max(room, 0)) + steps]
