"""A Sphinx extension: the paper's numbers, drawings that follow the theme, links to records, hover texts.

Everything is made while the book is rendered and works from disk.
"""

import hashlib
import html
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from docutils import nodes
from sphinx.search import languages
from sphinx.search.en import SearchEnglish

from relif_book.build.notebook import read_notebook
from relif_book.build.records import RunRow, runs_of
from relif_book.evidence.result_set import EXPLORATORY, PLANNED
from relif_book.figures.drawing import DATA, themed
from relif_book.figures.tables import Table
from relif_core.methods import title_of

_PAGE = re.compile(r"(?:theorem_([a-z])(\d)|(figure)_(\d))_")
_TABLE = re.compile(r'<table class="relif-table"><caption><span>(.*?)</span>.*?</table>', re.DOTALL)
_ROW = re.compile(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', re.DOTALL)
#: Words of a figure's caption or alternative text that say that it shows no kept run.
_NO_RECORD = re.compile(r"synthetic|simulated|constructed|this run", re.IGNORECASE)
#: The figure of methods, as `relif_book.figures.live` leaves it: no drawing stands beside it on every page.
_METHODS = re.compile(
    r'<div class="relif-live" data-live="methods"><script type="application/json">(.*?)</script></div>',
    re.DOTALL,
)
_NUMBER = re.compile(r'(<td class="relif-number">)([^<]*\d[^<]*)(</td>)')


class _NumberSearch(SearchEnglish):
    """English with decimals as words, so that 0.275 is found."""

    _word_re = re.compile(r"\d+\.\d+|\w+")
    js_splitter_code = r"""
function splitQuery(query) { return query.match(/\d+\.\d+|[\p{L}\p{N}_]+/gu) || []; }
"""


def number_as_in_the_paper(app: Any, env: Any) -> list[str]:
    """Number theorems and figures as the paper does; other figures B.2.1 on a theorem's page, else S1."""
    supplement = 0
    for docname in _reading_order(env):
        numbers = env.toc_fignumbers.get(docname, {})
        found = _PAGE.match(docname.rpartition("/")[2])
        letter, digit, figure, own = found.groups() if found else (None,) * 4
        name = (f"{letter.upper()}.{digit}" if letter == "b" else f"T{digit}") if letter else ""
        for place, identifier in enumerate(numbers.get("figure", {})):
            if figure:
                number = own if place == 0 else f"{own}.{place}"
            elif name:
                number = f"{name}.{place + 1}"
            else:
                supplement += 1
                number = f"S{supplement}"
            numbers["figure"][identifier] = (number,)
        for place, identifier in enumerate(numbers.get("theorem", {}) if name else ()):
            numbers["theorem"][identifier] = (name if place == 0 else f"{name}.{place}",)
    return []


def _reading_order(env: Any) -> Iterator[str]:
    waiting = [env.config.root_doc]
    while waiting:
        docname = waiting.pop(0)
        yield docname
        waiting[:0] = env.toctree_includes.get(docname, [])


def draw_and_link(app: Any, doctree: nodes.document, docname: str) -> None:
    """Put drawings into the page with their data beside, and link numbers of tables to their runs."""
    single = app.builder.name != "html"
    up = "" if single else "../" * docname.count("/")
    folders = () if single else record_folders(str(app.env.doc2path(docname)))
    for picture in list(doctree.findall(nodes.image)):
        if picture["uri"].endswith(".svg") and "alt" in picture:
            drawing = Path(app.srcdir, picture["uri"]).read_text(encoding="utf-8")
            words = f"{picture['alt']} {picture.parent.astext()}"
            own = () if _NO_RECORD.search(words) else folders
            links = _figure_links(app, drawing, docname, up, own)
            shown = themed(drawing, picture["alt"]) + links
            picture.replace_self(nodes.raw("", shown, format="html"))
    for raw in doctree.findall(nodes.raw):
        text = raw.astext()
        if 'class="relif-table"' in text and folders:
            text = _TABLE.sub(lambda table: _linked(table, folders, up), text)
        else:
            text = _METHODS.sub(lambda figure: f"{figure[0]}<noscript>{still(figure[1])}</noscript>", text)
        if text != raw.astext():
            raw.children = [nodes.Text(text)]
            raw.rawsource = text


def still(methods: str) -> str:
    """Return as a table what the figure of methods shows before it is moved, and at own tolerances.

    Args:
        methods: The figure's data, as :func:`~relif_book.evidence.results.methods_data` makes them, in JSON.
    """
    data = json.loads(methods)
    held = [float(np.interp(data["tolerance"], data["tolerances"], one["bias"])) for one in data["methods"]]
    own = [one["own_bias"] for one in data["methods"]]
    rows = [
        {
            "Method": one["title"],
            "Worst": one["worst"],
            "Bias": bias,
            "Rank": 1 + sorted(held).index(bias),
            "Own δ": one["own_tolerance"],
            "Bias at own δ": one["own_bias"],
            "Rank at own δ": 1 + sorted(own).index(one["own_bias"]),
        }
        for bias, one in sorted(zip(held, data["methods"], strict=True), key=lambda pair: pair[0])
    ]
    caption = f"Methods at δ = {data['tolerance']:.3f}, and each at its own."
    return Table(rows, caption=caption, digits={"Worst": 3, "Bias": 4, "Bias at own δ": 4})._repr_html_()


@cache
def record_folders(source: str) -> tuple[str, ...]:
    """Return the names of the folders of runs under ``data/records`` that an executed page reads."""
    if not source.endswith(".ipynb"):
        return ()
    read = read_notebook(Path(source)).metadata.get("relif", {}).get("depends_on", {})
    named = [name.rpartition("/")[2] for name in read if re.fullmatch(r"data/records/[^/.]+", name)]
    return tuple(sorted(filter(runs_of, named)))


def _figure_links(app: Any, drawing: str, docname: str, up: str, folders: tuple[str, ...]) -> str:
    links = []
    data = DATA.search(drawing)
    if data:
        name = f"{docname.rpartition('/')[2]}-{hashlib.sha256(drawing.encode()).hexdigest()[:8]}.csv"
        target = Path(app.outdir, "figure_data", name)
        target.parent.mkdir(exist_ok=True)
        target.write_text(html.unescape(data[1]).strip() + "\n", encoding="utf-8")
        links.append(f'<a href="{up}figure_data/{name}" download>data (CSV)</a>')
    names = [f"record of {name}" for name in folders] if len(folders) > 1 else ["record"]
    links += [
        f'<a href="{up}records/{name}.html">{text}</a>' for name, text in zip(folders, names, strict=False)
    ]
    return f'<p class="relif-links">{" · ".join(links)}</p>' if links else ""


def _linked(table: re.Match[str], folders: tuple[str, ...], up: str) -> str:
    """Link the numbers of every method's row to its runs where the caption names the data set."""
    caption = html.unescape(table[1])
    if caption.startswith("This run"):
        return table[0]
    named = [name for name in folders if runs_of(name)[0].short in caption]
    if len(named) > 1:  # several studies of one data set: the caption names the one
        named = [name for name in named if f" · {_standing(name)}" in caption]
    sure = named if len(named) == 1 else folders if len(folders) == 1 else ()
    if not sure:
        return table[0]
    methods = {title_of(row.method): row.method for row in runs_of(sure[0])}

    def row(match: re.Match[str]) -> str:
        method = methods.get(html.unescape(match[1]).partition(" − ")[0])
        if method is None:
            return match[0]
        address = f'href="{up}records/{sure[0]}.html#{method}"'
        cells = _NUMBER.sub(rf'\1<a class="relif-record" tabindex="-1" {address}>\2</a>\3', match[2])
        return f'<tr><th scope="row"><a class="relif-record" {address}>{match[1]}</a></th>{cells}</tr>'

    return _ROW.sub(row, table[0])


def _standing(folder: str) -> str:
    """Return what captions call the study of a folder, as ``ResultSet.standing`` does."""
    study = PLANNED.get(folder, (EXPLORATORY,))[0]
    return "planned" if study == runs_of(folder)[0].short.lower() else study


def record_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield one page per folder of runs that the book reads: seed, commit and command of each."""
    sources = [app.env.doc2path(name) for name in app.env.found_docs]
    for folder in sorted({name for source in sources for name in record_folders(str(source))}):
        rows = runs_of(folder)
        title = f"Record: {folder}"
        body = (
            f"<h1>{title}</h1><p>{html.escape(rows[0].dataset)}. The runs lie in <code>data/records/{folder}"
            "</code>; a command makes its run again, up to rounding on another processor."
            " FILE is the file of encoder weights, TENSORS the folder that <code>relif data</code> makes.</p>"
            f"{_runs_table(rows)}"
        )
        yield f"records/{folder}", {"title": title, "body": body}, "page.html"


def _runs_table(rows: tuple[RunRow, ...]) -> str:
    lines, seen = [], set()
    for row in rows:
        anchor = "" if row.method in seen else f' id="{row.method}"'
        seen.add(row.method)
        command = f"<code>{html.escape(row.command)}</code>"
        cells = (row.seed, row.key[:12], row.source[:12], row.made, command)
        lines.append(
            f'<tr{anchor}><th scope="row">{html.escape(title_of(row.method))}</th>'
            f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    heads = ("Method", "Seed", "Key", "Source", "Made", "Command")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        '<div class="relif-table-scroll" role="region" tabindex="0" aria-label="Runs">'
        '<table class="relif-table"><caption><span>Runs: key and source are hashes of what determines a run'
        " and of the code that made it.</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def write_hover_texts(app: Any, error: Exception | None) -> None:
    """Write definitions, references and statements, by page and anchor, to ``_static/hover.js``."""
    from bs4 import BeautifulSoup

    if error or app.builder.name != "html":
        return
    texts: dict[str, str] = {}
    for page in sorted(Path(app.outdir).rglob("*.html")):
        content = page.read_text(encoding="utf-8")
        if not re.search(r'id="term-|class="citation"|class="proof ', content):
            continue
        soup = BeautifulSoup(content, "html.parser").find("article") or BeautifulSoup()
        for unwanted in soup.select("a.headerlink, .label, details"):
            unwanted.decompose()
        for term in soup.select("dt[id^=term-]"):
            definition = term.find_next_sibling("dd") or BeautifulSoup()
            texts[f"{page.name}#{term['id']}"] = (
                f"<p><b>{term.get_text()}</b></p>{definition.decode_contents()}"
            )
        for item in soup.select(".citation[id], .proof[id]"):
            texts[f"{page.name}#{item['id']}"] = item.decode_contents()
    for key, text in texts.items():
        # A hover text leads nowhere itself, and no anchor may stand twice on a page.
        texts[key] = re.sub(r'</?a\b[^>]*>|\s(?:id|role)="[^"]*"', "", text).strip()
    script = Path(app.outdir, "_static", "hover.js")
    script.write_text(f"window.relifHover = {json.dumps(texts, ensure_ascii=False)};\n", encoding="utf-8")


#: An entry of the theme's 2,000 icons: name, width, height, other names, code, one path or two.
_ICON = re.compile(
    r'"?([\w-]+)"?:\[\d+,\d+,(\[[^\]]*\]),"[0-9a-f]*",(?:"[^"]*"|\["[^"]*"(?:,"[^"]*")*\])\],?'
)
#: What only the search page needs, on every page of the theme.
_SEARCHING = re.compile(r'<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>')


def lighten(app: Any, error: Exception | None) -> None:
    """Take from the pages what no reader of them uses: the search's index, and icons that stand nowhere."""
    if error or app.builder.name != "html":
        return
    icons = Path(app.outdir, "_static", "scripts", "fontawesome.js")
    used: set[str] = set()
    for page in [*Path(app.outdir).rglob("*.html"), *icons.parent.glob("*.js")]:
        content = page.read_text(encoding="utf-8")
        if page != icons:
            used.update(re.findall(r"\bfa-([a-z0-9-]+)", content))
        if page.suffix == ".html" and page.name != "search.html":
            page.write_text(_SEARCHING.sub("", content), encoding="utf-8")
    kept = _ICON.sub(
        lambda icon: icon[0] if used & {icon[1], *re.findall(r'"([\w-]+)"', icon[2])} else "",
        icons.read_text(encoding="utf-8"),
    )
    icons.write_text(kept, encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    languages["en"] = _NumberSearch
    app.connect("env-get-updated", number_as_in_the_paper, priority=900)
    app.connect("doctree-resolved", draw_and_link)
    app.connect("html-collect-pages", record_pages)
    app.connect("build-finished", write_hover_texts)
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
