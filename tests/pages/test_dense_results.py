"""Rows of the dense tables: two tolerances, raw metrics beside audits, sentences that follow the numbers."""

from typing import Any

import numpy as np
import pytest

from relif_core.pages.dense_results import (
    against_erm,
    further_metric_rows,
    metric,
    score_rows,
    table_1_rows,
    two_tolerances,
    verdict,
    violation_rows,
)
from relif_core.pages.results import ResultSet, result_set
from relif_core.record import Record
from relif_core.settings import as_json, dense_settings

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


def record(method: str, seed: int, spread: float) -> Record:
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
        "settings": as_json(dense_settings(method, seed=seed)),
        "dataset": {
            "dataset": "rooms",
            "title": "Rooms",
            "fingerprint": "0" * 64,
            "tasks": [{"name": task, "title": task.title()} for task in TASKS],
        },
        "result": {
            "utility": {"test": found, "validation": found},
            "induced_tolerances": {"test": pairs, "validation": pairs},
        },
    }
    return Record(content, arrays)


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
    assert "stands at 0.200 after 5" in verdict(results[0])
    assert against_erm(results[0])[0]["Comparison"].startswith("ReLiF")
    alone = result_set("published", [record("erm", 0, 0.3)])
    assert "no ReLiF run" in verdict(alone)
    assert against_erm(alone) == [{"Comparison": "only ERM has records"}]
