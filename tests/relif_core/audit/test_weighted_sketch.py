"""Weighted histograms: whole weights are repeated samples, bounds and errors those of the weighted audit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import HistogramSketch, InfluenceSums, audit
from relif_core.audit.metric import AuditMetric
from relif_core.audit.streaming import sketch_file
from relif_core.errors import ComparabilityError, DataError, InputError, RecordError
from tests.relif_core.audit.brute_force import pools
from tests.relif_core.audit.test_sketch import SLACK, centres, merged

SEEDS = st.integers(0, 2**32 - 1)
TOLERANCES = st.one_of(st.sampled_from([0.0, 0.1, 0.275, 0.9, 1.0]), st.floats(0, 1))
Arrays = dict[str, np.ndarray]


def weighed(scores: Arrays, seed: int) -> tuple[Arrays, Arrays]:
    """Weights of which some are 0, never a pool's first; ids of nine subjects, of whom each pool has two."""
    generator = np.random.default_rng(seed)
    weights = {
        task: generator.gamma(1, size=len(values)) * (generator.random(len(values)) > 0.2)
        for task, values in scores.items()
    }
    ids = {task: generator.integers(0, 9, len(values)) for task, values in scores.items()}
    for task in scores:
        weights[task][:2], ids[task][:2] = 1, (0, 1)
    return weights, ids


def halves(arrays: Arrays) -> list[Arrays]:
    return [{task: values[k::2] for task, values in arrays.items()} for k in range(2)]


@settings(max_examples=150, deadline=None)
@given(
    first=pools(least=4),
    second=pools(least=4),
    tolerance=TOLERANCES,
    bins=st.sampled_from([2, 16, 4096]),
    least=st.integers(3, 5),
    seed=SEEDS,
)
def test_the_weighted_audit_lies_in_the_proven_range(
    first: np.ndarray, second: np.ndarray, tolerance: float, bins: int, least: int, seed: int
) -> None:
    scores = {"a": np.abs(first), "b": np.abs(second)}
    weights, _ = weighed(scores, seed)
    exact = audit(scores, tolerance, weights=weights)
    parts = zip(halves(scores), halves(weights), strict=True)
    together = merged([HistogramSketch.of(part, bins, weights=own) for part, own in parts])
    for sketch in (
        (together, together.hide(least)) if min(together.samples.values()) >= least else (together,)
    ):
        if not all(cells.any() for cells in sketch.counts.values()):
            continue
        found = sketch.audit(tolerance)
        assert found.samples == {task: np.count_nonzero(own) for task, own in weights.items()}
        seen = np.prod([sketch.weights[task][0, :-1].sum() / own.sum() for task, own in weights.items()])
        assert abs(found.bias - exact.bias) <= 1 / bins + (1 - seen) * (1 - tolerance) + SLACK
        assert found.bias_range[0] - SLACK <= exact.bias <= found.bias_range[1] + SLACK
        low, high = found.violation_rate_range
        assert low - SLACK <= exact.violation_rate <= high + SLACK
        bare = {task: own * (np.arange(bins + 1) < bins) for task, own in sketch.weights.items()}
        shown = HistogramSketch(sketch.counts, {"a": 0, "b": 0}, None, bare).audit(tolerance)
        assert found.bias == shown.bias
        assert found.bias_range[0] == pytest.approx(seen * shown.bias_range[0], abs=SLACK)


@settings(max_examples=60, deadline=None)
@given(first=pools(least=4, most=60), second=pools(least=4, most=60), tolerance=TOLERANCES, seed=SEEDS)
def test_whole_weights_are_repeated_samples(
    first: np.ndarray, second: np.ndarray, tolerance: float, seed: int
) -> None:
    scores = {"a": np.abs(first), "b": np.abs(second)}
    _, ids = weighed(scores, seed)
    times = {task: np.random.default_rng(seed).integers(1, 5, len(values)) for task, values in scores.items()}
    repeated, people = ({task: np.repeat(part[task], times[task]) for task in part} for part in (scores, ids))
    own, plain = HistogramSketch.of(scores, 64, weights=times), HistogramSketch.of(repeated, 64)
    found = own.audit(tolerance, own.subject_sums(scores, ids, tolerance, times))
    wanted = plain.audit(tolerance, plain.subject_sums(repeated, people, tolerance))
    for name in ("bias", "bias_range", "violation_rate", "violation_rate_range", "freedom", "clusters"):
        assert getattr(found, name) == getattr(wanted, name), name
    for name in ("bias_se", "violation_rate_se"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(first=pools(least=4), second=pools(least=4), third=pools(least=4), tolerance=TOLERANCES, seed=SEEDS)
def test_on_bin_centres_estimates_and_errors_by_subject_are_those_of_the_weighted_audit(
    first: np.ndarray, second: np.ndarray, third: np.ndarray, tolerance: float, seed: int
) -> None:
    scores = centres({"a": np.abs(first), "b": np.abs(second), "c": np.abs(third)}, 256)
    tolerance = (np.floor(tolerance * 256) + 0.5) / 256  # no gap of centres ties with it
    if tolerance > 1:
        tolerance = 1.0
    weights, ids = weighed(scores, seed)
    sketch = HistogramSketch.of(scores, 256, weights=weights)
    sums = sketch.subject_sums(scores, ids, tolerance, weights)
    found, exact = sketch.audit(tolerance, sums), audit(scores, tolerance, subjects=ids, weights=weights)
    assert (found.clustered_by, found.clusters) == ("subject", exact.clusters)
    for name in ("bias", "violation_rate", "bias_se", "violation_rate_se"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), abs=SLACK, nan_ok=True), name
    assert found.freedom == pytest.approx(exact.freedom)
    assert found.effective_pairs == pytest.approx(exact.effective_pairs)


@pytest.mark.parametrize("equal", [True, False])
def test_without_subjects_errors_are_those_of_the_weighted_audit(equal: bool) -> None:
    """Exact where a cell's weights are equal; else close, with freedoms that are up to twice as many."""
    generator = np.random.default_rng(2)
    scores = {task: (generator.integers(0, 64, 500) + 0.5) / 64 for task in "abc"}
    levels = generator.gamma(2, size=64)
    weights = {
        task: levels[(values * 64).astype(int)] if equal else generator.gamma(2, size=500)
        for task, values in scores.items()
    }
    found = HistogramSketch.of(scores, 64, weights=weights).audit(0.125)
    exact = audit(scores, 0.125, weights=weights)
    assert (found.clustered_by, found.clusters) == ("sample", exact.clusters)
    for name in ("bias_se", "violation_rate_se", "bias_freedom", "violation_rate_freedom"):
        ratio = getattr(found, name) / getattr(exact, name)
        if equal or "freedom" not in name:
            assert ratio == pytest.approx(1, abs=1e-9 if equal else 2e-3), name
        else:
            assert 1 - 1e-9 <= ratio < 2, name
    one = {"a": [1.0, 0.0], "b": [1.0, 1.0]}
    assert np.isnan(HistogramSketch.of({"a": [0.1, 0.2], "b": [0.3, 0.9]}, 4, weights=one).audit(0.1).bias_se)


def test_by_hand_and_zero_weights_are_in_no_pool() -> None:
    """P(x = bin 3) = 3/4 against bin 0 and a gap of three bins; half a bin is tolerated."""
    scores, weights = {"a": [0.9, 0.1, 0.5], "b": [0.0, 0.2]}, {"a": [3, 1, 0], "b": [1, 1]}
    sketch = HistogramSketch.of(scores, 4, weights=weights)
    assert sketch.counts["a"].tolist() == [1, 0, 0, 1]
    assert sketch.weights["a"].tolist() == [[1, 0, 0, 3, 0], [1, 0, 0, 9, 0]]
    found = sketch.audit(0.125)
    assert (found.bias, found.violation_rate) == (0.75 * (0.75 - 0.125), 0.75)


def test_hidden_weights_leave_their_sum_alone() -> None:
    scores = {task: np.repeat((np.arange(4) + 0.5) / 4, [5, 1, 7, 4]) for task in "ab"}
    weights = {task: np.random.default_rng(1).gamma(2, size=17) for task in "ab"}
    whole = HistogramSketch.of(scores, 4, weights=weights)
    shown = whole.hide(3)
    assert shown.counts["a"].tolist() == [5, 0, 7, 0]
    assert shown.weights["a"][:, [1, 3]].tolist() == [[0, 0], [0, 0]]
    assert shown.weights["a"][:, 4].tolist() == [whole.weights["a"][0, [1, 3]].sum(), 0]
    assert shown.weights["a"][0].sum() == pytest.approx(weights["a"].sum())
    twice = (shown + shown).hide(3)
    assert twice.weights["a"].tolist() == (2 * shown.weights["a"]).tolist()
    crowd = {task: np.array([1.0] + [0.0] * 4 + [1.0] * 12) for task in "ab"}
    alone = HistogramSketch.of(scores, 4, weights=crowd).hide(3)
    assert alone.counts["a"].tolist() == [0, 0, 7, 0]
    assert (alone.hidden["a"], alone.weights["a"][:, 4].tolist()) == (6, [6, 0])
    for least in (1, 2):
        with pytest.raises(InputError, match=f"than {least} samples leaves weights in the open.*than 3"):
            whole.hide(least)
    with pytest.raises(InputError, match="its 2 samples are fewer than 3, and their weight cannot be hidden"):
        HistogramSketch.of({"a": [0.1, 0.9], "b": [0.1, 0.9]}, 4, weights={"a": [1, 2], "b": [1, 2]}).hide(3)


def test_sites_of_one_histogram_and_their_sums() -> None:
    generator = np.random.default_rng(4)
    scores = centres({task: generator.random(240) for task in "ab"}, 256)
    weights = {task: generator.gamma(2, size=240) for task in "ab"}
    ids = dict.fromkeys("ab", np.arange(240) // 4)
    at = [{task: values[k::3] for task, values in scores.items()} for k in range(3)]
    own = [{task: values[k::3] for task, values in weights.items()} for k in range(3)]
    sketches = [HistogramSketch.of(one, 256, weights=w) for one, w in zip(at, own, strict=True)]
    together = merged([HistogramSketch.from_json(sketch.to_json()) for sketch in sketches])
    whole = HistogramSketch.of(scores, 256, weights=weights)
    for task in "ab":
        assert together.counts[task].tolist() == whole.counts[task].tolist()
        assert together.weights[task] == pytest.approx(whole.weights[task], rel=1e-14)
    site = dict.fromkeys("ab", np.arange(240) % 3)
    found = together.audit(0.1, together.site_sums(sketches, 0.1))
    exact = audit(scores, 0.1, subjects=site, weights=weights)
    assert (found.clusters, found.bias_se) == (3, pytest.approx(exact.bias_se, rel=1e-9))
    person = [{task: 3 * (values[k::3] // 3) + k for task, values in ids.items()} for k in range(3)]
    answers = [together.subject_sums(s, i, 0.1, w) for s, i, w in zip(at, person, own, strict=True)]
    answers = [InfluenceSums.from_json(answer.to_json()) for answer in answers]
    people = {task: 3 * (values // 3) + np.arange(240) % 3 for task, values in ids.items()}
    exact = audit(scores, 0.1, subjects=people, weights=weights)
    assert together.audit(0.1, sum(answers[1:], answers[0])).bias_se == pytest.approx(exact.bias_se, rel=1e-9)
    heavier = HistogramSketch.of(scores, 256, weights={task: 2 * own for task, own in weights.items()})
    with pytest.raises(InputError, match="belong to other histograms"):
        heavier.audit(0.1, answers[0])
    with pytest.raises(InputError, match="do not add up"):
        heavier.site_sums(sketches, 0.1)


def test_what_does_not_belong_together_is_refused() -> None:
    scores, weights = {"a": [0.1, 0.9], "b": [0.3, 0.2]}, {"a": [1, 2], "b": [1, 1]}
    plain, own = HistogramSketch.of(scores, 4), HistogramSketch.of(scores, 4, weights=weights)
    for first, second in ((plain, own), (own, plain)):
        with pytest.raises(ComparabilityError, match=r"one has sample weights and one has none; make both"):
            first + second
    ids = {"a": [1, 2], "b": [1, 2]}
    for sketch, given_ in ((plain, weights), (own, None)):
        with pytest.raises(InputError, match="weights go with a histogram that was made with them"):
            sketch.subject_sums(scores, ids, 0.1, given_)
    with pytest.raises(InputError, match="single subject"):
        own.subject_sums(scores, ids, 0.1, {"a": [1, 0], "b": [1, 0]})
    with pytest.raises(InputError, match="1 of 2 weights are negative"):
        HistogramSketch.of(scores, 4, weights={"a": [1, -1], "b": [1, 1]})
    for size in (1e-200, 1e200):
        with pytest.raises(InputError, match="give finite weights of moderate size"):
            HistogramSketch.of(scores, 4, weights={"a": [1, size], "b": [1, 1]})


def test_json_with_weights_is_read_back_and_damage_is_noticed() -> None:
    scores = {"a": [0.1, 0.15, 0.2, 0.6, 0.9, 0.95], "b": [0.3] * 6}
    weights = {"a": [0.1, 0.2, 0.3, 3, 0.5, 0.2], "b": [1] * 6}
    sketch = HistogramSketch.of(scores, 4, weights=weights).hide(3)
    again = HistogramSketch.from_json(sketch.to_json())
    assert again.to_json() == sketch.to_json()
    assert again.audit(0.1) == sketch.audit(0.1)
    whole = HistogramSketch.of(scores, 4, weights={"a": [1, 2, 3, 4, 5, 6], "b": [1] * 6})
    assert HistogramSketch.from_json(whole.to_json().replace(".0", "")).to_json() == whole.to_json()
    content = json.loads(sketch.to_json())
    assert content["schema"] == "relif-histogram/2"
    assert content["tasks"]["a"] == {
        "hidden": 3,
        "counts": [3, 0, 0, 0],
        "weights": [[0.1 + 0.2 + 0.3, 0, 0, 0, 3.7], [pytest.approx(0.14), 0, 0, 0, 0]],
    }
    for damage in (
        [[0.3, 0.1, 0, 0, 3.7], [0.05, 0, 0, 0, 0]],
        [[0.0, 0, 0, 0, 3.7], [0.05, 0, 0, 0, 0]],
        [[0.3, 0, 0, 0, 3.7], [-1.0, 0, 0, 0, 0]],
        [[0.3, 0, 0, 0, 3.7], [float("nan"), 0, 0, 0, 0]],
        [[0.3, 0, 0, 0, 3.7], [float("inf"), 0, 0, 0, 0]],
        [[0.3, 0, 0, 0, 0], [0.05, 0, 0, 0, 0]],
        [[0.3, 0, 0, 0, float("nan")], [0.05, 0, 0, 0, 0]],
        [[0.3, -0.1, 0, 0, 3.7], [0.05, 0, 0, 0, 0]],
        [[0.3, 0, 0, 0, 3.7]],
        [[0.3, 0, 0, 0], [0.05, 0, 0, 0]],
        [["0.3", 0, 0, 0, 3.7], [0.05, 0, 0, 0, 0]],
        [[0.3, None, 0, 0, 3.7], [0.05, 0, 0, 0, 0]],
        None,
    ):
        tasks = {**content["tasks"], "a": {**content["tasks"]["a"], "weights": damage}}
        with pytest.raises(RecordError, match="histogram is damaged"):
            HistogramSketch.from_json(json.dumps({**content, "tasks": tasks}))


def test_histograms_without_weights_are_written_and_named_as_ever() -> None:
    generator = np.random.default_rng(3)
    sketch = HistogramSketch.of(
        {task: generator.random(40) for task in "abc"}, 16, score_definition="ruler 1"
    )
    sketch = sketch.hide(2)
    texts = sketch.to_json(), sketch.site_sums([sketch], 0.1).of
    found = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    assert found == ["64479697d3e01999", "16bceffa31f21074"]


@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
def test_a_file_has_a_column_of_weights(tmp_path: Path, name: str) -> None:
    generator = np.random.default_rng(5)
    scores = {"mass": generator.random(90), "b": generator.random(90)}
    weights = generator.integers(0, 5, 90)
    empty = np.arange(90) % 4 == 0
    cells = [None if gone else x for gone, x in zip(empty, scores["b"], strict=True)]
    frame = polars.DataFrame({**scores, "b": cells, "w": weights})
    frame.write_parquet(tmp_path / name) if name == "x.parquet" else frame.write_csv(tmp_path / name)
    wanted = HistogramSketch.of(
        {"mass": scores["mass"], "b": scores["b"][~empty]},
        16,
        weights={"mass": weights, "b": weights[~empty]},
    )
    assert sketch_file(tmp_path / name, ["mass", "b"], 16, weight="w").to_json() == wanted.to_json()


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        ([1.0, None, -1.0, None], DataError, r"2 of 3 scores of 'a' are beside a 'w' that is missing, neg"),
        ([1.0, float("nan"), float("inf"), 1.0], DataError, "2 of 3 scores of 'a' are beside a 'w'"),
        ([0.0, 0.0, 0.0, 1.0], DataError, "column 'a' is empty where 'w' is above 0"),
        (["x", "y", "z", "x"], InputError, "column 'w' is String, not a weight"),
    ],
)
def test_weights_of_scores_are_checked(tmp_path: Path, weights: list[Any], kind: type, message: str) -> None:
    """The last row has no score, and nothing is asked of its weight."""
    scores = {task: [0.1, 0.2, 0.3, None] for task in "ab"}
    polars.DataFrame({**scores, "w": weights}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(kind, match=message):
        sketch_file(tmp_path / "x.parquet", ["a", "b"], 4, weight="w")
    with pytest.raises(InputError, match="has no column 'v'"):
        sketch_file(tmp_path / "x.parquet", ["a", "b"], 4, weight="v")
    polars.DataFrame({**scores, "w": [1.0, 1.0, 1.0, None]}).write_parquet(tmp_path / "x.parquet")
    assert sketch_file(tmp_path / "x.parquet", ["a", "b"], 4, weight="w").samples == {"a": 3, "b": 3}


def test_batches_with_weights_add_up() -> None:
    generator = np.random.default_rng(6)
    scores = {task: generator.random(60) for task in "ab"}
    weights = {task: generator.integers(0, 4, 60) for task in "ab"}
    metric = AuditMetric(["a", "b"], 0.275, bins=64, weighted=True)
    for part, own in zip(halves(scores), halves(weights), strict=True):
        metric.update(*({t: torch.from_numpy(x.copy()) for t, x in one.items()} for one in (part, own)))
    wanted = HistogramSketch.of(scores, 64, weights=weights)
    assert metric.sketch().to_json() == wanted.to_json()
    assert metric.compute()["bias"].item() == pytest.approx(wanted.audit(0.275).bias, abs=1e-7)
    assert metric.masses.shape == (2, 2, 65)
    held = metric.counts.clone(), metric.masses.clone()
    for bad, message in (
        (None, "weights go with weighted=True"),
        ({}, "task 'a': weights are missing"),
        ({"a": torch.ones(2)}, "task 'a': weights are missing or misaligned"),
        ({"a": torch.tensor([1.0, -1.0, float("nan")])}, "2 of 3 weights are negative or not finite"),
    ):
        with pytest.raises(InputError, match=message):
            metric.update({"a": torch.rand(3)}, bad)
    assert torch.equal(metric.counts, held[0])
    assert torch.equal(metric.masses, held[1])
    with pytest.raises(InputError, match="weights go with weighted=True"):
        AuditMetric(["a", "b"], 0.1).update({"a": torch.rand(3)}, {"a": torch.ones(3)})
    metric.reset()
    assert metric.counts.sum() == metric.masses.sum() == 0


@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 1.0], [0.1, 0.7, 0.4]])
def test_a_subject_who_is_a_whole_pool_leaves_no_error(weights: list[float] | None) -> None:
    """As in the audit of the scores, and the sums travel as JSON all the same."""
    scores = {"a": np.array([0.85, 0.65, 0.5]), "b": np.linspace(0, 1, 4)}
    ids = {"a": np.zeros(3, dtype=int), "b": np.arange(4)}
    held = None if weights is None else {"a": np.array(weights), "b": np.ones(4)}
    sketch = HistogramSketch.of(scores, 8, weights=held)
    sums = InfluenceSums.from_json(sketch.subject_sums(scores, ids, 0.1, weights=held).to_json())
    assert np.isnan(sketch.audit(0.1, sums).bias_se)
    assert np.isnan(audit(scores, 0.1, subjects=ids, weights=held).bias_se)
