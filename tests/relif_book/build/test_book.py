"""Pages link to themselves on Binder where the repository's address is known, else they stay as they are."""

from pathlib import Path

import pytest
import yaml

from relif_book.build.book import add_badges, binder_address
from relif_core.errors import InputError

BOX = '<html><dl class="relif-provenance" aria-label="x"><dt>Data</dt><dd>none</dd></dl><dl></dl></html>'


def rendered(folder: Path, url: str) -> str:
    """Return page ``tiny`` of a project with this repository address after its badge was added."""
    (folder / "_config.yml").write_text(yaml.safe_dump({"repository": {"url": url, "branch": "next/one"}}))
    page = folder / "_build" / "html" / "notebooks" / "tiny.html"
    page.parent.mkdir(parents=True)
    page.write_text(BOX)
    add_badges(folder, ["tiny"])
    return page.read_text()


def test_a_page_links_to_its_own_notebook(tmp_path: Path) -> None:
    page = rendered(tmp_path, "https://github.com/someone/relif.git")
    place = "https://mybinder.org/v2/gh/someone/relif/next%2Fone?urlpath=lab/tree/notebooks/tiny.ipynb"
    assert f'<dt>Run it online</dt><dd><a href="{place}">' in page
    assert page.count("Run it online") == 1
    assert page.index("Run it online") < page.index("</dl>")


def test_without_an_address_there_is_no_link(tmp_path: Path) -> None:
    assert rendered(tmp_path, "") == BOX


def test_another_host_is_named_whole_and_no_address_is_refused() -> None:
    assert "/v2/git/https%3A%2F%2Fexample.org%2Fa%2Fb/main?" in binder_address(
        "https://example.org/a/b", "main", "x"
    )
    with pytest.raises(InputError, match="is no address such as https"):
        binder_address("git@example.org:a/b", "main", "x")
