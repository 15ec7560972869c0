"""What the comparison of pages with nbval sees: planted pictures, other data, live cells gone wrong."""

import base64
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from relif_book.build.compare import differences
from relif_book.build.execute import execute_page
from relif_book.build.notebook import read_notebook, read_source, settle_source, source_of

FIGURE = """---
mystnb:
  figure:
    name: fig-tiny
    caption: A line.
---
from relif_book.figures.style import new_figure, show
figure, axes = new_figure()
axes.plot([0, 1], [0, {end}])
axes.set_ylim(0, 2)
show(figure, alt="A line.")"""
LIVE = """:tags: [nbval-ignore-output]

print("took", 0.5, "s")"""


SOCKETS = """import json
from ipykernel.connect import get_connection_info
print(json.loads(get_connection_info())["transport"])"""


def picture(size: tuple[int, int], colour: str = "white") -> str:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode()


def outputs(png: str = "", text: str = "") -> list[nbformat.NotebookNode]:
    data = {"image/png": png, "text/plain": "A line."} if png else {"text/plain": text}
    return [nbformat.v4.new_output("display_data", data=data)]


@pytest.fixture
def page(project: Path, write_page: Callable[..., Path]) -> Path:
    write_page(FIGURE.format(end=1), FIGURE.format(end=1.5).replace("fig-tiny", "fig-other"), LIVE)
    target = project / "notebooks" / "tiny.ipynb"
    execute_page("tiny", target, root=project)
    return target


def compared(page: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "--nbval"]
    return subprocess.run(
        [*command, "-p", "relif_book.build.compare", page.name],
        cwd=page.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_kernels_take_no_ports(project: Path, write_page: Callable[..., Path]) -> None:
    """Kernels that start together take each other's port; the page itself runs without one as well."""
    write_page(SOCKETS)
    target = project / "notebooks" / "tiny.ipynb"
    execute_page("tiny", target, root=project)
    assert "ipc" in target.read_text(encoding="utf-8")
    done = compared(target)
    assert done.returncode == 0, done.stdout


def test_nbval_fails_at_a_planted_picture_other_data_and_a_live_cell_gone_wrong(page: Path) -> None:
    assert compared(page).returncode == 0
    notebook = read_notebook(page)
    data = notebook.cells[3].outputs[0].data
    data["image/svg+xml"] = data["image/svg+xml"].replace("<path", "<circle", 1)
    text = nbformat.writes(notebook)
    for old, new in (
        ("axes.plot([0, 1], [0, 1.5])", "axes.plot([0, 1], [0, 1.4])"),
        ("took 0.5 s", "took no time"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    page.write_text(text)
    done = compared(page)
    assert "3 failed" in done.stdout
    assert "other strokes or words" in done.stdout
    assert "the drawing differs by" in done.stdout
    assert "numbers up to" in done.stdout


@pytest.mark.parametrize(
    ("stored", "now", "problem"),
    [
        ("Bias 0.031", "Bias 0.029", ""),
        ("Bias 0.031", "Bias nan", "not defined"),
        ("Bias 0.031", "Bias 3,100.0", "numbers up to 3100"),
        ("one line", "two\nlines", "1 times"),
        ("12 runs", "no runs", "numbers up to nan"),
    ],
)
def test_live_text_keeps_its_structure_and_range(stored: str, now: str, problem: str) -> None:
    found = "; ".join(differences(outputs(text=stored), outputs(text=now), live=True))
    assert problem in found
    assert bool(found) == bool(problem)


def test_pictures_of_another_colour_or_missing_are_told() -> None:
    white, grey = outputs(picture((64, 32))), outputs(picture((64, 32), "#e0e0e0"))
    assert not list(differences(white, white, live=False))
    assert "the stored one (64, 32)" in next(differences(white, outputs(picture((1, 1))), live=False))
    assert "the picture differs" in next(differences(white, grey, live=False))
    assert "stored are" in next(differences(white, outputs(text="A line."), live=True))


def test_saving_the_executed_notebook_in_an_editor_leaves_the_source_alone(page: Path) -> None:
    source = page.with_suffix(".md")
    settle_source(source)
    before = source.read_text()
    notebook = nbformat.read(page, as_version=4)
    assert notebook.cells[3].metadata.mystnb.image.alt == "A line."
    assert source_of(notebook) == before
    assert source_of(read_source(source)) == before


@pytest.mark.parametrize(
    "source",
    sorted((Path(__file__).resolve().parents[3] / "notebooks").glob("*.md")),
    ids=lambda path: path.stem,
)
def test_every_page_is_in_the_form_in_which_editors_save_it(source: Path) -> None:
    assert source_of(read_source(source)) == source.read_text(), "`make pages` settles it"
