"""A stale page is found, the reason named, and the command that mends it printed."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from relif_book.build.execute import execute_page
from relif_book.build.staleness import stale_pages
from relif_book.project import fingerprint
from relif_core.cli import main

WritePage = Callable[..., Path]


@pytest.fixture
def executed(project: Path, write_page: WritePage) -> Path:
    (project / "data").mkdir(exist_ok=True)
    (project / "data" / "record.json").write_text("{}")
    write_page("print(page.record('data/record.json').name)")
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


def relif(*arguments: str, code: int = 0) -> None:
    """Run the one command line here, in the present folder; its exit status must be ``code``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["relif", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
    assert (ending.value.code or 0) == code


def test_the_check_prints_page_reason_and_mend(
    executed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(executed)
    relif("pages", "check")
    (executed / "data" / "record.json").write_text("[]")
    relif("pages", "check", code=1)
    printed = capsys.readouterr().out
    assert "stale page tiny: data/record.json changed" in printed
    assert "run `make pages`" in printed


def test_the_command_executes_a_page_with_parameters(
    executed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(executed / "notebooks")
    relif("pages", "execute", "tiny", str(executed / "mine.ipynb"), "-p", "seed=7")
    assert "seed = 7" in (executed / "mine.ipynb").read_text()
    for parameter, message in (
        ("sede=7", "page 'tiny': unknown parameter sede"),
        ("seed=abc", "page 'tiny': seed='abc' does not fit; give a whole number"),
        ("seed", "write name=value"),
    ):
        relif("pages", "execute", "tiny", "x.ipynb", "-p", parameter, code=2)
        assert message in capsys.readouterr().err
    assert not Path("x.ipynb").exists()
