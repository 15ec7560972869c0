"""Stale pages: executed notebooks that no longer follow from source, package and the files they read."""

from pathlib import Path

from nbformat import NotebookNode

from relif_book.build.notebook import cell_text, code_cells, read_notebook, read_source, seal_of, tags_of
from relif_book.project import ABSENT, fingerprint

MEND = "make pages"
"""The command that brings every stale page up to date."""


def reasons_stale(name: str, notebook: Path, *, root: Path) -> list[str]:
    """Say why an executed page is not what executing it now would give; an empty list means that it is fresh.

    A page depends on its source, on the package modules loaded while it ran, and on every file or record that
    it opened through its :class:`~relif_book.Page`; the executed notebook carries their fingerprints.
    """
    if not notebook.is_file():
        return ["it has never been executed"]
    source, executed = read_source(root / "notebooks" / f"{name}.md"), read_notebook(notebook)
    if not executed_as_committed(executed):
        return ["it was executed with other parameters, or not by this project's own command"]
    reasons = []
    if [cell_text(cell) for cell in source.cells] != [cell_text(cell) for cell in executed.cells]:
        reasons.append(f"source notebooks/{name}.md and its notebook differ")
    if any(cell.source and cell.execution_count is None for cell in code_cells(executed)):
        reasons.append("some of its cells were not run")
    if executed.metadata["relif"].get("seal") != seal_of(executed):
        reasons.append("its stored outputs are not those that its execution left")
    for relative, known in executed.metadata["relif"]["depends_on"].items():
        path = root / relative
        if not path.exists():
            if known != ABSENT:
                reasons.append(f"{relative} no longer exists")
        elif fingerprint(path) != known:
            reasons.append(f"{relative} changed")
    return reasons


def executed_as_committed(notebook: NotebookNode) -> bool:
    """Tell whether a notebook carries provenance and ran in the quick profile without injected parameters."""
    injected = any("injected-parameters" in tags_of(cell) for cell in notebook.cells)
    return not injected and notebook.metadata.get("relif", {}).get("profile") == "quick"


def stale_pages(root: Path) -> dict[str, list[str]]:
    """Return stale committed pages and notebooks without a source, each with its reasons."""
    folder = root / "notebooks"
    sources = {path.stem for path in folder.glob("*.md")}
    stale = {}
    for name in sorted(sources | {path.stem for path in folder.glob("*.ipynb")}):
        if name not in sources:
            stale[name] = [f"notebooks/{name}.ipynb has no source {name}.md; delete it"]
        elif reasons := reasons_stale(name, folder / f"{name}.ipynb", root=root):
            stale[name] = reasons
    return stale
