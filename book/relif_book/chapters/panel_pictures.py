"""Pictures of dense predictions: targets above what each model predicts, its audit scores beside."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_book.chapters.dense_panels import CHOICES, DensePanels
from relif_book.figures.style import new_figure
from relif_core.methods import title_of
from relif_core.tensors.dense import IGNORE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW_INCHES = 0.95
#: Shades of depth and of each axis of the normals: more cost bytes and show nothing more.
LEVELS = 64
COLUMNS = ("image", "classes", "depth", "normals")


def panel_rows(panels: DensePanels) -> list[dict[str, str | float]]:
    """Audit scores of every image under every model, with their mean distance over task pairs."""
    return [
        {
            "Image": name,
            "Method": title_of(method),
            **{f"score, {task}": float(scores[index, place]) for place, task in enumerate(panels.tasks)},
            "Mean distance": float(panels.distances(method)[index]),
        }
        for index, name in enumerate(CHOICES)
        for method, scores in panels.scores.items()
    ]


def draw_panels(panels: DensePanels, class_names: Sequence[str]) -> "Figure":
    """Return a figure: per image the targets, then each model's predictions with its scores at the left."""
    import matplotlib
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    methods = list(panels.predicted)
    block = 1 + len(methods)
    figure, axes = new_figure(rows=block * len(CHOICES), columns=len(COLUMNS), height=ROW_INCHES)
    colours = ListedColormap([*matplotlib.colormaps["tab20"].colors[: len(class_names)]])  # type: ignore[attr-defined]
    colours.set_bad("white")
    depths = matplotlib.colormaps["viridis"].resampled(LEVELS)
    for index, name in enumerate(CHOICES):
        rows = axes[index * block : (index + 1) * block]
        far = float(panels.depth[index].max())
        target = {"labels": panels.labels, "depth": panels.depth, "normals": panels.normals}
        rows[0][0].imshow(panels.images[index])
        for row, title, maps in zip(
            rows,
            (f"{name}\ntarget", *(title_of(method) for method in methods)),
            (target, *(panels.predicted[method] for method in methods)),
            strict=True,
        ):
            labels = np.ma.masked_equal(maps["labels"][index], IGNORE)
            row[1].imshow(labels, cmap=colours, vmin=0, vmax=len(class_names) - 1, interpolation="nearest")
            row[2].imshow(maps["depth"][index], cmap=depths, vmin=0, vmax=far, interpolation="nearest")
            row[3].imshow(
                np.round((maps["normals"][index] + 1) * LEVELS / 2).clip(0, LEVELS) / LEVELS,
                interpolation="nearest",
            )
            row[0].set_ylabel(title, fontsize=9)
        for row, method in zip(rows[1:], methods, strict=True):
            row[0].text(
                0.5, 0.5,
                "\n".join(
                    f"{task} {value:.2f}"
                    for task, value in zip(panels.tasks, panels.scores[method][index], strict=True)
                ),
                ha="center", va="center", fontsize=9, transform=row[0].transAxes,
            )  # fmt: skip
    for panel in axes.ravel():
        _bare(panel)
    for panel, title in zip(axes[0], COLUMNS, strict=True):
        panel.set_title(title, fontsize=9.5)
    figure.legend(
        [Patch(facecolor=colours(number)) for number in range(len(class_names))],
        class_names, loc="outside lower center", ncols=7, fontsize=9, handlelength=1,
    )  # fmt: skip
    return figure


def _bare(panel: Any) -> None:
    panel.set(xticks=[], yticks=[])
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)
