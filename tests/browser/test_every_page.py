"""What must hold on every page of the book, on a phone and without a network."""

import gzip
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
PHONE = {"width": 390, "height": 844}
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
RESULTS = [
    chapter["file"]
    for part in TOC["parts"]
    if part["caption"].endswith(" results")
    for chapter in part["chapters"]
]
Visit = Callable[[str], Any]


@cache
def compressed(file: Path) -> int:
    """Bytes of a file as a server sends it: text compressed, the rest as it is."""
    content = file.read_bytes()
    return len(gzip.compress(content) if file.suffix in (".html", ".js", ".css", ".svg") else content)


def test_no_complaints_and_no_network(visit: Visit, page_name: str) -> None:
    window = visit(page_name)
    assert window.complaints == []
    foreign = [url for url in window.requests if not url.startswith((window.address, "data:", "blob:"))]
    assert foreign == []


def test_a_page_is_light(visit: Visit, page_name: str, html: Path) -> None:
    """What a first visit brings over the wire, compressed as publishing hosts do."""
    window = visit(page_name)
    asked = {unquote(urlsplit(url).path).lstrip("/") for url in window.requests if url.startswith("http")}
    assert sum(compressed(html / path) for path in asked if (html / path).is_file()) <= 1e6


def test_every_icon_is_drawn(visit: Visit, page_name: str) -> None:
    """The icons that the book keeps are those it uses: the theme draws an animated mark for one it lacks."""
    icons = visit(page_name).page.locator("i[class*='fa-'], svg.svg-inline--fa")
    drawn = icons.evaluate_all("all => all.map(i => i.matches('svg:has(path[d]):not(:has(animate))'))")
    assert drawn
    assert all(drawn)


def test_mathematics_is_set(visit: Visit, page_name: str) -> None:
    page = visit(page_name).page
    unset = page.locator(".math").filter(has_not=page.locator("mjx-container"))
    assert unset.all_inner_texts() == []
    errors = page.locator("mjx-merror, [data-mjx-error], mjx-mtext[style*='color: red']")
    assert errors.all_inner_texts() == []


def test_no_raw_tex_or_markup_in_the_text(visit: Visit, page_name: str) -> None:
    page = visit(page_name).page
    leftovers = page.evaluate(r"""() => {
          const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
          const found = [];
          const commands = /\\(?:mathbb|mathrm|operatorname|frac|delta|lambda|max|le|ge|eta|rho)\b/;
          const roles = /\$[^$]+\$|\{(?:ref|numref|eq|term|cite|glue|prf)[:a-z]*\}`/;
          const raw = new RegExp(commands.source + "|" + roles.source);
          for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            if (node.parentElement.closest("pre, code, script, style, mjx-container")) continue;
            if (raw.test(node.textContent)) found.push(node.textContent.trim());
          }
          return found;
        }""")
    assert leftovers == []


def test_every_image_has_alternative_text(visit: Visit, page_name: str) -> None:
    page = visit(page_name).page
    poor = page.evaluate(
        """() => [...document.images,
                  ...document.querySelectorAll("svg[role=img]:not(.svg-inline--fa)")].filter(image => {
             const alt = (image.getAttribute("alt") || image.getAttribute("aria-label") ||
                          image.querySelector("title")?.textContent || "").trim();
             return alt.length < 15 || /\\.(png|svg|jpe?g)$/.test(alt);
           }).map(image => image.outerHTML.slice(0, 200))"""
    )
    assert poor == []
    unloaded = page.evaluate("""async () => {
             for (const image of document.images) {
               image.loading = "eager";
               await image.decode().catch(() => {});
             }
             return [...document.images].filter(image => image.naturalWidth === 0).map(image => image.src);
           }""")
    assert unloaded == []


def test_tables_announce_themselves(visit: Visit, page_name: str) -> None:
    page = visit(page_name).page
    for table in page.locator("table.relif-table").all():
        # text_content, not inner_text: a table folded away by hide-cell has its caption too.
        assert (table.locator("caption").text_content() or "").strip()
        assert table.locator("thead th[scope=col]").count() > 0


def test_folded_answers_open_and_close_by_keyboard(visit: Visit, page_name: str) -> None:
    page = visit(page_name).page
    for answer in page.locator(".admonition.dropdown").all():
        button = answer.locator("button.toggle-button")
        for shown in ("true", "false"):
            button.focus()
            page.keyboard.press("Enter")
            assert button.get_attribute("aria-expanded") == shown
            assert answer.locator("> :not(.admonition-title)").first.is_visible() == (shown == "true")


def test_a_phone_shows_the_page_without_sideways_scrolling(visit: Visit, page_name: str) -> None:
    page = visit(page_name).page
    wide = page.evaluate(
        """() => document.documentElement.scrollWidth <= window.innerWidth + 1 ? [] :
             [...document.querySelectorAll("article *")]
               .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
               .map(e => e.tagName + "." + e.className).slice(0, 8)"""
    )
    assert wide == []


CLIPPED = """() => {
  const found = [];
  for (const item of document.querySelectorAll("article table, mjx-container[display=true]")) {
    if (!item.getClientRects().length) continue;
    let right = window.innerWidth;
    for (let box = item.parentElement; box; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== "visible")
        right = Math.min(right, box.getBoundingClientRect().left + box.clientLeft + box.clientWidth);
    const formula = item.tagName !== "TABLE";
    const end = item.getBoundingClientRect().left + (formula ? item.scrollWidth : item.offsetWidth);
    if (end > right + 1 || (formula && item.scrollWidth > item.clientWidth + 1))
      found.push([(item.caption?.textContent ?? item.textContent).slice(0, 80), item.className, end, right,
                  item.parentElement.className, item.parentElement.style.width]);
  }
  return found;
}"""


def at_rest(page: Page, faults: str) -> list[Any]:
    """Return what a script finds once two looks in a row find nothing, or after a minute.

    The page fits tables and formulas when its layout has come to rest; on the way all may fit for a moment.
    """
    found, empty = [], 0
    for _ in range(300):
        page.wait_for_timeout(200)
        found = page.evaluate(faults)
        empty = 0 if found else empty + 1
        if empty == 2:
            break
    return found


@pytest.mark.parametrize("width", [1400, PHONE["width"]])
def test_no_column_and_no_formula_is_clipped(visit: Visit, page_name: str, width: int) -> None:
    page = visit(page_name).page
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert at_rest(page, CLIPPED) == []
    page.set_viewport_size(PHONE)


@pytest.mark.parametrize("results_page", RESULTS)
def test_a_results_page_opens_with_a_figure_or_table(visit: Visit, results_page: str) -> None:
    page = visit(results_page).page
    page.set_viewport_size({"width": 1400, "height": 900})
    tops = page.locator("article :is(figure, table, .relif-live)").evaluate_all(
        "all => all.filter(p => p.getClientRects().length).map(p => p.getBoundingClientRect().top + scrollY)"
    )
    assert min(tops) < 900
    page.set_viewport_size(PHONE)


PRINTED = """() => [...document.querySelectorAll(
    "article :is(table, pre, img, svg.relif-drawing), mjx-container[display=true]"
  )].filter(part => part.getClientRects().length)
    .filter(part => part.getBoundingClientRect().right > innerWidth + 1 ||
                    (part.tagName === "MJX-CONTAINER" && part.scrollWidth > part.clientWidth + 1))
    .map(part => part.outerHTML.slice(0, 90))"""


def test_paper_shows_every_fold_and_every_column(visit: Visit, page_name: str) -> None:
    page = visit(page_name).page
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 720, "height": 1000})
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert at_rest(page, PRINTED) == []
    assert page.locator("details:not([open])").count() == 0
    answers = page.locator(".admonition.dropdown > :not(.admonition-title)")
    assert all(answer.is_visible() for answer in answers.all())
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    page.set_viewport_size(PHONE)


def test_headings_form_an_outline(visit: Visit, page_name: str) -> None:
    levels = visit(page_name).page.eval_on_selector_all(
        "article h1, article h2, article h3, article h4", "all => all.map(h => +h.tagName[1])"
    )
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
