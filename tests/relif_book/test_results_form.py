"""Every results page has one form: finding, figure, one table, caveat, folded details, provenance."""

import re
from pathlib import Path

import pytest

from relif_book.build.notebook import read_source
from relif_book.figures.tables import show_folded

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "table_1_nyuv2",
    "table_2_induced_tolerances",
    "table_3_trade_off",
    "table_4_components",
    "table_6_five_tolerances",
    "table_7_nyuv2_violation_rate",
    "figure_2_worst_against_bias",
    "appendix_b3_step_size_and_target",
    "balancers_as_published_and_released",
    "hybrids",
    "physionet2012_erm_relif",
    "subgroup_and_time_tolerances",
    "label_leakage",
    "claims",
)
FIGURE = re.compile(r"\b(style\.show|show_live)\(")
TABLE = re.compile(r"\b(show_table|show_sets)\(")
FOLDED = re.compile(r"\b(fold_sets|show_folded)\(")
HIDDEN = {"remove-input", "hide-input", "hide-cell"}


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph; a glued number or a link is a word."""
    plain = re.sub(r"\{[\w:]+\}`[^`]*`", "word", " ".join(text.split()))
    return [part for part in re.split(r"(?<=[.!?])\s+(?=[A-Z*])", plain) if part]


@pytest.fixture(scope="module", params=PAGES)
def cells(request: pytest.FixtureRequest) -> list:
    return read_source(ROOT / "notebooks" / f"{request.param}.md").cells


def first_with(cells: list, pattern: re.Pattern[str]) -> int:
    """The place of the first code cell that the pattern is found in."""
    return next(
        place for place, cell in enumerate(cells) if cell.cell_type == "code" and pattern.search(cell.source)
    )


def test_the_finding_comes_first_in_at_most_three_sentences_with_numbers_of_the_records(cells: list) -> None:
    title, *paragraphs = [part for part in cells[0].source.split("\n\n") if part.strip()]
    assert title.lstrip("(").split("\n")[-1].startswith("# ")
    assert len(paragraphs) == 1
    assert 1 <= len(sentences(paragraphs[0])) <= 3
    assert "{glue:text}" in paragraphs[0]
    assert "**" not in paragraphs[0]


def test_every_cell_is_hidden(cells: list) -> None:
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(HIDDEN & set(cell.metadata.get("tags", [])) for cell in code)


def test_figure_then_one_table_then_the_caveat_then_only_what_is_folded(cells: list) -> None:
    table = first_with(cells, TABLE)
    ledger = "ledger.matrix_rows" in cells[table].source
    figure = table if ledger else first_with(cells, FIGURE)
    assert figure <= table
    before = [cell.source for cell in cells[1:figure] if cell.cell_type == "markdown"]
    assert before == [], "nothing stands between the finding and the figure"
    caveat = next(
        place for place, cell in enumerate(cells) if cell.source.lstrip().startswith("**Read with care.**")
    )
    assert caveat == table + 1
    _, heading, advice = re.split(r"^(## .*)$", cells[caveat].source, flags=re.M)[:3]
    assert heading == "## What to take away"
    assert 2 <= len(sentences(advice)) <= 3
    later = [cell.source for cell in cells[caveat:] if cell.cell_type == "code"]
    open_tables = [source for source in later if TABLE.search(source)]
    assert len(open_tables) == int(ledger), "the four contrasts alone stand open beneath the matrix"
    assert any(FOLDED.search(source) for source in later)


def test_the_table_carries_the_number_that_its_page_has_in_the_paper(cells: list) -> None:
    title = next(line for line in cells[0].source.splitlines() if line.startswith("# "))
    number = re.match(r"# (Table \d):", title)
    shown = re.findall(r'(?:number=|caption=f)"(Table \d)\b', cells[first_with(cells, TABLE)].source)
    assert shown == ([number[1]] if number else [])


def test_this_run_and_provenance_end_the_page(cells: list) -> None:
    headings = re.findall(r"^## (.*)$", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.M)
    assert headings[-2:] == ["This run", "Parameters and provenance"]
    assert cells[-1].source.rstrip().endswith("page.footer()")
    assert re.search(r'results\.show_kept\(|"Kept runs: size', cells[-1].source)


def test_ours_is_never_called_published(cells: list) -> None:
    """The paper's cells are not legible; what stands in tables and figures of ours are kept runs."""
    for cell in cells:
        shown = re.sub(r"published_(records|sets|studies)|_as_published|as published", "", cell.source)
        assert not re.search(r"\bPublished\b|results\.published\W(?!page)", shown), shown


@pytest.mark.parametrize("source", sorted((ROOT / "notebooks").glob("*.md")), ids=lambda path: path.stem)
def test_every_number_in_the_text_of_a_page_is_computed_on_it(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    made = [re.escape(name) for name in re.findall(r'glue\(\s*f?"([^"]+)"', text)]
    patterns = [re.sub(r"\\\{.*?\\\}", r"[\\w-]*", name) for name in made]
    used = set(re.findall(r"\{glue:text\}`([\w-]+)`", text))
    assert [name for name in used if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []


def test_what_is_folded_is_there_for_readers_without_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    show_folded("Details", [])
    assert '<details class="relif-fold"><summary>Details' in capsys.readouterr().out
