"""What a page of the rendered book costs its reader: ``python -m benchmarks.page_paint``, once it is made.

Every page of the table of contents is opened LOADS times in Chromium from a server on the same machine, each
time in a new context (nothing cached). Bytes are those transferred, uncompressed; the paint is the browser's
first contentful paint: its median and its largest value. The budget of a page is 1.5 MB and one second.
"""

import functools
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import yaml
from playwright.sync_api import sync_playwright

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[1]
LOADS = 5
MEASURE = """() => [["resource", "navigation"].flatMap((kind) => performance.getEntriesByType(kind))
                      .reduce((sum, entry) => sum + entry.transferSize, 0),
                    performance.getEntriesByName("first-contentful-paint")[0].startTime]"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    """Measure every page and keep the table."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    pages = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    handler = functools.partial(Quiet, directory=str(ROOT / "_build" / "html"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found: dict[str, tuple[float, list[float]]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        version = browser.version
        for name in pages:
            paints = []
            for _ in range(LOADS):
                context = browser.new_context(viewport={"width": 1400, "height": 900})
                page = context.new_page()
                page.goto(f"http://127.0.0.1:{server.server_address[1]}/{name}.html")
                page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
                size, paint = page.evaluate(MEASURE)
                paints.append(paint)
                context.close()
            found[name] = (size, paints)
        browser.close()
    server.shutdown()
    lines = [
        f"{machine()}, Chromium {version}, {LOADS} loads a page.",
        "",
        "| page | MB | first paint, median (ms) | largest (ms) |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {name} | {size / 1e6:.2f} | {median(paints):.0f} | {max(paints):.0f} |"
            for name, (size, paints) in sorted(found.items(), key=lambda item: -item[1][0])
        ),
    ]
    print("\n".join(lines))
    (ROOT / "benchmarks" / "results" / "page_paint.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
