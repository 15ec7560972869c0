"""Figures that move in the rendered book: their data as JSON in the page, drawn by ``book/assets/live.js``.

They need neither a network nor a library. Without JavaScript the static figure stands alone.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from relif_book.page import show_glued
from relif_core.errors import InputError

#: The figures that ``live.js`` draws.
FIGURES = ("methods", "b2", "b3", "b4", "b5", "t1", "t2", "t5")


def live_html(figure: str, data: Mapping[str, Any] | None = None) -> str:
    """Return the element that ``live.js`` turns into a figure.

    Args:
        figure: One of :data:`FIGURES`.
        data: What the figure draws, arrays and numbers; rounded to five significant digits.

    Raises:
        InputError: No figure has the name.
    """
    if figure not in FIGURES:
        raise InputError(f"no live figure is called {figure!r}; there are {', '.join(FIGURES)}")
    content = json.dumps(rounded(data or {}, 5), allow_nan=False).replace("</", "<\\/")
    return (
        f'<div class="relif-live" data-live="{figure}"><script'
        f' type="application/json">{content}</script></div>'
    )


def show_live(figure: str, data: Mapping[str, Any] | None = None, *, name: str = "") -> None:
    """Display a figure that moves; ``name`` lets another page show it too (``{glue}`` with ``:doc:``)."""
    from IPython.display import display

    content = {"text/html": live_html(figure, data), "text/plain": f"A figure that moves: {figure}"}
    display(content, raw=True)
    if name:
        show_glued(name, content)


def rounded(value: Any, digits: int = 6) -> Any:
    """Return plain values: arrays as lists, floats at so many significant digits.

    Six are more than a difference between audits can mean, five more than a reader of a figure can see.
    """
    if isinstance(value, Mapping):
        return {name: rounded(item, digits) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(item, digits) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.{digits}g}")
    return value.item() if isinstance(value, np.integer) else value
