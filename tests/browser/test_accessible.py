"""axe-core finds nothing serious on any page, light and dark."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
RUN = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
  .filter((found) => ["serious", "critical"].includes(found.impact))
  .map((found) => [found.id, found.nodes.slice(0, 5).map((node) => node.html.slice(0, 160))])"""


@pytest.fixture(scope="module", params=["light", "dark"])
def window(request: pytest.FixtureRequest, new_window: Callable[..., Any]) -> Any:
    return new_window(viewport={"width": 1400, "height": 900}, color_scheme=request.param)


def test_axe_finds_nothing_serious(window: Any, page_name: str) -> None:
    page = window.open(page_name).page
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    page.add_script_tag(content=AXE)
    assert page.evaluate(RUN) == []
