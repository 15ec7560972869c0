"""The book's sources: the table of contents is complete, and the code that its prose shows runs."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml

import relif_core.audit
from relif_book.build.notebook import code_cells, read_source
from relif_book.parameters import PARAMETERS, assigned, check_parameters, declared_parameters

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "notebooks").glob("*.md"))
PROSE = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
WITH_CODE = [path for path in PROSE if "```python\n" in path.read_text()]
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
THEORY = [
    Path(chapter["file"]).name
    for part in TOC["parts"]
    if part["caption"] in ("Theory", "What the audit measures")
    for chapter in part["chapters"]
]


def test_the_table_of_contents_names_every_page_once() -> None:
    listed = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
    written = {path.stem for path in (ROOT / "book").glob("*.md")} | {
        f"notebooks/{path.stem}" for path in PAGES
    }
    assert sorted(listed) == sorted(written)


@pytest.mark.parametrize("source", PAGES, ids=lambda path: path.stem)
def test_a_page_has_its_name_its_parameters_and_its_committed_notebook(source: Path) -> None:
    notebook = read_source(source)
    names = assigned(code_cells(notebook)[0].source)
    assert "profile" in names
    assert set(names) <= set(PARAMETERS), "give the new parameter a domain in relif_book.parameters"
    assert declared_parameters(source.stem) == names
    check_parameters(source.stem, names, names)
    calls = re.findall(r'Page\(\s*"(\w+)"', "\n".join(cell.source for cell in notebook.cells))
    assert calls == [source.stem]
    assert source.with_suffix(".ipynb").is_file()


@pytest.mark.parametrize("source", PAGES, ids=lambda path: path.stem)
def test_every_page_says_once_what_to_take_away(source: Path) -> None:
    assert re.findall(r"^#+ What to take away$", source.read_text(), re.MULTILINE) == ["## What to take away"]


@pytest.mark.parametrize("name", THEORY)
def test_a_page_of_theory_ends_with_exercises_and_what_to_take_away(name: str) -> None:
    text = "\n".join(
        cell.source
        for cell in read_source(ROOT / "notebooks" / f"{name}.md").cells
        if cell.cell_type == "markdown"
    )
    sections = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    *_, exercises, asked, last, taken = "", "", *sections
    assert last == "What to take away"
    assert 2 <= len(re.findall(r"^\* ", taken, flags=re.MULTILINE)) <= 4
    if name in ("figure_1_framework", "what_a_low_bias_proves"):
        return
    assert exercises == "Exercises"
    answers = re.findall(r"^:::\{admonition\} Answer\n:class: dropdown\n", asked, flags=re.MULTILINE)
    assert len(answers) == len(re.findall(r"^\*\*\d\. ", asked, flags=re.MULTILINE)) >= 2


@pytest.mark.parametrize("source", PAGES, ids=lambda path: path.stem)
def test_the_set_up_is_one_hidden_cell_of_at_most_12_lines(source: Path) -> None:
    code = [cell for cell in read_source(source).cells if cell.cell_type == "code"]
    place = next(place for place, cell in enumerate(code) if "= Page(" in cell.source)
    assert place == 1, "after the parameters"
    assert {"hide-input", "remove-input"} & set(code[place].metadata["tags"])
    assert len(code[place].source.splitlines()) <= 12, code[place].source


def test_the_reference_holds_every_public_name_of_the_audit_once() -> None:
    text = (ROOT / "book" / "api_audit.md").read_text()
    text = re.sub(r"currentmodule:: relif_core\.audit\.\w+\n.*?currentmodule", "", text, flags=re.DOTALL)
    shown = re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", text, flags=re.MULTILINE)
    assert sorted(shown) == sorted(relif_core.audit.__all__)


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: path.stem)
def test_code_in_the_prose_runs(path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, path.name, "exec"), namespace)
    assert printed.getvalue()


def test_no_page_or_prose_names_a_machine() -> None:
    private = re.compile(r"/(?:home|root|Users|work)/\w|/tmp/")
    found = [
        f"{path.name}: {line.strip()}"
        for path in [*PROSE, *PAGES]
        for line in path.read_text().splitlines()
        if private.search(line)
    ]
    assert found == []
