"""The book: executed pages beside the prose, rendered by Jupyter Book with warnings as errors."""

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import yaml

from relif_book.build.execute import PageError, execute_pages
from relif_book.build.notebook import read_notebook
from relif_book.build.staleness import reasons_stale
from relif_book.project import fingerprint, fingerprint_of_text, page_names
from relif_core.errors import InputError
from relif_core.files import write_file

if TYPE_CHECKING:
    from playwright.sync_api import PdfMargins

#: What a rendered book is made of: packages, prose, pages, the code that it documents, runs that it lists.
_RENDERED = ("_config.yml", "requirements.lock", "book", "_build/pages", "relif_core", "data")
#: Ends the box that says where a page comes from; the link becomes its last row.
_BOX = re.compile(r'(<dl class="relif-provenance".*?)(</dl>)', re.DOTALL)


def build_book(
    root: Path,
    *,
    workers: int = 2,
    again: bool = False,
    stored: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Execute every page that is not fresh into ``_build/pages``, then render ``_build/html``.

    Args:
        root: Top of the checkout.
        workers: Pages executed at a time.
        again: Execute pages whose executed copy is fresh too.
        stored: Take the committed notebooks of fresh pages instead of executing them.
        report: Receives one line per page.

    Returns:
        The first page of the book.

    Raises:
        PageError: A page failed, or rendering gave a warning.
    """
    pages = root / "_build" / "pages"
    pages.mkdir(parents=True, exist_ok=True)
    names = page_names(root)
    for orphan in sorted(set(pages.glob("*.ipynb")) - {pages / f"{name}.ipynb" for name in names}):
        orphan.unlink()
    for name in names if stored else ():
        committed = root / "notebooks" / f"{name}.ipynb"
        if not reasons_stale(name, committed, root=root):
            write_file(pages / committed.name, committed.read_bytes())
    execute_pages(names, pages, root=root, workers=workers, again=again, report=report)
    _link(root / "book" / "notebooks", pages)
    write_file(pages / "_run_times.txt", _run_times(pages, names))
    return render_book(root)


def render_book(root: Path) -> Path:
    """Render the book from its executed pages, with every warning an error; return its first page.

    A book whose pages, prose and code are those that it was last rendered from stays as it is.

    Raises:
        PageError: Jupyter Book found something to warn of; its own output, above, says what.
    """
    first, stamp = root / "_build" / "html" / "index.html", root / "_build" / "rendered"
    now = fingerprint_of_text(" ".join(fingerprint(root / name) for name in _RENDERED))
    if first.is_file() and stamp.is_file() and stamp.read_text() == now:
        return first
    stamp.unlink(missing_ok=True)
    _render(root, "html")
    add_badges(root, page_names(root))
    write_file(stamp, now)
    return first


def add_badges(root: Path, names: Iterable[str]) -> None:
    """Put the links into the rendered pages; none where ``repository: url:`` in ``_config.yml`` is empty.

    Raises:
        InputError: The address is no https address of a repository.
    """
    repository = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")).get("repository", {})
    if not repository.get("url"):
        return
    for name in names:
        path = root / "_build" / "html" / "notebooks" / f"{name}.html"
        address = html.escape(binder_address(repository["url"], repository.get("branch", "main"), name))
        row = f'<dt>Run it online</dt><dd><a href="{address}">this page on Binder</a>, quick profile</dd>'
        write_file(path, _BOX.sub(rf"\1{row}\2", path.read_text(encoding="utf-8")))


def binder_address(url: str, branch: str, page: str) -> str:
    """Return the address that builds the repository on Binder (``.binder/``) and opens a page's notebook.

    >>> binder_address("https://github.com/someone/relif", "main", "table_3_trade_off")
    'https://mybinder.org/v2/gh/someone/relif/main?urlpath=lab/tree/notebooks/table_3_trade_off.ipynb'

    Raises:
        InputError: The address is no repository's.
    """
    found = re.fullmatch(r"https://([\w.-]+)/([\w./-]+?)(?:\.git)?/?", url)
    if found is None:
        raise InputError(
            f"_config.yml, repository url: {url!r} is no address such as https://github.com/OWNER/NAME"
        )
    place = f"gh/{found[2]}" if found[1] == "github.com" else f"git/{quote(url, safe='')}"
    return f"https://mybinder.org/v2/{place}/{quote(branch, safe='')}?urlpath=lab/tree/notebooks/{page}.ipynb"


def print_book(root: Path) -> Path:
    """Print the executed pages as one PDF with every column and every fold; return its path.

    Raises:
        PageError: There is no Chromium, or rendering gave a warning.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise PageError("the book is printed by Chromium, and there is none: install the package 'chromium'")
    folder = _render(root, "singlehtml").parent
    first = yaml.safe_load((root / "book" / "_toc.yml").read_text(encoding="utf-8"))["root"]
    # Sphinx writes the one page beside its first chapter, with addresses as seen from the top.
    page = (folder / f"{first}.html").replace(folder / "index.html")
    target = root / "_build" / "relif.pdf"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        # The width of a sheet, so that what is fitted on the screen fits the paper.
        opened = browser.new_page(viewport={"width": 720, "height": 1000}, color_scheme="light")
        opened.set_default_timeout(600_000)
        opened.add_init_script("window.relifPaper = true")
        opened.goto(page.as_uri())
        opened.evaluate("async () => { await window.MathJax?.startup?.promise }")
        opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        edge = "15mm"
        margin: PdfMargins = {"top": edge, "right": edge, "bottom": edge, "left": edge}
        opened.pdf(path=str(target), format="A4", margin=margin)
        browser.close()
    return target


def _render(root: Path, builder: str) -> Path:
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        *("build", "book", "--config", "_config.yml", "--path-output", ".", "--builder", builder),
        *("-W", "-n", "--keep-going", "--all", "--quiet"),
    ]
    finished = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False)
    if finished.returncode:
        raise PageError("the book was not rendered: Jupyter Book warns above of what to mend")
    return root / "_build" / builder / "index.html"


def _link(link: Path, target: Path) -> None:
    """Make the executed pages visible to Sphinx as ``book/notebooks``."""
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))


def _run_times(pages: Path, names: list[str]) -> str:
    """The status page's table in Markdown: every page's profile, device and last run time."""
    lines = ["| Page | Profile | Device | Seconds |", "| --- | --- | --- | ---: |"]
    total = 0.0
    for name in names:
        relif = read_notebook(pages / f"{name}.ipynb").metadata["relif"]
        total += relif["seconds"]
        lines.append(
            f"| {{doc}}`/notebooks/{name}` | {relif['profile']} | {relif['device']} |"
            f" {relif['seconds']:.1f} |"
        )
    lines.append(f"| **All pages, one after another** | | | {total:.1f} |")
    return "\n".join(lines) + "\n"
