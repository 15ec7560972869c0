"""The built book, served on this machine and opened in Chromium as a reader would."""

import functools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
PHONE = {"width": 390, "height": 844}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def toc_pages() -> list[str]:
    """Every page of the table of contents, in reading order, without file endings."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page_name" in metafunc.fixturenames:
        metafunc.parametrize("page_name", toc_pages())


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def html() -> Path:
    if not (HTML / "index.html").is_file():
        pytest.fail("there is no book in _build/html; run `make book` first")
    return HTML


@pytest.fixture(scope="session")
def address(html: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_QuietHandler, directory=str(html)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        missing = "there is no Chromium: install the package 'chromium'"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@dataclass
class Window:
    """A browser page with everything it complained of and every address it asked for."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, name: str) -> "Window":
        """Open a page of the book and wait until its mathematics is set."""
        self.page.goto(f"{self.address}{name}.html")
        self.page.evaluate(
            "async () => { if (window.MathJax?.startup) await window.MathJax.startup.promise }"
        )
        return self


@pytest.fixture(scope="module")
def new_window(browser: Browser, address: str) -> Iterator[Callable[..., Window]]:
    contexts: list[BrowserContext] = []

    def make(**options: object) -> Window:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        window = Window(page, address)
        page.on(
            "console", lambda m: window.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: window.complaints.append(str(error)))
        # Whoever turns the page aborts what it still asks for.
        page.on(
            "requestfailed",
            lambda request: (
                window.complaints.append(f"failed request {request.url}")
                if request.failure != "net::ERR_ABORTED"
                else None
            ),
        )
        page.on(
            "response",
            lambda answer: (
                window.complaints.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
            ),
        )
        page.on("request", lambda request: window.requests.append(request.url))
        return window

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def visit(new_window: Callable[..., Window]) -> Callable[[str], Window]:
    """Open a page on a phone, once per test module; every test of that page looks at the same visit."""
    visits: dict[str, Window] = {}

    def opened(name: str) -> Window:
        if name not in visits:
            visits[name] = new_window(viewport=PHONE, has_touch=True).open(name)
        return visits[name]

    return opened
