"""A pytest plugin beside nbval: pictures are compared as seen, live cells by structure and range.

nbval compares no pictures, and of a cell tagged ``nbval-ignore-output`` nothing. Its kernels that start
together would take each other's port, so they get sockets of their own.
"""

import base64
import io
import itertools
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from relif_book.build.notebook import LIVE_TAG
from relif_book.figures.drawing import DATA
from relif_book.page import PROVENANCE_MIME

#: Pictures are compared on a grid of so many cells a side, in shares of the way from black to white.
GRID = 64
#: The most that a cell, and the mean over all, may differ: text and lines that moved by a pixel stay below.
MOST, MEAN = 0.15, 0.004
#: How many times larger than every stored number a live number may be.
RANGE = 100.0
#: Points by which a stroke of a drawing may move.
POINTS = 4.0
_COORDINATE = re.compile(r"-?\d+(?:\.\d+)?")
_NAMES = re.compile(r"(?<=[#\"])[pm][0-9a-f]{10}|#[0-9a-f]{6}\b")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])")
_UNDEFINED = re.compile(r"\b(?:nan|inf)\b", re.IGNORECASE)


def pytest_configure(config: Any) -> None:
    """Give every kernel of nbval a place of its own for its sockets; the folder goes with the process."""
    from nbval import kernel

    folder, numbers = tempfile.TemporaryDirectory(prefix="relif-nbval-"), itertools.count()
    config.add_cleanup(folder.cleanup)
    make = kernel.KernelManager
    kernel.KernelManager = lambda **options: make(
        transport="ipc", connection_file=f"{folder.name}/{next(numbers)}.json", **options
    )


def pytest_itemcollected(item: Any) -> None:
    """Put the comparisons of this module behind those of nbval."""
    if hasattr(item, "compare_outputs") and hasattr(item, "cell"):
        live = LIVE_TAG in item.cell.metadata.get("tags", [])
        exact = (lambda *_: True) if live else item.compare_outputs
        item.options["check"] = True
        item.parent.skip_compare = (*item.parent.skip_compare, "image/svg+xml")
        item.compare_outputs = partial(_compare, item, exact, live)


def _compare(item: Any, exact: Any, live: bool, now: Sequence[Any], stored: Sequence[Any], *_: Any) -> bool:
    item.comparison_traceback = []
    if not exact(now, stored):
        return False
    item.comparison_traceback = list(differences(stored, now, live=live))
    return not item.comparison_traceback


def differences(stored: Sequence[Any], now: Sequence[Any], *, live: bool) -> Iterator[str]:
    """Yield what tells the outputs of a cell from those stored: their kinds, pictures, and live text."""
    kinds = [[_kinds(output) for output in outputs] for outputs in (stored, now)]
    if kinds[0] != kinds[1]:
        yield f"the cell has the outputs {kinds[1]}, stored are {kinds[0]}"
        return
    for old, new in zip(stored, now, strict=True):
        if "image/png" in old.get("data", {}):
            yield from _pictures_differ(old["data"]["image/png"], new["data"]["image/png"])
        if "image/svg+xml" in old.get("data", {}):
            yield from _drawings_differ(old["data"]["image/svg+xml"], new["data"]["image/svg+xml"])
        if live:
            yield from _texts_differ(_text(old), _text(new))


def _kinds(output: Mapping[str, Any]) -> str:
    kinds = sorted({*output.get("data", {})} - {PROVENANCE_MIME})
    return " and ".join([output["output_type"], *kinds])


def _text(output: Mapping[str, Any]) -> str:
    data = output.get("data", {})
    return output.get("text") or data.get("text/html") or data.get("text/plain") or ""


def _pictures_differ(stored: str, now: str) -> Iterator[str]:
    (old_size, old), (new_size, new) = _seen(stored), _seen(now)
    if old_size != new_size:
        yield f"the picture has {new_size} pixels, the stored one {old_size}"
        return
    apart = np.abs(old - new)
    if apart.max() > MOST or apart.mean() > MEAN:
        yield f"the picture differs by {apart.max():.2f} at one place, {apart.mean():.4f} on average"


def _drawings_differ(stored: str, now: str) -> Iterator[str]:
    """A drawing has the same strokes and words, none further away than a few points."""
    (old_form, old), (new_form, new) = _strokes(stored), _strokes(now)
    if old_form != new_form:
        yield "the drawing has other strokes or words than the stored one"
    elif len(old) and np.abs(old - new).max() > POINTS:
        yield f"the drawing differs by {np.abs(old - new).max():.1f} points, at most {POINTS} are allowed"


def _strokes(drawing: str) -> tuple[str, np.ndarray]:
    """Return a drawing without its numbers, its data and the names it gives to shared parts; the numbers."""
    shown = _NAMES.sub("", DATA.sub("", drawing))
    return _COORDINATE.sub("#", shown), np.array([float(text) for text in _COORDINATE.findall(shown)])


def _seen(picture: str) -> tuple[tuple[int, int], np.ndarray]:
    """Return a picture's size, and how bright it is on the grid [GRID, GRID, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        small = image.convert("RGB").resize((GRID, GRID), Image.Resampling.BOX)
        return image.size, np.asarray(small, dtype=float) / 255


def _texts_differ(stored: str, now: str) -> Iterator[str]:
    """Rows and cells of a table, or lines, are as many; numbers stay defined and within their range."""
    for part in ("\n", "<tr", "<td", "<th"):
        if stored.count(part) != now.count(part):
            yield f"{now.count(part)} times {part!r}, stored {stored.count(part)} times"
    if _UNDEFINED.search(now) and not _UNDEFINED.search(stored):
        yield "a number is not defined"
    old, new = (
        [abs(float(text.replace(",", ""))) for text in _NUMBER.findall(each)] for each in (stored, now)
    )
    limit = RANGE * max([1.0, *old])
    if bool(old) != bool(new) or any(not math.isfinite(value) or value > limit for value in new):
        yield f"numbers up to {max(new, default=math.nan):g}, stored up to {max(old, default=math.nan):g}"
