"""A stale page is found, the reason named, and the command that mends it printed."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from relif_book.build.execute import execute_page
from relif_book.build.staleness import stale_pages
from relif_book.project import fingerprint

WritePage = Callable[..., Path]


@pytest.fixture
def executed(project: Path, write_page: WritePage) -> Path:
    (project / "data").mkdir(exist_ok=True)
    (project / "data" / "record.json").write_text("{}")
    write_page("print(page.read('data/record.json'))")
    execute_page("tiny", project / "notebooks" / "tiny.ipynb", root=project)
    assert stale_pages(project) == {}
    return project


def reasons(project: Path) -> list[str]:
    return stale_pages(project)["tiny"]


def test_a_changed_source(executed: Path) -> None:
    source = executed / "notebooks" / "tiny.md"
    source.write_text(source.read_text().replace("Some prose.", "Other prose."))
    assert reasons(executed) == ["source notebooks/tiny.md and its notebook differ"]


def test_an_edited_notebook(executed: Path) -> None:
    path = executed / "notebooks" / "tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source += "\nextra = 1"
    nbformat.write(notebook, path)
    assert reasons(executed) == ["source notebooks/tiny.md and its notebook differ"]


def test_an_altered_output(executed: Path) -> None:
    path = executed / "notebooks" / "tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-2].outputs[0]["text"] = "another.json\n"
    nbformat.write(notebook, path)
    assert reasons(executed) == ["its stored outputs are not those that its execution left"]


@pytest.mark.parametrize(
    ("other", "counts"),
    [
        ('def f(x):  # another\n    """Else.\n\n    # not code\n    """\n\n    return x + 1\n', False),
        ('def f(x):\n    """Says."""\n    return x + 2\n', True),
        ("def f(x):\n    'Says.'; return x + '#'\n", True),
        ("def f(x:\n", True),
    ],
)
def test_comments_and_docstrings_are_no_code(tmp_path: Path, other: str, counts: bool) -> None:
    path = tmp_path / "module.py"
    path.write_text('# top\ndef f(x):\n    """Says."""\n    return x + 1\n')
    before = fingerprint(path)
    path.write_text(other)
    assert (fingerprint(path) != before) is counts


def test_a_record_that_a_page_awaited_has_come(project: Path, write_page: WritePage) -> None:
    write_page("print(page.awaits('data/later.json'))")
    execute_page("tiny", project / "notebooks" / "tiny.ipynb", root=project)
    assert stale_pages(project) == {}
    (project / "data" / "later.json").write_text("{}")
    assert reasons(project) == ["data/later.json changed"]


def test_a_changed_record(executed: Path) -> None:
    (executed / "data" / "record.json").write_text('{"bias": 1}')
    assert reasons(executed) == ["data/record.json changed"]


def test_a_lost_record(executed: Path) -> None:
    (executed / "data" / "record.json").unlink()
    assert reasons(executed) == ["data/record.json no longer exists"]


def test_a_changed_package(executed: Path) -> None:
    package = executed / "book"
    original = package.resolve()
    package.unlink()
    for path in original.rglob("*.py"):
        copy = package / path.relative_to(original)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (package / "relif_book" / "project.py").write_text("# changed\n")
    (package / "unrelated.py").write_text("# not loaded by the page\n")
    assert reasons(executed) == ["book/relif_book/project.py changed"]


def test_a_notebook_without_source_and_one_never_executed(executed: Path) -> None:
    (executed / "notebooks" / "tiny.md").rename(executed / "notebooks" / "other.md")
    found = stale_pages(executed)
    assert found == {
        "other": ["it has never been executed"],
        "tiny": ["notebooks/tiny.ipynb has no source tiny.md; delete it"],
    }


def test_the_check_prints_page_reason_and_mend(
    executed: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., str]
) -> None:
    monkeypatch.chdir(executed)
    shell("pages", "check")
    (executed / "data" / "record.json").write_text("[]")
    printed = shell("pages", "check", code=1)
    assert "stale page tiny: data/record.json changed" in printed
    assert "run `make pages`" in printed


def test_the_command_executes_a_page_with_parameters(
    executed: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable[..., str]
) -> None:
    monkeypatch.chdir(executed / "notebooks")
    shell("pages", "execute", "tiny", str(executed / "mine.ipynb"), "-p", "seed=7")
    assert "seed = 7" in (executed / "mine.ipynb").read_text()
    for parameter, message in (
        ("sede=7", "page 'tiny': unknown parameter sede"),
        ("seed=abc", "page 'tiny': seed='abc' does not fit; give a whole number"),
        ("seed", "write name=value"),
    ):
        assert message in shell("pages", "execute", "tiny", "x.ipynb", "-p", parameter, code=2)
    assert not Path("x.ipynb").exists()


def test_paths_given_to_a_page_are_those_of_the_caller(
    project: Path, write_page: WritePage, shell: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_page("print(page.parameters['data'], page.parameters['runs'], sep='\\n')")
    source.write_text(source.read_text().replace("seed = 0\n", 'seed = 0\ndata = ""\nruns = ""\n'))
    monkeypatch.setenv("RELIF_PROJECT", str(project))
    monkeypatch.chdir(project / "data")
    (project / "data" / "mine").mkdir()
    shell("pages", "execute", "tiny", "x.ipynb", "-p", "data=mine", "-p", "runs=new")
    cells = nbformat.read(project / "data" / "x.ipynb", as_version=4).cells
    printed = [output.get("text") for cell in cells for output in cell.get("outputs", [])]
    assert f"{project}/data/mine\n{project}/data/new\n" in printed
