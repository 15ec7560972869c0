"""Figures of dense runs: their progress, and where their audit scores lie."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relif_book.evidence.dense_results import pools_of
from relif_book.evidence.results import ResultSet
from relif_book.figures.method_plots import LINES, label_apart
from relif_book.figures.style import colour_of, marker_of
from relif_core.methods import title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_progress(axes: "Axes", results: ResultSet) -> None:
    """Draw validation Worst after every evaluated epoch of every run, named at its end."""
    from matplotlib.ticker import MaxNLocator

    places, worst_of = [], results.by_epoch("epoch_worst")
    for method in results.runs:
        ends = []
        for seed, worst in worst_of.loc[method].iterrows():
            read = worst.dropna()
            axes.plot(
                list(read.index), list(read), color=colour_of(method), markersize=5, linewidth=1.4,
                marker=marker_of(method) if len(read) < 20 else None, linestyle=LINES[seed % 4],
            )  # fmt: skip
            ends.append((read.index[-1], read.iloc[-1]))
        epoch, height = max(end[0] for end in ends), float(np.mean([end[1] for end in ends]))
        places.append((epoch, height, title_of(method)))
    highest = float(worst_of.max(axis=None))
    axes.set(xlabel="epoch", ylabel="validation Worst", title=results.label, ylim=(0, 1.05 * highest))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_apart(axes, places)


def draw_score_ranges(axes: Sequence["Axes"], results: ResultSet) -> None:
    """Draw, in one of the axes per task, each method's test scores: middle 90 %, middle half, median."""
    methods = list(results.runs)
    for panel, (task, title) in zip(axes, results.task_titles.items(), strict=True):
        for row, method in enumerate(methods):
            low, first, middle, third, high = np.quantile(
                pools_of(results, method, task), (0.05, 0.25, 0.5, 0.75, 0.95)
            )
            colour = colour_of(method)
            panel.plot([low, high], [row, row], color=colour, linewidth=1.2)
            panel.plot(
                [first, third], [row, row], color=colour, linewidth=5, solid_capstyle="butt", alpha=0.7
            )
            panel.plot(middle, row, marker_of(method), color=colour, markersize=8, markeredgecolor="white")
        panel.set(title=title, xlim=(-0.03, 1.03), xlabel="audit score")
        panel.set_ylim(len(methods) - 0.5, -0.5)
    axes[0].set_yticks(range(len(methods)), [title_of(method) for method in methods])
