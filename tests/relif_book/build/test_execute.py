"""Execution of pages: whole or not at all, the same file every time, nothing of this machine in it."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from relif_book.build.book import build_book, render_book
from relif_book.build.execute import PageError, execute_page, execute_pages
from relif_book.build.staleness import reasons_stale
from relif_core.errors import InputError
from relif_core.files import write_file

WritePage = Callable[..., Path]
FIGURE_CELL = """---
mystnb:
  figure:
    name: fig-tiny
    caption: A line.
---
from relif_book.figures.style import new_figure, show
figure, axes = new_figure()
axes.plot([0, seed])
show(figure, alt=f"A line from 0 to {seed}.")"""


def run(project: Path, **options: object) -> nbformat.NotebookNode:
    return execute_page("tiny", project / "notebooks" / "tiny.ipynb", root=project, **options)


def test_an_executed_page_is_clean_and_comes_out_the_same_twice(project: Path, write_page: WritePage) -> None:
    write_page("print(seed + 1)", FIGURE_CELL)
    notebook = run(project)
    target = project / "notebooks" / "tiny.ipynb"
    first = target.read_bytes()
    assert str(project) not in first.decode()
    assert "papermill" not in notebook.metadata
    assert [cell.id for cell in notebook.cells] == [
        f"cell-{number:03d}" for number in range(len(notebook.cells))
    ]
    assert all(set(cell.metadata) <= {"tags", "mystnb"} for cell in notebook.cells)
    assert notebook.cells[3].outputs[0].text == "1\n"
    assert notebook.cells[4].metadata.mystnb.image.alt == "A line from 0 to 0."
    assert notebook.metadata.relif.profile == "quick"
    assert "book/relif_book/figures/style.py" in notebook.metadata.relif.depends_on
    assert reasons_stale("tiny", target, root=project) == []

    run(project)
    assert target.read_bytes() == first, "only the run time differed, so the file stays as it was"
    assert not list((project / "_build" / "failed").iterdir())


def test_an_output_that_is_something_else_is_refused_before_the_page_runs(
    project: Path, write_page: WritePage, tmp_path: Path
) -> None:
    write_page("open('ran', 'w').close()")
    (tmp_path / "notes.md").write_text("mine")
    for target, message in ((tmp_path, "is a folder"), (tmp_path / "notes.md", "is no readable notebook")):
        with pytest.raises(InputError, match=message) as refused:
            execute_page("tiny", target, root=project)
        assert "mine" not in str(refused.value)
    assert not (project / "notebooks" / "ran").exists()
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_what_a_cell_prints_is_one_output_however_long_it_takes(project: Path, write_page: WritePage) -> None:
    write_page(
        "import time\nfor word in 'abc':\n    print(word, flush=True)\n    time.sleep(0.5)\ndisplay(1)"
    )
    printed, shown = run(project).cells[3].outputs
    assert (printed.text, shown.output_type) == ("a\nb\nc\n", "display_data")


def test_parameters_reach_the_page_and_such_a_notebook_never_counts_as_fresh(
    project: Path, write_page: WritePage
) -> None:
    write_page("print(seed + 1)")
    notebook = run(project, parameters={"seed": 41})
    assert "42\n" in [output.get("text") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "other parameters" in reasons_stale("tiny", project / "notebooks" / "tiny.ipynb", root=project)[0]


def test_a_page_needs_no_home(project: Path, write_page: WritePage, monkeypatch: pytest.MonkeyPatch) -> None:
    write_page(FIGURE_CELL)
    for name in ("MPLCONFIGDIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/proc")
    assert run(project).cells[3].metadata.mystnb.image.alt == "A line from 0 to 0."
    assert {path.name for path in (project / "_build").iterdir()} >= {"mplconfigdir", "ipythondir"}


def test_a_failing_cell_leaves_the_good_notebook_alone(project: Path, write_page: WritePage) -> None:
    write_page("print(seed)")
    run(project)
    target = project / "notebooks" / "tiny.ipynb"
    good = target.read_bytes()
    write_page("print(1 / seed)")
    with pytest.raises(PageError, match="page 'tiny': code cell 3 failed with ZeroDivisionError"):
        run(project)
    assert target.read_bytes() == good
    assert (project / "_build" / "failed" / "tiny.ipynb").is_file()


def test_a_page_whose_process_is_killed_is_named(project: Path, write_page: WritePage) -> None:
    write_page("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(PageError, match="1 of 1 pages failed:\npage 'tiny': Kernel died; its process was"):
        execute_pages(["tiny"], project / "_build" / "pages", root=project, report=lambda line: None)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("raise SystemExit(0)", "did not run to its end|SystemExit"),
        ("import sys; print('careful', file=sys.stderr)", "writes to the error stream: 'careful'"),
        ("display({'image/png': 'iVBORw0KGgo='}, raw=True)", "shows a picture without words"),
        ("import tempfile; print(tempfile.gettempdir() + '/x')", "shows a path of this machine"),
    ],
)
def test_what_must_not_be_published_is_refused(
    project: Path, write_page: WritePage, cell: str, message: str
) -> None:
    write_page(cell)
    with pytest.raises(PageError, match=message):
        run(project)
    assert not (project / "notebooks" / "tiny.ipynb").exists()


def test_an_unknown_parameter_is_refused_before_anything_runs(project: Path, write_page: WritePage) -> None:
    write_page("print(seed)")
    with pytest.raises(InputError, match="unknown parameter sede; it takes profile, seed"):
        run(project, parameters={"sede": 1})


def test_papermill_alone_is_stopped_by_the_page_at_an_unknown_parameter(
    project: Path, write_page: WritePage
) -> None:
    import papermill

    write_page("print(seed)")
    run(project)
    with pytest.raises(
        papermill.PapermillExecutionError, match="unknown parameter sede; it takes profile, seed"
    ):
        papermill.execute_notebook(
            str(project / "notebooks" / "tiny.ipynb"),
            None,
            parameters={"sede": 1},
            progress_bar=False,
            cwd=project,
        )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":tags: [parameters]\n", "", "first code cell must carry the tag 'parameters'"),
        ("page.footer()", "pass", "last code cell must call page.footer"),
        ('profile = "quick"', 'profile = "slow"', "profile is 'slow'; it must be 'quick' or 'full'"),
    ],
)
def test_the_form_of_a_page_is_checked(
    project: Path, write_page: WritePage, old: str, new: str, message: str
) -> None:
    source = write_page()
    source.write_text(source.read_text().replace(old, new))
    with pytest.raises((InputError, PageError), match=message):
        run(project)


def test_only_stale_pages_are_executed_and_one_failure_stops_no_other(
    project: Path, write_page: WritePage
) -> None:
    source = write_page("print(seed)")
    (source.parent / "broken.md").write_text(source.read_text().replace("print(seed)", "print(1 / seed)"))
    folder = project / "_build" / "pages"
    lines: list[str] = []
    with pytest.raises(PageError, match="1 of 2 pages failed"):
        execute_pages(["broken", "tiny"], folder, root=project, report=lines.append)
    assert (folder / "tiny.ipynb").is_file()
    assert not (folder / "broken.ipynb").exists()
    assert execute_pages(["tiny"], folder, root=project, report=lines.append) == []


def test_a_book_of_stored_pages_executes_only_stale_ones(
    project: Path, write_page: WritePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_page("print(seed)")
    run(project)
    (source.parent / "other.md").write_text(source.read_text())
    monkeypatch.setattr("relif_book.build.book._link", lambda *_: None)
    monkeypatch.setattr("relif_book.build.book.render_book", lambda root: root)
    lines: list[str] = []
    build_book(project, stored=True, report=lines.append)
    assert [line.partition(" in ")[0] for line in lines] == ["other: executed"]
    pages = project / "_build" / "pages"
    assert (pages / "tiny.ipynb").read_bytes() == source.with_suffix(".ipynb").read_bytes()
    assert (pages / "other.ipynb").is_file()


def test_a_book_is_rendered_again_where_what_it_is_made_of_changed_or_rendering_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "_build" / "html" / "index.html"
    pages = tmp_path / "_build" / "pages"
    pages.mkdir(parents=True)
    rendered: list[str] = []

    def render(root: Path, builder: str) -> Path:
        if (pages / "bad.ipynb").exists():
            raise PageError("the book was not rendered")
        rendered.append(builder)
        write_file(index, "")
        return index

    monkeypatch.setattr("relif_book.build.book._render", render)
    monkeypatch.setattr("relif_book.build.book.add_badges", lambda *_: None)
    changes = ["_config.yml", "book/intro.md", "_build/pages/tiny.ipynb", "relif_core/cli/audit.py"]
    for number, changed in enumerate(["", *changes]):
        if changed:
            write_file(tmp_path / changed, f"changed {number}")
        assert render_book(tmp_path) == render_book(tmp_path) == index
        assert len(rendered) == number + 1
    write_file(pages / "bad.ipynb", "")
    for _ in range(2):
        with pytest.raises(PageError):
            render_book(tmp_path)
    (pages / "bad.ipynb").unlink()
    render_book(tmp_path)
    assert len(rendered) == len(changes) + 2
    index.unlink()
    render_book(tmp_path)
    assert len(rendered) == len(changes) + 3


def test_a_change_of_prose_is_carried_over_without_executing(project: Path, write_page: WritePage) -> None:
    source = write_page("import time; print(time.time_ns())")
    folder = project / "_build" / "pages"
    execute_pages(["tiny"], folder, root=project, report=lambda line: None)
    before = nbformat.read(folder / "tiny.ipynb", as_version=4)
    source.write_text(source.read_text().replace("Some prose.", "Better prose.\n\n+++\n\nA cell more."))
    lines: list[str] = []
    assert execute_pages(["tiny"], folder, root=project, report=lines.append) == []
    after = nbformat.read(folder / "tiny.ipynb", as_version=4)
    assert lines == ["tiny: prose updated, code cells unchanged"]
    assert "Better prose" in after.cells[0].source
    assert after.cells[4].outputs == before.cells[3].outputs


POOL = """
import sys
from pathlib import Path
from relif_book.build.execute import execute_pages
if __name__ == "__main__":
    execute_pages(["tiny"], Path(sys.argv[1]) / "notebooks", root=Path(sys.argv[1]))
"""


def test_workers_and_kernels_end_with_the_command_that_is_killed(
    project: Path, write_page: WritePage, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    write_page(
        "import os, pathlib, time",
        f"pathlib.Path({str(started)!r}).write_text(f'{{os.getpid()}} {{os.getppid()}}'); time.sleep(600)",
    )
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    command = subprocess.Popen([sys.executable, script, project])
    deadline = time.monotonic() + 120
    while not (started.is_file() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    kernel, worker = map(int, started.read_text().split())
    command.send_signal(signal.SIGKILL)
    command.wait()
    left = [kernel, worker]
    while left and time.monotonic() < deadline:
        left = [process for process in left if _lives(process)]
        time.sleep(0.1)
    assert left == []


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] != "Z"
