"""Tables sort by their headers: numbers by value, missing values last, with mouse and keyboard."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relif_book.figures.tables import MISSING, Table

ASSETS = Path(__file__).resolve().parents[2] / "book" / "assets"
#: Columns whose cells, top to bottom, are out of order; the ascending order of their rows follows.
COLUMNS = {
    "Mean": (["0.123 ± 0.004", "−0.500 ± 0.100", MISSING, "10.0 ± 9.0", "-0.020 ± 0.300"], "beadc"),
    "Interval": (["[0.01, 0.02]", "[−0.30, 9.00]", "[−0.05, −0.01]", "[0.00, 0.01]", MISSING], "bcdae"),
    "Share": (["9 %", "100 %", "12%", "0.5 %", "13%"], "daceb"),
    "Steps": (["1,234", "999", "12,000", "7", "1,000,000"], "dbace"),
    "Ranked": (["0.0310 (3)", "0.0052 (1)", "0.0400 (5)", "0.0200 (2)", "0.0390 (4)"], "bdaec"),
    "Seeds": (["2 of 3", "10 of 12", "0 of 3", "3 of 3", "1 of 3"], "ceadb"),
    "Unbounded": (["inf", "3.5", "-inf", "−2", "1e-05"], "cdeba"),
    "Sign": (["+0.2", "−0.1", "0", "+0.05", "−0.2"], "ebcda"),
    "Words": (["ReLiF", "erm", "CATS", MISSING, "PCGrad"], "cbead"),
}


@pytest.fixture(scope="module")
def table(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page with one table of all columns, its first column naming the rows a to e."""
    rows = [
        {"Row": name, **{title: cells[place] for title, (cells, _) in COLUMNS.items()}}
        for place, name in enumerate("abcde")
    ]
    file = tmp_path_factory.mktemp("sorting") / "table.html"
    html = Table(rows, caption="Rows.")._repr_html_()
    script = (ASSETS / "relif.js").read_text()
    file.write_text(f'<!doctype html><meta charset="utf-8"><title>t</title><script>{script}</script>{html}')
    page = browser.new_page()
    page.goto(file.as_uri())
    yield page.locator("table.relif-table")
    page.close()


def order(table: Any) -> str:
    return "".join(table.locator("tbody tr > :first-child").all_inner_texts())


def header(table: Any, title: str) -> Any:
    return table.locator("thead th").filter(has=table.page.get_by_role("button", name=title, exact=True))


@pytest.mark.parametrize("title", COLUMNS)
def test_a_column_sorts_by_value_both_ways(table: Any, title: str) -> None:
    cells, rising = COLUMNS[title]
    missing = "".join(name for name, cell in zip("abcde", cells, strict=True) if cell == MISSING)
    falling = rising.replace(missing, "")[::-1] + missing
    header(table, "Row").get_by_role("button").click()
    head = header(table, title)
    head.get_by_role("button").click()
    assert (order(table), head.get_attribute("aria-sort")) == (rising, "ascending")
    head.get_by_role("button").click()
    assert (order(table), head.get_attribute("aria-sort")) == (falling, "descending")
    assert table.locator("thead th[aria-sort]").count() == 1


def test_the_keyboard_sorts_too(table: Any) -> None:
    table.page.locator("body").evaluate("body => body.focus()")
    head = header(table, "Mean")
    for _ in range(2 * len(COLUMNS)):
        table.page.keyboard.press("Tab")
        if head.get_by_role("button").evaluate("button => button === document.activeElement"):
            break
    else:
        pytest.fail("the header's button is not reached with the Tab key")
    if head.get_attribute("aria-sort"):
        header(table, "Row").get_by_role("button").click()
        head.get_by_role("button").focus()
    table.page.keyboard.press("Enter")
    assert (order(table), head.get_attribute("aria-sort")) == (COLUMNS["Mean"][1], "ascending")
    table.page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert head.get_by_role("button").evaluate("button => button === document.activeElement")


def test_equal_values_keep_their_order(table: Any) -> None:
    """Sorting by one column and then by another is sorting by both."""
    header(table, "Steps").get_by_role("button").click()
    before = order(table)
    table.evaluate("t => [...t.tBodies[0].rows].forEach(r => { r.cells[1].textContent = '0.5 ± 0.1'; })")
    header(table, "Mean").get_by_role("button").click()
    assert order(table) == before


def test_table_3_of_the_book_sorts_by_bias(new_window: Callable[..., Any]) -> None:
    window = new_window(viewport={"width": 1280, "height": 900})
    window.open("notebooks/table_3_trade_off")
    tables = window.page.locator("table.relif-table").filter(has_text="Rank, own → fixed δ")
    assert tables.count() > 0
    for place in range(tables.count()):
        found = tables.nth(place)
        titles = found.locator("thead th").all_text_contents()
        found.locator("thead button", has_text="Rank, own → fixed δ").evaluate("button => button.click()")
        shown = [
            row.locator("th, td").nth(titles.index("Rank, own → fixed δ")).text_content()
            for row in found.locator("tbody tr").all()
        ]
        # The column sorts by the first of its two ranks; rows that train nothing have none and come last.
        ranks = [int(text.split()[0]) for text in shown if "→" in text]
        assert ranks == list(range(1, len(ranks) + 1))
        assert len(ranks) >= 6
        assert all("→" in text for text in shown[: len(ranks)])
        found.locator("thead button").nth(titles.index("Bias")).evaluate("button => button.click()")
        biases = [
            float(row.locator("th, td").nth(titles.index("Bias")).text_content().split()[0])
            for row in found.locator("tbody tr").all()
        ]
        assert biases == sorted(biases)
        assert len(biases) == len(shown)
