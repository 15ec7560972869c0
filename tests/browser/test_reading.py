"""What a reader does: turn pages, search, switch to dark, sort a table."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

NewWindow = Callable[..., Any]
TOC = yaml.safe_load((Path(__file__).resolve().parents[2] / "book" / "_toc.yml").read_text())
ORDER = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]


@pytest.fixture
def window(new_window: NewWindow) -> Any:
    return new_window(viewport={"width": 1280, "height": 900}, color_scheme="light")


def test_turning_pages_visits_the_whole_book_in_order(html: Path) -> None:
    seen = [ORDER[0]]
    for _ in ORDER:
        page = html / f"{seen[-1]}.html"
        found = re.search(r'<a class="right-next"\s+href="([^"]+)"', page.read_text(encoding="utf-8"))
        if found:
            target = (page.parent / found[1]).resolve()
            seen.append(target.relative_to(html.resolve()).with_suffix("").as_posix())
    assert seen == ORDER


def test_a_reader_turns_a_page_and_turns_back(window: Any) -> None:
    window.open(ORDER[0])
    for link, reached in (("a.right-next", ORDER[1]), ("a.right-next", ORDER[2]), ("a.left-prev", ORDER[1])):
        with window.page.expect_navigation():
            window.page.locator(link).click()
        assert window.page.url == f"{window.address}{reached}.html"
    assert window.complaints == []


def test_the_sidebar_lists_every_page(window: Any) -> None:
    window.open(ORDER[0])
    titles = window.page.locator("#pst-primary-sidebar nav a.reference.internal")
    assert titles.count() == len(ORDER)
    with window.page.expect_navigation():
        window.page.locator("#pst-primary-sidebar nav a", has_text="Glossary").click()
    assert window.page.url == f"{window.address}glossary.html"


@pytest.mark.parametrize(
    ("query", "expected"), [("tolerance", "glossary.html"), ("papermill", "rerun_a_page.html")]
)
def test_search_finds_and_opens_a_page(window: Any, query: str, expected: str) -> None:
    window.open(ORDER[0])
    page = window.page
    page.locator("#pst-primary-sidebar .search-button__button").click()
    page.locator("#pst-search-dialog input[name=q]").fill(query)
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    hit = page.locator(f"ul.search li a[href*='{expected}']").first
    with page.expect_navigation():
        hit.click()
    assert expected in page.url
    assert window.complaints == []


def test_searching_for_nonsense_says_so(window: Any) -> None:
    window.page.goto(f"{window.address}search.html?q=qwertzuiopasdf")
    window.page.get_by_text("did not match any documents").wait_for()


def test_dark_mode_is_one_button_away_and_stays(window: Any) -> None:
    window.open(ORDER[0])
    page = window.page
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    button = page.locator(".theme-switch-button").first
    for _ in range(3):
        if page.locator("html").get_attribute("data-theme") == "dark":
            break
        button.click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate(ground) != light
    window.open("glossary")
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_pictures_keep_a_white_ground_in_dark_mode(new_window: NewWindow, html: Path) -> None:
    window = new_window(color_scheme="dark")
    checked = 0
    for name in ORDER:
        if not re.search(r"<img[^>]+_images/", (html / f"{name}.html").read_text(encoding="utf-8")):
            continue
        window.open(name)
        grounds = window.page.eval_on_selector_all(
            ".cell_output img", "all => all.map(i => getComputedStyle(i).backgroundColor)"
        )
        assert set(grounds) <= {"rgb(255, 255, 255)"}
        checked += len(grounds)
    assert checked > 0


def test_drawings_follow_the_theme_and_offer_their_numbers(new_window: NewWindow) -> None:
    ink = "drawing => getComputedStyle(drawing.querySelector('text')).fill"
    shades = []
    for scheme in ("light", "dark"):
        page = new_window(color_scheme=scheme).open("notebooks/theorem_b1_monotone_in_tolerance").page
        drawing = page.locator("svg.relif-drawing").first
        shades.append(drawing.evaluate(ink))
        assert page.locator("svg.relif-drawing metadata").count() == 0
    assert shades == ["rgb(38, 38, 38)", "rgb(224, 224, 224)"]
    address = page.locator(".relif-links a[download]").first.evaluate("link => link.href")
    lines = page.request.get(address).text().splitlines()
    assert lines[0] == "panel,series,x,y"
    assert len(lines) > 10


def test_a_table_sorts_by_its_headers_with_mouse_and_keyboard(window: Any) -> None:
    window.open("notebooks/table_5_settings")
    table = window.page.locator("table.relif-table").first
    button = table.locator("thead button").first
    column = table.locator("tbody tr > :first-child")
    button.click()
    rising = column.all_inner_texts()
    assert rising == sorted(rising, key=str.lower)
    assert table.locator("thead th").first.get_attribute("aria-sort") == "ascending"
    button.press("Enter")
    assert column.all_inner_texts() == rising[::-1]
    assert table.locator("thead th").first.get_attribute("aria-sort") == "descending"
