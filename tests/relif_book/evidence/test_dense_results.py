"""Rows of the dense tables: two tolerances, raw metrics beside audits, sentences that follow the numbers."""

from typing import Any

import numpy as np
import pytest

from relif_book import Page
from relif_book.chapters.dense_figures import draw_progress, draw_score_ranges
from relif_book.evidence.dense_results import (
    FURTHER,
    against_two,
    beaten_by_constant,
    clipped_share,
    further_metric_rows,
    in_table_order,
    metric_range,
    protocol_rows,
    published_if_any,
    relative_changes,
    score_rows,
    single_task_rows,
    table_1_rows,
    two_tolerances,
)
from relif_book.evidence.results import ResultSet, certified_pairs, comparison_rows, method_rows, result_set
from relif_book.evidence.trivial import DENSE_METRICS
from relif_book.figures.style import new_figure
from relif_book.figures.tables import QUANTITIES
from relif_book.project import ABSENT
from relif_core.methods import title_of
from relif_core.record import Record
from relif_core.settings import as_json, dense_settings
from relif_core.studies.grid import SEVEN_METHODS

TASKS = ("segmentation", "depth", "normals")
METRICS: dict[str, dict[str, float]] = {
    "segmentation": {"miou": 0.2, "pixel_accuracy": 0.5},
    "depth": {"rmse": 1.0, "absolute_error": 0.8, "relative_error": 0.3},
    "normals": {
        "mean_angle": 36.0,
        "median_angle": 30.0,
        "within_11.25": 0.1,
        "within_22.5": 0.4,
        "within_30": 0.5,
    },
}


def record(method: str, seed: int, spread: float, **changes: Any) -> Record:
    """A finished run whose scores spread so far between tasks."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {"calibration/distances": np.linspace(0.02, 0.4, 30)}
    for split in ("validation", "test"):
        for place, task in enumerate(TASKS):
            scores = 0.5 + spread * (place - 1) + 0.05 * generator.standard_normal(40)
            arrays[f"score/{split}/{task}"] = scores.clip(0, 1).astype(np.float32)
            arrays[f"subject/{split}/{task}"] = np.arange(40, dtype=np.int32)
    for name in ("weight", "violation_rate", "smoothed_rate"):
        arrays[f"trace/{name}"] = np.linspace(0.1, 0.2, 5) if method == "relif" else np.empty(0)
    found = {
        "worst": 0.2,
        "macro": 0.5,
        "tasks": {task: {"score": 0.2, "metrics": METRICS[task]} for task in TASKS},
    }
    pairs = [{"tasks": [a, b], "tolerance": 0.1} for a, b in (TASKS[:2], TASKS[::2], TASKS[1:])]
    content: dict[str, Any] = {
        "key": f"{method}-{seed}",
        "settings": as_json(dense_settings(method, seed=seed, **changes)),
        "dataset": {
            "dataset": "rooms",
            "title": "Rooms",
            "fingerprint": "0" * 64,
            "tasks": [{"name": task, "title": task.title()} for task in TASKS],
        },
        "result": {
            "history": {"worst": [0.1, 0.25, 0.2]},
            "utility": {"test": found, "validation": found},
            "induced_tolerances": {"test": pairs, "validation": pairs},
        },
    }
    return Record(content, arrays)


def alone(task: str, seed: int, factor: float = 1.0, **changes: Any) -> Record:
    """A finished run of one task, its metrics ``factor`` times those of every other run here."""
    base = record(f"single_{task}", seed, 0.1, **changes)
    metrics = {name: factor * value for name, value in METRICS[task].items()}
    found = {"worst": 0.2, "macro": 0.2, "tasks": {task: {"score": 0.2, "metrics": metrics}}}
    dataset = {**base.content["dataset"], "tasks": [{"name": task, "title": task.title()}]}
    result = {"utility": {"test": found, "validation": found}}
    return Record({**base.content, "dataset": dataset, "result": result}, {})


def seven(**changes: Any) -> ResultSet:
    """One run of each of the seven methods, in the order in which files are read."""
    spreads = dict(zip(SEVEN_METHODS, (0.3, 0.25, 0.2, 0.28, 0.22, 0.26, 0.15), strict=True))
    runs = [record(method, 0, spreads[method], **changes) for method in sorted(spreads)]
    return in_table_order(result_set("published", runs))


@pytest.fixture(scope="module")
def results() -> tuple[ResultSet, ResultSet]:
    runs = [record("erm", 0, 0.3), record("erm", 1, 0.3), record("relif", 0, 0.15), record("relif", 1, 0.16)]
    return two_tolerances(result_set("this run", runs))


def test_the_second_tolerance_is_half_the_first(results: tuple[ResultSet, ResultSet]) -> None:
    first, second = results
    assert second.reference.tolerance == first.reference.tolerance / 2
    assert second.reference.record == first.reference.record
    for method in first.runs:
        assert second.mean(method, "bias") >= first.mean(method, "bias")


def test_table_1_holds_metrics_and_both_audits(results: tuple[ResultSet, ResultSet]) -> None:
    rows = table_1_rows(*results)
    assert [row["Method"] for row in rows] == ["ERM", "ReLiF"]
    assert str(rows[0]["Depth RMSE, m"]) == "1.000 ± 0.000"
    biases = [name for name in rows[0] if name.startswith("Bias")]
    assert len(biases) == 2
    for name, found in zip(biases, results, strict=True):
        for row, method in zip(rows, found.runs, strict=True):
            assert row[name].values == tuple(found.values(method, "bias"))  # type: ignore[union-attr]
    further = ["Method", *(QUANTITIES[column][0] for column in FURTHER)]
    assert list(further_metric_rows(results[0])[0]) == further
    assert results[0].values("relif", "miou/segmentation") == [0.2, 0.2]
    rates = method_rows(results[0], "violation_rate", "rate_interval", "drift_budget")
    assert len(rates) == 2
    assert all(len(row) == 4 for row in rates)


def test_score_rows_describe_the_pools(results: tuple[ResultSet, ResultSet]) -> None:
    rows = score_rows(results[0])
    assert len(rows) == 2 * len(TASKS)
    pools = [record.scores("test")["depth"] for record in results[0].records if record.method == "erm"]
    assert rows[1]["Mean score"] == pytest.approx(np.concatenate(pools).mean())
    assert rows[1]["at 0, %"] == "0.0"


def test_seven_methods_stand_in_the_order_of_the_paper() -> None:
    first, second = two_tolerances(seven())
    assert [row["Method"] for row in table_1_rows(first, second)] == [title_of(m) for m in SEVEN_METHODS]
    rows = comparison_rows(first, against_two(first))
    assert len(rows) == 6 + 5
    assert [str(row["Comparison"]).split(" − ")[1] for row in rows[:6]] == ["ERM"] * 6
    assert {str(row["Comparison"]).split(" − ")[0] for row in rows[6:]} == {"ReLiF"}
    assert certified_pairs(first)[1] == 21
    assert against_two(first.narrowed(["erm"])) == []


def test_relative_change_needs_every_task_of_the_same_seed_and_settings(
    results: tuple[ResultSet, ResultSet],
) -> None:
    single = [alone(task, 0) for task in TASKS]
    # Equal metrics change nothing; the second seed has nobody to be compared with.
    assert relative_changes(results[0], single, "erm") == [0.0]
    assert relative_changes(results[0], single[:2], "erm") == []
    # A single-task model's errors twice as large as ours: half of them is +50 % for depth, one task of three.
    worse = [alone("segmentation", 0), alone("depth", 0, 2.0), alone("normals", 0)]
    assert relative_changes(results[0], worse, "erm") == pytest.approx([50 / 3])
    longer = [alone(task, 0, training={"epochs": 7}) for task in TASKS]
    assert relative_changes(results[0], longer, "erm") == []
    assert "Δm, %" not in further_metric_rows(results[0])[0]
    assert str(further_metric_rows(results[0], worse)[0]["Δm, %"]) == "16.7 (one seed)"
    assert [row["Metric"] for row in single_task_rows(single)] == [
        QUANTITIES[column][0] for column in DENSE_METRICS
    ]


def test_protocols_are_set_side_by_side() -> None:
    released = {"model": {"protocol": "as_released"}}
    held = result_set("published", [record("erm", 0, 0.3), record("relif", 0, 0.2)])
    other = result_set("published", [record("erm", 0, 0.5, **released), record("relif", 0, 0.4, **released)])
    rows = protocol_rows(held, other)
    assert [row["Protocol"] for row in rows] == ["held out", "as released"] * 2
    assert [row["Method"] for row in rows] == ["ERM", "ERM", "ReLiF", "ReLiF"]
    assert [row["Scores at 0 or 1, %"] for row in rows][::2] == ["0.0", "0.0"]
    assert clipped_share(held, "erm") == 0 < clipped_share(other, "erm")


def test_who_is_beaten_by_a_constant(
    results: tuple[ResultSet, ResultSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"Depth": "every method", "Normals": "ERM, CATS"}
    for below, shown in (
        ({}, "no method in any task"), (both, "every method in depth, ERM, CATS in normals"),
    ):  # fmt: skip
        monkeypatch.setattr("relif_book.evidence.dense_results.below_constant", lambda _, below=below: below)
        assert beaten_by_constant(results[0]) == shown


def test_ranges_of_metrics(results: tuple[ResultSet, ResultSet]) -> None:
    assert metric_range(results[0], "rmse/depth") == "1.000"


def test_figures_name_every_method_once() -> None:
    found = seven()
    _, axes = new_figure(columns=3, sharey=True)
    draw_score_ranges(axes, found)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == [title_of(m) for m in SEVEN_METHODS]
    _, panel = new_figure()
    draw_progress(panel, found)
    assert sorted(text.get_text() for text in panel.texts) == sorted(title_of(m) for m in SEVEN_METHODS)


def test_a_page_awaits_runs_that_are_not_kept_yet() -> None:
    page = Page("table_1_nyuv2")
    assert published_if_any(page, "data/records/nosuch") is None
    assert page._files == {"data/records/nosuch": ABSENT}
