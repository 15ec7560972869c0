"""Execution of pages with papermill: whole or not at all, several at a time, with one thread each."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TextIO

from nbformat import NotebookNode

from relif_book.build.notebook import (
    PICTURES,
    cell_text,
    code_cells,
    read_notebook,
    read_source,
    same_results,
    seal_of,
    tidy,
    write_notebook,
)
from relif_book.build.staleness import executed_as_committed, reasons_stale
from relif_book.parameters import check_parameters, declared_parameters
from relif_core.errors import InputError, ReliFError, listed
from relif_core.options import typed_value
from relif_core.studies.processes import end_with_parent

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


class PageError(ReliFError):
    """A page that failed, did not run to its end, or shows what must not be published."""

    status = 70


def execute_page(
    name: str,
    target: Path,
    *,
    root: Path,
    parameters: Mapping[str, Any] | None = None,
    threads: int | None = None,
    echo: TextIO | None = None,
) -> NotebookNode:
    """Execute one page and write the executed notebook; the old one stays unless the new one is whole.

    Args:
        name: Page name, as in ``notebooks/<name>.md``.
        target: Where the executed notebook goes; untouched when the results did not change.
        root: Top of the checkout.
        parameters: Values that replace those of the cell tagged ``parameters``.
        threads: Threads of the numerical libraries in the page; None leaves their own choice.
        echo: Receives what the page prints while it runs.

    Raises:
        InputError: A parameter that the page does not declare, a source that breaks the rules of its form, or
            a target that is something else.
        PageError: A cell failed or did not run, or an output holds a warning or a local path. The attempt is
            kept under ``_build/failed``.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    source = read_source(root / "notebooks" / f"{name}.md")
    declared = declared_parameters(name, root)
    typed = {
        key: typed_value(f"page '{name}': {key}", type(declared[key]), value) if key in declared else value
        for key, value in (parameters or {}).items()
    }
    check_parameters(name, typed, declared)
    if target.is_dir():
        raise InputError(f"{target} is a folder; name a file for the executed notebook")
    before = read_notebook(target) if target.is_file() else None
    if threads is not None:
        os.environ.update(dict.fromkeys(_ONE_THREAD, str(threads)))
    try:
        tempfile.TemporaryDirectory(dir=os.path.expanduser("~")).cleanup()
    except OSError:  # a home that cannot be written, as in many containers
        for library in ("MPLCONFIGDIR", "IPYTHONDIR"):
            os.environ.setdefault(library, str(root / "_build" / library.lower()))
    failed = root / "_build" / "failed" / f"{name}.ipynb"
    failed.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="relif-page-") as sockets:
            # Sockets in a folder of their own: kernels that start together would take each other's port.
            kernel = {"transport": "ipc", "connection_file": str(Path(sockets) / "kernel.json")}
            notebook = papermill.execute_notebook(
                source,
                str(failed),
                parameters=typed,
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                stdout_file=echo,
                start_timeout=180,
                cwd=str(root / "notebooks"),
                config=Config({"KernelManager": kernel}),
            )
    except PapermillExecutionError as error:
        raise PageError(
            f"page '{name}': code cell {error.exec_count} failed with {error.ename}: {error.evalue} "
            f"(the attempt is in {failed.relative_to(root)}; the last good notebook was left alone)"
        ) from None
    except RuntimeError as error:  # nbclient's: the kernel died or did not start
        raise PageError(
            f"page '{name}': {error}; its process was killed, perhaps for want of memory, or could not start"
        ) from None
    if problems := list(_problems(notebook, root, published=not parameters)):
        raise PageError(
            f"page '{name}': {listed(problems, '; ')} (the attempt is in {failed.relative_to(root)})"
        )
    tidy(notebook)
    if not parameters:
        notebook.metadata["relif"]["seal"] = seal_of(notebook)
    if before is None or not same_results(notebook, before):
        write_notebook(notebook, target)
    failed.unlink()
    return notebook


def execute_pages(
    names: Sequence[str],
    folder: Path,
    *,
    root: Path,
    workers: int = 2,
    again: bool = False,
    report: Callable[[str], None] = print,
) -> list[str]:
    """Execute the pages whose notebook in ``folder`` is stale, ``workers`` at a time, one thread each.

    Args:
        names: Pages to look at.
        folder: Of the executed notebooks.
        root: Top of the checkout.
        workers: Pages at a time.
        again: Execute fresh pages too.
        report: Receives one line per page.

    Returns:
        Names of the pages that were executed.

    Raises:
        PageError: At least one page failed; the others were still executed.
    """
    stale = []
    for name in names:
        target = folder / f"{name}.ipynb"
        if not again and not reasons_stale(name, target, root=root):
            continue
        if not again and _refresh_prose(name, target, root=root):
            report(f"{name}: prose updated, code cells unchanged")
        else:
            stale.append(name)
    # The longest first keeps all workers busy to the end.
    stale.sort(key=lambda name: -_expected_seconds(name, root))
    failures = []
    with ProcessPoolExecutor(
        max(1, min(workers, len(stale))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=end_with_parent,
        initargs=(os.getpid(),),
    ) as pool:
        jobs = {pool.submit(_execute_in_worker, name, folder / f"{name}.ipynb", root): name for name in stale}
        for job in as_completed(jobs):
            try:
                report(f"{jobs[job]}: executed in {job.result():.1f} s")
            except ReliFError as error:
                failures.append(str(error))
                report(str(error))
    if failures:
        raise PageError(f"{len(failures)} of {len(stale)} pages failed:\n" + "\n".join(failures))
    return stale


def _expected_seconds(name: str, root: Path) -> float:
    """Run time of the committed copy of a page, infinite where there is none."""
    committed = root / "notebooks" / f"{name}.ipynb"
    relif = read_notebook(committed).metadata.get("relif", {}) if committed.is_file() else {}
    return float(relif.get("seconds", "inf"))


def _execute_in_worker(name: str, target: Path, root: Path) -> float:
    notebook = execute_page(name, target, root=root, threads=1)
    return float(notebook.metadata["relif"]["seconds"])


def _refresh_prose(name: str, target: Path, *, root: Path) -> bool:
    """Carry changed Markdown cells over to an otherwise fresh notebook; tell whether that was enough."""
    if not target.is_file():
        return False
    source, executed = read_source(root / "notebooks" / f"{name}.md"), read_notebook(target)
    if not executed_as_committed(executed):
        return False
    new, old = code_cells(source), code_cells(executed)
    if [cell_text(cell) for cell in new] != [cell_text(cell) for cell in old]:
        return False
    for fresh, stored in zip(new, old, strict=True):
        fresh.update(outputs=stored.outputs, execution_count=stored.execution_count, metadata=stored.metadata)
    source.metadata["relif"] = executed.metadata["relif"]
    write_notebook(tidy(source), target)
    return not reasons_stale(name, target, root=root)


def _problems(notebook: NotebookNode, root: Path, *, published: bool) -> Iterator[str]:
    """Yield what forbids to keep a notebook.

    Cells that failed or never ran (one that ends the kernel politely leaves the rest unrun); of one that is
    ``published`` also warnings, pictures without alternative text, and local paths.
    """
    private = {str(root), str(Path.home()), tempfile.gettempdir()} - {"/"}
    for number, cell in enumerate(notebook.cells):
        status = cell.metadata.get("papermill", {}).get("status")
        if cell.cell_type == "code" and cell.source.strip() and status != "completed":
            yield f"cell {number} did not run to its end"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if output.output_type == "error":
                yield f"cell {number} ended with {output.ename}: {output.evalue}"
            if not published:
                continue
            if output.get("name") == "stderr":
                yield f"cell {number} writes to the error stream: {output['text'].strip()[:200]!r}"
            if any(not output.metadata.get(kind, {}).get("alt") for kind in {*data} & {*PICTURES}):
                yield f"cell {number} shows a picture without words; use relif_book.figures.style.show"
            texts = [output.get("text", ""), *(text for text in data.values() if isinstance(text, str))]
            shown = "".join(text for text in texts if len(text) < 1_000_000)
            yield from (f"cell {number} shows a path of this machine ({x}…)" for x in private if x in shown)
