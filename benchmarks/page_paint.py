"""What a page of the rendered book costs its reader: ``python -m benchmarks.page_paint``, once it is made.

Every page of the table of contents is opened LOADS times in Chromium from a server on the same machine, each
time in a new context (nothing cached). Bytes are those of all files that it asks for, as they are and with
text compressed, as publishing hosts send it; the paint is the browser's first contentful paint: its median
and its largest value. The budget of a page is 1.5 MB over the wire and one second.
"""

import functools
import gzip
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from urllib.parse import unquote

import yaml
from playwright.sync_api import sync_playwright

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[1]
LOADS = 3
TEXT = (".html", ".js", ".css", ".svg")
MEASURE = """() => [["resource", "navigation"].flatMap((kind) => performance.getEntriesByType(kind))
                      .map((entry) => new URL(entry.name).pathname),
                    performance.getEntriesByName("first-contentful-paint")[0].startTime]"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    """Measure every page and keep the table."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    pages = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    html = ROOT / "_build" / "html"
    handler = functools.partial(Quiet, directory=str(html))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found: dict[str, tuple[int, int, list[float]]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        version = browser.version
        for name in pages:
            paints = []
            for load in range(LOADS):
                context = browser.new_context(viewport={"width": 1400, "height": 900})
                page = context.new_page()
                page.goto(f"http://127.0.0.1:{server.server_address[1]}/{name}.html")
                page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
                if load == 0:
                    page.wait_for_load_state("networkidle")
                    paths = page.evaluate(MEASURE)[0]
                paints.append(page.evaluate(MEASURE)[1])
                context.close()
            files = [html / unquote(path).lstrip("/") for path in set(paths)]
            contents = [(file, file.read_bytes()) for file in files if file.is_file()]
            sizes = (len(gzip.compress(text) if file.suffix in TEXT else text) for file, text in contents)
            found[name] = (sum(len(content) for _, content in contents), sum(sizes), paints)
        browser.close()
    server.shutdown()
    lines = [
        f"{machine()}, Chromium {version}, {LOADS} loads a page.",
        "",
        "| page | MB, compressed | MB as stored | first paint, median (ms) | largest (ms) |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | {sent / 1e6:.2f} | {stored / 1e6:.2f} | {median(paints):.0f} | {max(paints):.0f} |"
            for name, (stored, sent, paints) in sorted(found.items(), key=lambda item: -item[1][1])
        ),
    ]
    print("\n".join(lines))
    (ROOT / "benchmarks" / "results" / "page_paint.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
