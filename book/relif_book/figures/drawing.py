"""Figures as SVG: the plotted numbers travel inside the file, and in the book its ink follows the theme."""

import csv
import html
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Where a drawing keeps its numbers, as comma-separated values.
DATA = re.compile(r'<metadata class="relif-data">(.*?)</metadata>', re.DOTALL)
_GREY = re.compile(r": (#([0-9a-f]{2})\2\2)\b")
_COORDINATES = re.compile(r' (?:d|x|y|points)="[^"]*"')
_DIGITS = re.compile(r"(\.\d\d)\d+")
#: Points of one series that travel, evenly taken; more than a figure of this size can show apart.
_MOST = 500
_LARGEST_BYTES = 400_000


def as_svg(figure: "Figure") -> str | None:
    """Return a figure as SVG with its numbers, or None where it holds pictures or is better a picture."""
    import matplotlib

    if any(axes.images for axes in figure.axes):
        return None
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    drawn = re.sub(r"\s*<metadata>.*?</metadata>|<!--.*?-->", "", stream.getvalue(), flags=re.DOTALL)
    drawn = _COORDINATES.sub(lambda found: _DIGITS.sub(r"\1", found[0]), drawn[drawn.index("<svg") :])
    rows = [("panel", "series", "x", "y"), *_plotted(figure)]
    if len(drawn) > _LARGEST_BYTES:
        return None
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = f'<metadata class="relif-data">{html.escape(text.getvalue())}</metadata>'
    return drawn.replace("</svg>", f"{data}</svg>") if len(rows) > 1 else drawn


def themed(drawing: str, alt: str) -> str:
    """Return a drawing as it stands in a page: without its data, named by ``alt``, in the theme's ink."""
    shown = DATA.sub("", drawing)
    shown = _GREY.sub(lambda found: f": {_in_theme(found[1], int(found[2], 16))}", shown)
    shown = re.sub(r' id="(?!p[0-9a-f]{10}"|m[0-9a-f]{10}")[^"]*"', "", shown)
    head = (
        f'<svg class="relif-drawing" role="img" aria-label="{html.escape(alt)}"'
        ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    )
    return re.sub(r'<svg[^>]*?( viewBox="[^"]*")[^>]*>', lambda found: f"{head}{found[1]}>", shown, count=1)


def _in_theme(colour: str, light: int) -> str:
    """Return white, light and dark grey as the variables of book/assets/relif.css; others stay."""
    name = "ground" if light == 255 else "rule" if light >= 0xC8 else "ink" if light <= 0x50 else ""
    return f"var(--relif-{name}, {colour})" if name else colour


def _plotted(figure: "Figure") -> Iterator[tuple[str, str, str, str]]:
    """Yield panel, series, x and y of the points that the figure's lines, dots and bars show."""
    for number, axes in enumerate(figure.axes, 1):
        panel = axes.get_title() or axes.get_title(loc="left") or axes.get_ylabel() or str(number)
        for name, x, y in _series(axes):
            step = -(-len(x) // _MOST) or 1
            yield from ((panel, name, _text(a), _text(b)) for a, b in zip(x[::step], y[::step], strict=True))


def _series(axes: "Axes") -> Iterator[tuple[str, Any, Any]]:
    inside = axes.transData
    for line in axes.lines:
        if line.get_transform().contains_branch(inside) or line.get_transform() == inside:
            yield _name(line), line.get_xdata(orig=False), line.get_ydata(orig=False)
    for collection in axes.collections:
        offsets = np.ma.getdata(collection.get_offsets())
        if len(offsets) and len(collection.get_paths()) and collection.get_offset_transform() == inside:
            yield _name(collection), offsets[:, 0], offsets[:, 1]
    for bars in axes.containers:
        if hasattr(bars, "patches"):
            middle = [
                (bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height()) for bar in bars.patches
            ]
            places, heights = zip(*middle, strict=True)
            yield _name(bars), places, heights


def _name(artist: Any) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float | np.number) else str(value)
