"""A small project of one page, in a folder of its own."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from relif_book.build.notebook import read_source
from relif_core.tensors.clinical import Channel, ClinicalContents, Task, write_tensors

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


def three_stays(target: Path) -> Path:
    """The smallest folder that the documentation shows: one stay in each split, one task."""
    hours = np.array([3, 2, 4])
    contents = ClinicalContents(
        dataset="mine", title="Three invented stays", licence="CC0-1.0", output_policy="person",
        synthetic=True, sources=[], channels=[Channel("heart rate", "1/min", ("heart rate",), normal=86.0)],
        tasks=[Task("mortality", "In-hospital mortality", "binary", "stay")],
        values=np.linspace(60, 110, 9, dtype=np.float32)[:, None], observed=np.ones((9, 1), np.uint8),
        offsets=np.concatenate([[0], np.cumsum(hours)]), stays=np.array([11, 12, 13]),
        subjects=np.array([1, 2, 3]), split=np.array([0, 1, 2], np.uint8),
        labels={"mortality": np.array([0, 1, 0])}, label_masks={"mortality": np.ones(3, np.uint8)},
    )  # fmt: skip
    return write_tensors(target, contents)


def two_tasks(target: Path, *, tied: bool = False) -> Path:
    """240 stays with two stay-level tasks and no groups; ``tied``: the same input in all, so that δ is 0."""
    generator = np.random.default_rng(0)
    hours = np.full(240, 30) if tied else generator.integers(24, 60, 240)
    severity = generator.normal(size=240)
    rows = int(hours.sum())
    slopes = np.zeros(5) if tied else np.array([8, -3, 5, 1, 2.0])
    values = np.repeat(severity, hours)[:, None] * slopes + (
        0.0 if tied else generator.normal(size=(rows, 5))
    )
    shares = {
        "mortality": 1 / (1 + np.exp(2 - 1.5 * severity)),
        "readmission": 1 / (1 + np.exp(1 - severity)),
    }
    contents = ClinicalContents(
        dataset="my_hospital", title="My hospital <b>ICU</b>", licence="private",
        output_policy="person", synthetic=False, sources=[],
        channels=[Channel(f"c{i}", "1", (f"c{i}",), normal=80.0) for i in range(5)],
        tasks=[Task("mortality", "In-hospital mortality", "binary", "stay"),
               Task("readmission", "30-day readmission <script>alert(1)</script>", "binary", "stay")],
        values=(values + 80).astype(np.float32), observed=np.ones((rows, 5), np.uint8),
        offsets=np.concatenate([[0], np.cumsum(hours)]), stays=np.arange(240), subjects=np.arange(240),
        split=np.repeat([0, 1, 2], [140, 50, 50]).astype(np.uint8),
        labels={name: (generator.random(240) < share).astype(np.uint8) for name, share in shares.items()},
        label_masks=dict.fromkeys(shares, np.ones(240, np.uint8)),
    )  # fmt: skip
    return write_tensors(target, contents)


@pytest.fixture
def own_data() -> SimpleNamespace:
    """Return what writes tensor folders such as a reader may have."""
    return SimpleNamespace(three_stays=three_stays, two_tasks=two_tasks)


@pytest.fixture
def run_cells(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the code cells of a page in this process, with other parameters; return what it printed."""
    from IPython.display import display

    folder = Path(__file__).resolve().parents[2] / "notebooks"

    def run(page: str, **parameters: Any) -> str:
        monkeypatch.chdir(folder)
        cells = [cell.source for cell in read_source(folder / f"{page}.md").cells if cell.cell_type == "code"]
        namespace: dict[str, Any] = {"__name__": page, "display": display}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            for number, source in enumerate(cells):
                exec(compile(source, f"{page}, code cell {number}", "exec"), namespace)
                if number == 0:
                    namespace.update(parameters)
        return printed.getvalue()

    return run
