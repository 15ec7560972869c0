"""One look for every figure: theme, sizes, colours fixed by method, and alternative text in the image."""

import io
from typing import TYPE_CHECKING, Any

from relif_book.figures.drawing import as_svg
from relif_core.errors import InputError
from relif_core.methods import look_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES = 7.0
"""Width of a figure: the text column of the book."""

_DPI = 130

SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
"""Colours for series that are no methods, in the order of use."""
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY = SERIES_COLOURS


def colour_of(method: str) -> str:
    """Return a method's colour by its key, the same on every page (Okabe and Ito 2008 for the seven)."""
    return look_of(method).colour


def marker_of(method: str) -> str:
    """Return a method's marker by its key: no figure relies on colour alone."""
    return look_of(method).marker


def use_theme() -> None:
    """Set the book's look for later figures: white ground, dark text of at least 9 points, light grid."""
    import matplotlib
    import seaborn

    matplotlib.use("agg")
    seaborn.set_theme(context="notebook", style="ticks", palette=list(SERIES_COLOURS))
    matplotlib.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 10.5,
            "axes.titlesize": 11,
            "axes.labelsize": 10.5,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "lines.linewidth": 1.8,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "svg.hashsalt": "relif",
        }
    )


def new_figure(
    *, rows: int = 1, columns: int = 1, height: float = 3.2, **options: Any
) -> tuple["Figure", Any]:
    """Return a figure and its axes, as :func:`matplotlib.pyplot.subplots` does, in the book's look.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        height: Of one row in inches; the width is that of the text column.
        **options: Passed on, for example ``sharey=True``.
    """
    use_theme()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def show(figure: "Figure", *, alt: str) -> None:
    """Display a figure with its alternative text: as SVG with its numbers, as PNG where it holds pictures.

    Args:
        figure: A matplotlib figure.
        alt: What a reader who cannot see the picture needs from it, in one or two sentences; nbval compares
            it too, so numbers in it are rounded to what holds on another processor.

    Raises:
        InputError: The alternative text is empty.
    """
    from IPython.display import display

    if not alt.strip():
        raise InputError("figure without alternative text; say in alt=… what the picture shows")
    alt = " ".join(alt.split())
    kind = "image/svg+xml"
    content: str | bytes | None = as_svg(figure)
    if content is None:
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
        kind, content = "image/png", stream.getvalue()
    display({kind: content, "text/plain": alt}, metadata={kind: {"alt": alt}}, raw=True)
