"""axe-core finds nothing serious on any page, light and dark."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
# Thousands of words, few colours: one text of each colour, size and weight on each ground is judged.
ONE_OF_EACH = """() => {
  const ground = (part) => {
    for (; part; part = part.parentElement) {
      const { backgroundColor, backgroundImage } = getComputedStyle(part);
      const clear = backgroundImage === "none" && /^rgba\\(.*, 0\\)$/.test(backgroundColor);
      if (!clear) return backgroundImage + backgroundColor;
    }
    return "none";
  };
  const kinds = new Map();
  for (const part of document.querySelectorAll("body *")) {
    const own = [...part.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!own || !part.getClientRects().length) continue;
    const { color, fontSize, fontWeight, opacity } = getComputedStyle(part);
    const around = getComputedStyle(part.parentElement);
    const look = [color, fontSize, fontWeight, opacity, around.color, around.opacity, ground(part)];
    const kind = [part.tagName, ...look].join();
    if (!kinds.has(kind)) kinds.set(kind, part);
  }
  return [...kinds.values()];
}"""
RUN = """async ([options, parts]) =>
  (await axe.run(parts ?? document, { resultTypes: ["violations"], ...options })).violations
  .filter((found) => ["serious", "critical"].includes(found.impact))
  .map((found) => [found.id, found.nodes.slice(0, 5).map((node) => node.html.slice(0, 160))])"""
COLOURS = ["color-contrast", "link-in-text-block"]
STRUCTURE = {"rules": {rule: {"enabled": False} for rule in COLOURS}}
# A colour on its way to another is neither.
AT_ONCE = "*, *::before, *::after { transition: none !important; animation: none !important }"


@pytest.fixture(scope="module")
def window(new_window: Callable[..., Any]) -> Any:
    return new_window(viewport={"width": 1400, "height": 900}, color_scheme="light")


def judge(window: Any, page_name: str, texts: str) -> None:
    """Judge the structure of a page as a whole, and the colours of those parts that ``texts`` returns."""
    window.page.emulate_media(color_scheme="light")
    page = window.open(page_name).page
    page.add_style_tag(content=AT_ONCE)
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    page.add_script_tag(content=AXE)
    assert page.evaluate(RUN, [STRUCTURE, None]) == []
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
        parts = page.evaluate_handle(texts)
        assert page.evaluate(RUN, [{"runOnly": COLOURS}, parts]) == [], theme


def test_axe_finds_nothing_serious(window: Any, page_name: str) -> None:
    judge(window, page_name, ONE_OF_EACH)


@pytest.mark.slow
def test_axe_finds_nothing_serious_in_any_text(window: Any, page_name: str) -> None:
    judge(window, page_name, "() => document")
