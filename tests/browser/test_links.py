"""Every link and every asset of the book leads somewhere, and nothing is loaded from elsewhere."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class _Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if value and key in ("href", "src"):
                self.links.append((tag, value))
            if value and key in ("id", "name"):
                self.anchors.add(value)


@cache
def _read(path: Path) -> _Collector:
    collector = _Collector()
    collector.feed(path.read_text(encoding="utf-8"))
    return collector


def _broken(page: Path, link: str) -> str | None:
    parts = urlsplit(link)
    if parts.scheme in ("http", "https", "mailto", "data", "javascript"):
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file():
        return f"{page.name}: {link} leads to no file"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target).anchors:
        return f"{page.name}: {link} leads to no place on its page"
    return None


def _pages(html: Path) -> list[Path]:
    """Every page of the book; the theme keeps templates of its own under _static."""
    return [page for page in sorted(html.rglob("*.html")) if "_static" not in page.relative_to(html).parts]


def test_no_broken_link_or_anchor(html: Path) -> None:
    broken = [
        problem for page in _pages(html) for _, link in _read(page).links if (problem := _broken(page, link))
    ]
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(html: Path) -> None:
    foreign = [
        f"{page.name}: {link}"
        for page in _pages(html)
        for tag, link in _read(page).links
        if urlsplit(link).scheme in ("http", "https") and any(tag == kind for kind, _ in LOADING)
    ]
    assert foreign == []
