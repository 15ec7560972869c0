"""A link per page that opens it, installed and ready to run in the quick profile, on Binder."""

import html
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import yaml

from relif_core.errors import InputError
from relif_core.files import write_file

#: Ends the box that says where a page comes from; the link becomes its last row.
_BOX = re.compile(r'(<dl class="relif-provenance".*?)(</dl>)', re.DOTALL)


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
