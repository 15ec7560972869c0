"""Pages as notebooks: reading the MyST source, comparing notebooks, and a form on disk that never varies."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from relif_book.page import PROVENANCE_MIME
from relif_core.errors import InputError
from relif_core.files import write_file

LIVE_TAG = "nbval-ignore-output"
"""Cells with this tag hold times or training output: shown, but not compared."""

PICTURES = ("image/svg+xml", "image/png")
"""The output types of figures."""

#: What an editor that saves a page must leave out of its source: alternative texts, versions, these filters.
_FILTERS = {
    "cell_metadata_filter": "-mystnb.image",
    "notebook_metadata_filter": (
        "-relif,-jupytext.formats,-jupytext.cell_metadata_filter,-jupytext.notebook_metadata_filter,"
        "-jupytext.text_representation.format_version,-jupytext.text_representation.jupytext_version"
    ),
}
_METADATA = {
    "jupytext": {"formats": "ipynb,md:myst", **_FILTERS},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"},
}


def read_source(source: Path) -> NotebookNode:
    """Read a page's MyST source as a notebook without outputs, with cell ids that depend on position alone.

    Raises:
        InputError: The first code cell is not tagged ``parameters``, or the last does not call the footer.
    """
    if not source.is_file():
        raise InputError(f"page source {source.name} does not exist beside the other pages in notebooks/")
    notebook = jupytext.read(source, fmt="md:myst")
    code = code_cells(notebook)
    if not code or "parameters" not in tags_of(code[0]):
        raise InputError(f"{source.name}: the first code cell must carry the tag 'parameters'")
    if "footer()" not in code[-1].source or LIVE_TAG not in tags_of(code[-1]):
        raise InputError(
            f"{source.name}: the last code cell must call page.footer() and carry the tag '{LIVE_TAG}'"
        )
    return tidy(notebook)


def source_of(notebook: NotebookNode) -> str:
    """Return a tidy page's MyST source as an editor that keeps page and notebook paired saves it."""
    stored = nbformat.reads(nbformat.writes(notebook, version=4), as_version=4)
    return jupytext.writes(stored, fmt="md:myst")


def settle_source(source: Path) -> None:
    """Bring a page's source into the form in which editors save it, so that saving changes nothing."""
    text = source_of(read_source(source))
    if text != source.read_text(encoding="utf-8"):
        write_file(source, text)


def read_notebook(path: Path) -> NotebookNode:
    """Read an executed notebook.

    Raises:
        InputError: The file is no notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        kind = type(error).__name__  # Its own words quote the file, which may be a table of people.
        mend = "name another file, or delete it and run `make pages`"
        raise InputError(f"{path.name} is no readable notebook ({kind}); {mend}") from None


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook atomically."""
    write_file(path, nbformat.writes(notebook, version=4) + "\n")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells of a notebook, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags_of(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Reduce a notebook, in place, to what its source and its results determine.

    Cell ids follow from position; times, processor and editor metadata go; an image's alternative text moves
    to the cell, where the book's builder reads it; the footer's dependencies move to the notebook's own
    metadata under ``relif``.
    """
    relif = dict(notebook.metadata.get("relif", {}))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
        kept: dict[str, Any] = {}
        if tags_of(cell):
            kept["tags"] = tags_of(cell)
        if cell.metadata.get("mystnb"):
            kept["mystnb"] = dict(cell.metadata["mystnb"])
        if cell.cell_type == "code":
            cell["outputs"] = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            relif |= output.get("data", {}).pop(PROVENANCE_MIME, {})
            for kind in PICTURES:
                if alt := output.get("metadata", {}).get(kind, {}).get("alt"):
                    kept.setdefault("mystnb", {})["image"] = {"alt": alt}
        cell["metadata"] = kept
    notebook["cells"] = [nbformat.from_dict(cell) for cell in notebook.cells]
    notebook["metadata"] = nbformat.from_dict({**_METADATA, **({"relif": relif} if relif else {})})
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    return notebook


def _joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Return outputs with each run of pieces of one stream, which a kernel cuts by the clock, as one."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and "name" in output and output.name == joined[-1].get("name"):
            joined[-1]["text"] += output.text
        else:
            joined.append(output)
    return joined


def seal_of(notebook: NotebookNode) -> str:
    """Return the sha256 of every stored output of a notebook, live cells and pictures included."""
    outputs = [cell.get("outputs", []) for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def cell_text(cell: NotebookNode) -> tuple[str, str, tuple[str, ...], str]:
    """What a cell says in source and executed form alike: kind, source, tags, and figure options."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    return cell.cell_type, cell.source, tuple(tags_of(cell)), repr(sorted(figure.items()))


def same_results(first: NotebookNode, second: NotebookNode) -> bool:
    """Tell whether two executed notebooks agree in everything but live cells and run times."""

    def stable(notebook: NotebookNode) -> tuple[Any, ...]:
        cells = [
            (cell_text(cell), cell.metadata, LIVE_TAG not in tags_of(cell) and cell.get("outputs"))
            for cell in notebook.cells
        ]
        relif = notebook.metadata.get("relif", {})
        return cells, notebook.metadata.get("jupytext"), *map(relif.get, ("page", "profile", "depends_on"))

    return stable(first) == stable(second)
