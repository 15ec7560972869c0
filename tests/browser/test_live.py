"""Figures that move and the audit in the page, in a real browser, by keyboard alone."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relif_book.figures.live import FIGURES, live_html
from relif_core.audit import audit, bias_curve
from relif_core.errors import InputError

playwright = pytest.importorskip("playwright.sync_api")
ASSETS = Path(__file__).resolve().parents[2] / "book" / "assets"
DATA: dict[str, Any] = {
    "methods": {
        "tolerances": np.linspace(0, 1, 5),
        "tolerance": 0.5,
        "methods": [
            {"title": "A", "colour": "#000", "worst": 0.6, "bias": [0.4, 0.3, 0.2, 0.1, 0],
             "violation_rate": [1, 0.8, 0.5, 0.2, 0], "own_tolerance": 0.2, "own_bias": 0.32},
            {"title": "B", "colour": "#00f", "worst": 0.5, "bias": [0.5, 0.3, 0.1, 0.05, 0],
             "violation_rate": [1, 0.7, 0.4, 0.1, 0], "own_tolerance": 0.6, "own_bias": 0.08},
        ],
    },
    "t1": {"p": [0.0, 0.2, 0.9], "other": [0.3, 0.5]},
    "t2": {"pools": {"a": [0.0, 0.5], "b": [0.9, 1.0]}, "delta": 0.1},
    "t5": {"segmentation": [0.4, 0.6], "depth": [1.0, 2.0], "normals": [1.0, 3.0],
           "quantiles": {"depth": [1.1, 1.9], "normals": [1.2, 2.8]}, "delta": 0.2},
}  # fmt: skip


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    """A page from disk that holds every figure and the audit; a script error fails the test."""
    body = "".join(live_html(name, DATA.get(name)) for name in FIGURES)
    source = tmp_path / "page.html"
    source.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><script'
        f' src="{(ASSETS / "live.js").as_uri()}"></script><body>{body}<div class="relif-live"'
        ' data-live="audit"></div></body></html>'
    )
    errors: list[str] = []
    opened = browser.new_page()
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(source.as_uri())
    yield opened
    opened.close()
    assert errors == []


def test_the_audit_in_the_page_equals_the_package(page: Any) -> None:
    generator = np.random.default_rng(0)
    cases, expected = [], []
    tolerances = [0.0, 0.1, 0.275, 0.7, 1.0]
    for number in range(200):
        rows, tasks = int(generator.integers(2, 60)), int(generator.integers(2, 5))
        columns: dict[str, list[float | None]] = {}
        for task in range(tasks):
            drawn = [
                generator.random(rows), generator.beta(0.3, 3, rows),
                np.round(generator.random(rows), 1), np.full(rows, 0.25),
            ][int(generator.integers(4))]  # fmt: skip
            absent = generator.random(rows) < generator.choice([0, 0.3])
            absent[:2] = False
            columns[f"t{task}"] = [
                None if gone else float(score) for score, gone in zip(drawn, absent, strict=True)
            ]
        subjects = np.arange(rows) if number % 3 == 0 else generator.integers(0, max(2, rows // 2), rows)
        delta = float(generator.choice([0.0, 0.1, 0.275, 1.0, generator.random()]))
        cases.append({"columns": columns, "delta": delta, "subjects": subjects.tolist()})
        held = {
            task: [k for k, score in enumerate(own) if score is not None] for task, own in columns.items()
        }
        scores = {task: np.array([columns[task][k] for k in rows_of]) for task, rows_of in held.items()}
        result = audit(scores, delta, subjects={task: subjects[rows_of] for task, rows_of in held.items()})
        curve = bias_curve(scores, tolerances)
        expected.append(
            [
                *(number for row in (result, *result.per_pair) for number in numbers_of(row)),
                *curve.bias,
                *curve.violation_rate,
            ]
        )
    found = page.evaluate(
        """([cases, tolerances]) => cases.map(({ columns, delta, subjects }) => {
            const result = relif.audit(columns, delta, subjects);
            const curve = relif.biasCurve(columns, tolerances);
            const numbers = (row) => [row.bias, row.violation_rate, row.bias_se, row.violation_rate_se,
                                      ...row.bias_interval, ...row.violation_rate_interval];
            return [result, ...result.per_pair].flatMap(numbers)
                .concat(curve.map((c) => c[0]), curve.map((c) => c[1]))
                .map((value) => (Number.isNaN(value) ? null : value));
        })""",
        [cases, tolerances],
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            [math.nan if value is None else value for value in one], other, rtol=0, atol=1e-12
        )


def numbers_of(row: Any) -> list[float]:
    return [
        row.bias, row.violation_rate, row.bias_se, row.violation_rate_se,
        *row.bias_interval(), *row.violation_rate_interval(),
    ]  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_every_slider_moves_its_figure_by_keyboard(page: Any, name: str) -> None:
    host = page.locator(f'.relif-live[data-live="{name}"]')
    for slider in host.locator('input[type="range"]').all():
        before = (
            host.locator(".relif-live-text").text_content() + host.locator(".relif-live-figure").inner_html()
        )
        slider.focus()
        for _ in range(5):
            page.keyboard.press(
                "ArrowRight"
                if float(slider.input_value()) < float(slider.get_attribute("max"))
                else "ArrowLeft"
            )
        after = (
            host.locator(".relif-live-text").text_content() + host.locator(".relif-live-figure").inner_html()
        )
        assert before != after
        assert "NaN" not in after


def test_every_control_has_a_label_of_its_own_where_a_figure_stands_twice(page: Any, tmp_path: Path) -> None:
    source = tmp_path / "twice.html"
    script = f'<script src="{(ASSETS / "live.js").as_uri()}"></script>'
    source.write_text(
        f'<!doctype html><meta charset="utf-8">{script}{live_html("methods", DATA["methods"]) * 2}'
    )
    page.goto(source.as_uri())
    labels = page.locator("input").evaluate_all("all => all.map(i => [i.id, i.labels.length])")
    assert len({name for name, _ in labels}) == len(labels) == 4
    assert {count for _, count in labels} == {1}


def test_own_rulers_turn_the_order(page: Any) -> None:
    host = page.locator('.relif-live[data-live="methods"]')
    slider = host.locator('input[type="range"]')
    slider.focus()
    page.keyboard.press("Home")
    assert host.locator("tbody tr").first.text_content().startswith("1A")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert host.locator("tbody tr").first.text_content().startswith("1B")
    assert slider.is_disabled()


def test_a_table_is_audited_and_what_was_taken_is_said(page: Any, tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text(
        "patient;index;label;a;b\n"
        + "".join(f"p{k // 2};{k};{k % 2};0.{k}5;{'NA' if k == 3 else 1 - k / 10}\n" for k in range(10))
    )
    page.set_input_files("#relif-audit-file", str(table))
    host = page.locator('.relif-live[data-live="audit"]')
    host.locator("#relif-audit-save a").wait_for()
    said = host.locator(".relif-live-text").text_content()
    assert "10 rows, 5 subjects, columns a, b" in said
    card = json.loads(
        page.evaluate(
            "decodeURIComponent(document.querySelector('#relif-audit-save"
            " a').href.split(',').slice(1).join(','))"
        )
    )
    scores = {"a": [k / 10 + 0.05 for k in range(10)], "b": [1 - k / 10 for k in range(10) if k != 3]}
    subjects = {"a": [f"p{k // 2}" for k in range(10)], "b": [f"p{k // 2}" for k in range(10) if k != 3]}
    assert card["bias"] == pytest.approx(audit(scores, 0.275, subjects=subjects).bias, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n", "at least one row"),
        ("a,a\n0.1,0.2\n", "Two columns are called"),
        ("a,b\n0.1\n", "Row 2 has 1 cells"),
        ("a,b\n0.1,7\n0.2,8\n", "at least two tasks"),
        ("a,label\n0.1,1\n0.2,0\n", "only “a” holds"),
    ],
)
def test_a_bad_table_is_named(page: Any, tmp_path: Path, text: str, said: str) -> None:
    table = tmp_path / "bad.csv"
    table.write_text(text)
    page.set_input_files("#relif-audit-file", str(table))
    status = page.locator('.relif-live[data-live="audit"] .relif-live-text')
    playwright.expect(status).to_contain_text(said)


def test_a_figure_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="there are methods"):
        live_html("nosuch")
