"""What tables and figures show, and what they refuse."""

import csv
import io
import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from relif_book.build.rendering import still
from relif_book.figures import style as figures
from relif_book.figures.drawing import DATA, as_svg, themed
from relif_book.figures.tables import Table, format_cell, mean_sd
from relif_core.errors import InputError
from relif_core.studies.grid import SEVEN_METHODS


def test_mean_and_sample_standard_deviation() -> None:
    assert mean_sd([1, 2, 3], digits=2) == "2.00 ± 1.00"
    assert mean_sd([0.5]) == "0.500"
    assert mean_sd([-1e-9, 0.0]) == "0.000 ± 0.000", "zero has no sign"
    with pytest.raises(InputError, match="finite"):
        mean_sd([1.0, float("nan")])
    with pytest.raises(InputError, match="finite"):
        mean_sd([])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (12345, "12,345"),
        (None, "–"),
        (float("nan"), "–"),
        ("a", "a"),
        (np.float64(0.5), "0.500"),
        (np.float32("nan"), "–"),
        (np.int64(12345), "12,345"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert format_cell(value) == text


def test_a_table_is_accessible_and_escaped() -> None:
    rows = [{"Pair": "<a>", "Bias": 0.25}, {"Pair": "b", "Bias": None}]
    html = Table(rows, caption="Bias & pairs.", digits={"Bias": 1})._repr_html_()
    HTMLParser().feed(html)
    assert "<caption><span>Bias &amp; pairs.</span></caption>" in html
    assert '<th scope="row">&lt;a&gt;</th><td class="relif-number">0.2</td>' in html
    assert '<th scope="col" class="relif-number">Bias</th>' in html


@pytest.mark.parametrize("text", ["0.2", "−0.01 [−0.02, 0.01]", "3 of 10", "12 test stays", "–", "inf"])
def test_numbers_stand_to_the_right(text: str) -> None:
    assert 'class="relif-number"' in Table([{"row": "a", "value": text}], caption="C.")._repr_html_()


@pytest.mark.parametrize("text", ["1 · ReLiF has the lowest Bias", "15 seeds, power, interim", "a", "yes"])
def test_words_stand_to_the_left(text: str) -> None:
    assert 'class="relif-number"' not in Table([{"row": "a", "value": text}], caption="C.")._repr_html_()


def test_a_table_as_text_lines_its_columns_up() -> None:
    lines = repr(
        Table([{"Method": "ERM", "Bias": 0.5}, {"Method": "ReLiF", "Bias": 10.25}], caption="C.")
    ).splitlines()
    assert lines == ["C.", "Method    Bias", "ERM      0.500", "ReLiF   10.250"]


@pytest.mark.parametrize(
    ("rows", "caption", "message"),
    [
        ([], "C.", "at least one row"),
        ([{"a": 1}], " ", "caption"),
        ([{"a": 1}, {"b": 1}], "C.", "row 1 of table 'C.'"),
    ],
)
def test_bad_tables(rows: list[dict[str, int]], caption: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Table(rows, caption=caption)


def test_a_figure_is_drawn_to_the_same_bytes_and_needs_words() -> None:
    def draw() -> bytes:
        figure, axes = figures.new_figure(columns=2)
        axes[0].plot([0, 1], color=figures.colour_of("relif"), marker=figures.marker_of("relif"))
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
        return stream.getvalue()

    assert draw() == draw()
    figure, _ = figures.new_figure()
    with pytest.raises(InputError, match="alternative text"):
        figures.show(figure, alt="  ")


def test_methods_of_the_paper_differ_in_colour_and_marker() -> None:
    assert len({figures.colour_of(method) for method in SEVEN_METHODS}) == 7
    assert len({figures.marker_of(method) for method in SEVEN_METHODS}) == 7


def test_every_method_colour_stands_out_from_white() -> None:
    """At least 2:1 against the white ground for marks of this size (the palette's lightest is sky blue)."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    colours = {method: figures.colour_of(method) for method in SEVEN_METHODS}
    contrasts = {name: 1.05 / (luminance(colour) + 0.05) for name, colour in colours.items()}
    assert min(contrasts.values()) >= 2.0, contrasts


def test_a_drawing_carries_its_numbers_and_a_picture_stays_one() -> None:
    figure, axes = figures.new_figure(columns=2)
    axes[0].set_title("left")
    axes[0].plot([0, 1], [0.123456, 2], label="a line")
    axes[0].axhline(1.0)
    axes[1].set_title("right")
    axes[1].scatter([3], [4])
    axes[1].bar([0], [5], label="bars")
    drawn = as_svg(figure)
    assert drawn is not None
    rows = list(csv.reader(io.StringIO(unescape(DATA.search(drawn)[1]))))
    assert rows[0] == ["panel", "series", "x", "y"]
    assert ["left", "a line", "0", "0.123456"] in rows
    assert ["right", "", "3", "4"] in rows
    assert ["right", "bars", "0", "5"] in rows
    assert not any(row[3] == "1" for row in rows), "a line across the panel is no data"
    axes[1].imshow(np.zeros((2, 2)))
    assert as_svg(figure) is None


def test_a_drawing_in_a_page_takes_the_ink_of_the_theme_and_its_words() -> None:
    figure, axes = figures.new_figure()
    axes.plot([0, 1], color="#0072B2")
    shown = themed(as_svg(figure), 'a "line"')
    assert 'role="img" aria-label="a &quot;line&quot;"' in shown
    assert "var(--relif-ink, #262626)" in shown
    assert "var(--relif-ground, #ffffff)" in shown
    assert "#0072b2" in shown
    assert "<metadata" not in shown
    assert not re.search(r": #(?:ffffff|262626|000000)", shown)


def test_the_figure_of_methods_has_a_table_for_readers_without_javascript() -> None:
    """A has the lower Bias at the fixed tolerance, halfway between two of its curve's, and B at their own."""
    data = {
        "tolerances": [0.0, 0.2, 0.4],
        "tolerance": 0.1,
        "methods": [
            {"title": "B", "worst": 0.5, "bias": [0.6, 0.4, 0.2], "own_tolerance": 0.4, "own_bias": 0.2},
            {"title": "A", "worst": 0.7, "bias": [0.5, 0.2, 0.1], "own_tolerance": 0.0, "own_bias": 0.5},
        ],
    }
    shown = still(json.dumps(data))
    assert "Methods at δ = 0.100" in shown
    rows = [re.findall(r"<t[dh][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>(.*?)</tr>", shown)[1:]]
    assert rows == [
        ["A", "0.700", "0.3500", "1", "0.000", "0.5000", "2"],
        ["B", "0.500", "0.5000", "2", "0.400", "0.2000", "1"],
    ]
