"""Rows of the dense tables: two tolerances, raw metrics beside audits, sentences that follow the numbers."""

from typing import Any

import numpy as np
import pytest

from relif_book.evidence.dense_results import (
    certificates,
    clipped_share,
    comparisons,
    draw_progress,
    draw_score_ranges,
    further_metric_rows,
    in_table_order,
    limits,
    metric,
    metric_range,
    protocol_rows,
    protocol_sentence,
    relative_changes,
    score_rows,
    single_task_rows,
    table_1_rows,
    two_tolerances,
    verdict,
    violation_rows,
    without_single_tasks,
)
from relif_book.evidence.results import ResultSet, result_set, title_of
from relif_book.figures.style import new_figure
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
    for method in first.summaries:
        assert np.mean(second.summaries[method].bias) >= np.mean(first.summaries[method].bias)


def test_table_1_holds_metrics_and_both_audits(results: tuple[ResultSet, ResultSet]) -> None:
    rows = table_1_rows(*results)
    assert [row["Method"] for row in rows] == ["ERM", "ReLiF"]
    assert rows[0]["Depth RMSE, m"] == "1.000 ± 0.000"
    biases = [name for name in rows[0] if name.startswith("Bias")]
    assert len(biases) == 2
    assert float(str(rows[1][biases[0]]).split()[0]) < float(str(rows[0][biases[0]]).split()[0])
    assert further_metric_rows(results[0])[0]["within 30°"] == "0.500 ± 0.000"
    assert metric(results[0], "relif", "segmentation", "miou") == [0.2, 0.2]


def test_violation_rows_bracket_their_means(results: tuple[ResultSet, ResultSet]) -> None:
    for row in violation_rows(results[0]):
        low, high = (float(part) for part in row["95 % interval over rooms"].strip("[]").split(","))
        assert low <= float(row["Violation rate"].split()[0]) <= high


def test_score_rows_describe_the_pools(results: tuple[ResultSet, ResultSet]) -> None:
    rows = score_rows(results[0])
    assert len(rows) == 2 * len(TASKS)
    pools = [record.scores("test")["depth"] for record in results[0].records if record.method == "erm"]
    assert rows[1]["Mean score"] == f"{np.concatenate(pools).mean():.3f}"
    assert rows[1]["at 0"] == "0.0 %"


def test_sentences_follow_the_numbers(results: tuple[ResultSet, ResultSet]) -> None:
    assert "lies below zero" in verdict(results[0])
    assert "place" not in verdict(results[0])
    assert "stands at 0.200 after 5" in verdict(results[0])
    assert comparisons(results[0])[0]["Comparison"].startswith("ReLiF")
    only = result_set("published", [record("erm", 0, 0.3)])
    assert "no ReLiF run" in verdict(only)
    assert comparisons(only) == [{"Comparison": "only ERM has records"}]


def test_seven_methods_stand_in_the_order_of_the_paper() -> None:
    first, second = two_tolerances(seven())
    assert [row["Method"] for row in table_1_rows(first, second)] == [title_of(m) for m in SEVEN_METHODS]
    rows = comparisons(first)
    assert len(rows) == 6 + 5
    assert [row["Comparison"].split(" − ")[1] for row in rows[:6]] == ["ERM"] * 6
    assert {row["Comparison"].split(" − ")[0] for row in rows[6:]} == {"ReLiF"}
    assert all(row["Certified"] in ("yes", "no") for row in rows)
    assert certificates(first).endswith("of 21")
    assert "place 1 of 7" in verdict(first)


def test_limits_name_what_records_lack() -> None:
    short = {"training": {"epochs": 3}}
    text = limits(seven(**short), (96, 128))
    assert "96 × 128 instead of 288 × 384" in text
    assert "3 epochs instead of 100" in text
    assert "no order of methods in these tables is established" in text
    assert "no record of" not in text
    two = result_set("published", [record("erm", 0, 0.3, **short), record("relif", 0, 0.2, **short)])
    assert "no record of Uncertainty, GradNorm, PCGrad, FairGrad, CATS" in limits(two, (96, 128))
    full = result_set("published", [record(m, s, 0.3) for m in SEVEN_METHODS for s in range(7)])
    assert limits(full, (288, 384)).startswith("These records hold all seven methods with 7 seeds")


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
    assert further_metric_rows(results[0], worse)[0]["Δm, %"] == "16.7"
    assert [row["Metric"] for row in single_task_rows(single)] == ["mIoU", "depth RMSE, m", "normals mean, °"]
    assert without_single_tasks([*results[0].records, *single]) == results[0].records


def test_protocols_are_set_side_by_side() -> None:
    released = {"model": {"protocol": "as_released"}}
    held = result_set("published", [record("erm", 0, 0.3), record("relif", 0, 0.2)])
    other = result_set("published", [record("erm", 0, 0.5, **released), record("relif", 0, 0.4, **released)])
    rows = protocol_rows(held, other)
    assert [row["Protocol"] for row in rows] == ["held out", "as released"] * 2
    text = protocol_sentence(held, other)
    assert "ERM moves by +0.000 in Worst" in text
    # The best of the epochs, 0.25, against the last one, 0.2.
    assert "gains 0.050 in test Worst" in text
    assert clipped_share(held, "erm") == 0 < clipped_share(other, "erm")
    assert "are published yet" in protocol_sentence(held, None)


def test_ranges_of_metrics(results: tuple[ResultSet, ResultSet]) -> None:
    assert metric_range(results[0], "depth", "rmse", 2) == "1.00"


def test_figures_name_every_method_once() -> None:
    found = seven()
    _, axes = new_figure(columns=3, sharey=True)
    draw_score_ranges(axes, found)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == [title_of(m) for m in SEVEN_METHODS]
    _, panel = new_figure()
    draw_progress(panel, found)
    assert sorted(text.get_text() for text in panel.texts) == sorted(title_of(m) for m in SEVEN_METHODS)
