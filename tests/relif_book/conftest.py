"""A small project of one page, in a folder of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A page

Some prose.

```{code-cell} ipython3
:tags: [parameters]

profile = "quick"
seed = 0
```

```{code-cell} ipython3
from relif_book import Page

page = Page("tiny")
```
"""
FOOTER = """
```{code-cell} ipython3
:tags: [remove-input, nbval-ignore-output]

page.footer()
```
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "_config.yml").write_text("title: test\n")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data").mkdir()
    for package in ("relif_core", "data/relif_data", "book"):
        (tmp_path / package).symlink_to(Path(__file__).resolve().parents[2] / package)
    return tmp_path


@pytest.fixture
def write_page(project: Path) -> Callable[[str], Path]:
    """Write the page ``tiny`` with the given code cells between its header and its footer."""

    def write(*cells: str) -> Path:
        body = "".join(f"\n```{{code-cell}} ipython3\n{cell}\n```\n" for cell in cells)
        source = project / "notebooks" / "tiny.md"
        source.write_text(HEADER + body + FOOTER)
        return source

    return write
