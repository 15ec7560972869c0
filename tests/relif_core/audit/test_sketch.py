"""Histograms merge without loss, and reads from them keep the proven bounds of the exact audit."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import audit
from relif_core.audit.sketch import HistogramSketch, InfluenceSums
from relif_core.errors import ComparabilityError, InputError, RecordError
from tests.relif_core.audit.brute_force import pools, tolerances

BINS = st.sampled_from([2, 16, 128, 4096])
SLACK = 1e-12


def split(scores: dict[str, np.ndarray], sites: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Send every score to one of the sites at random; each site gets at least one of every task."""
    generator = np.random.default_rng(seed)
    places = {task: generator.permutation(np.arange(len(values)) % sites) for task, values in scores.items()}
    return [{task: values[places[task] == site] for task, values in scores.items()} for site in range(sites)]


def centres(scores: dict[str, np.ndarray], bins: int) -> dict[str, np.ndarray]:
    return {
        task: (np.minimum(values * float(bins) // 1, bins - 1) + 0.5) / bins
        for task, values in scores.items()
    }


def merged(parts: list[HistogramSketch]) -> HistogramSketch:
    return sum(parts[1:], parts[0])


@settings(max_examples=1000, deadline=None)
@given(
    first=pools(least=5, most=200),
    second=pools(least=5, most=200),
    tolerance=tolerances.filter(lambda delta: delta <= 1),
    bins=BINS,
    sites=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_merged_is_pooled_and_within_the_bound_of_the_exact_audit(
    first: np.ndarray, second: np.ndarray, tolerance: float, bins: int, sites: int, seed: int
) -> None:
    scores = {"a": np.abs(first), "b": np.abs(second)}
    parts = [HistogramSketch.of(part, bins) for part in split(scores, sites, seed)]
    together = merged(parts)
    assert together.to_json() == HistogramSketch.of(scores, bins).to_json()
    found, exact = together.audit(tolerance), audit(scores, tolerance)
    assert abs(found.bias - exact.bias) <= 1 / bins + SLACK
    assert found.bias_range[1] - found.bias <= 1 / bins + SLACK
    assert found.bias - found.bias_range[0] <= 1 / bins + SLACK
    assert found.bias_range[0] - SLACK <= exact.bias <= found.bias_range[1] + SLACK
    low, high = found.violation_rate_range
    assert low - SLACK <= exact.violation_rate <= high + SLACK
    assert low <= found.violation_rate <= high


@settings(max_examples=200, deadline=None)
@given(
    first=pools(least=20),
    second=pools(least=20),
    tolerance=st.sampled_from([0.0, 0.1, 0.275, 0.9, 1.0]),
    least=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_hidden_cells_widen_the_bound_by_their_share_of_the_pairs(
    first: np.ndarray, second: np.ndarray, tolerance: float, least: int, seed: int
) -> None:
    scores = {"a": np.abs(first), "b": np.abs(second)}
    parts = [HistogramSketch.of(part, 16) for part in split(scores, 2, seed)]
    together = merged([part.hide(least) for part in parts])
    assert together.samples == {task: len(values) for task, values in scores.items()}
    if not all(cells.any() for cells in together.counts.values()):
        with pytest.raises(InputError, match="no cell of the histogram shows a sample"):
            together.audit(tolerance)
        return
    shown = HistogramSketch(together.counts, {"a": 0, "b": 0}).audit(tolerance)
    found, exact = together.audit(tolerance), audit(scores, tolerance)
    unseen = 1 - np.prod([1 - together.hidden[task] / len(values) for task, values in scores.items()])
    assert found.bias == shown.bias
    assert abs(found.bias - exact.bias) <= 1 / 16 + unseen * (1 - tolerance) + SLACK
    assert found.bias_range[0] - SLACK <= exact.bias <= found.bias_range[1] + SLACK
    low, high = found.violation_rate_range
    assert low - SLACK <= exact.violation_rate <= high + SLACK
    assert low == pytest.approx((1 - unseen) * shown.violation_rate_range[0], abs=SLACK)
    assert high <= (1 - unseen) * shown.violation_rate_range[1] + unseen + SLACK


@settings(max_examples=200, deadline=None)
@given(values=pools(least=2), least=st.integers(1, 30))
def test_no_small_number_is_shown(values: np.ndarray, least: int) -> None:
    shown = HistogramSketch.of({"a": np.abs(values), "b": np.abs(values)}, 64).hide(least)
    for task, cells in shown.counts.items():
        assert not np.any((cells > 0) & (cells < least))
        assert shown.hidden[task] == 0 or shown.hidden[task] >= least or not cells.any()
        assert cells.sum() + shown.hidden[task] == len(values)


def test_hand_worked_case() -> None:
    """Bins 0 and 3 against bin 1: gaps of 1 and 2 bins, a quarter and a half."""
    found = HistogramSketch.of({"a": [0.1, 0.9], "b": [0.3]}, 4).audit(0.25)
    assert (found.bias, found.violation_rate) == (0.125, 0.5)
    assert found.bias_range == (0.0, 0.375)
    assert found.violation_rate_range == (0.0, 1.0)


def test_small_cells_are_hidden_with_company() -> None:
    """One cell of 1 would stand out as the only hidden one, so the next smallest joins it."""
    sketch = HistogramSketch({task: np.array([5, 1, 7, 4]) for task in "ab"}, {"a": 0, "b": 0})
    assert sketch.hide(3).counts["a"].tolist() == [5, 0, 7, 0]
    assert sketch.hide(3).hidden["a"] == 5
    assert sketch.hide(1).counts["a"].tolist() == [5, 1, 7, 4]


def test_every_score_lies_in_its_bin_to_the_last_bit() -> None:
    edges = np.arange(1, 64) / 64
    for dtype in (np.float32, np.float64):
        scores = np.concatenate([edges, np.nextafter(edges.astype(dtype), dtype(0)), [0, 1]]).astype(dtype)
        assert HistogramSketch.of({"a": scores, "b": scores}, 64).counts["a"].tolist() == [2] * 64


@settings(max_examples=50, deadline=None)
@given(first=pools(least=2), second=pools(least=2), third=pools(least=2), tolerance=st.floats(0, 1))
def test_errors_are_those_of_the_exact_audit_of_the_bin_centres(
    first: np.ndarray, second: np.ndarray, third: np.ndarray, tolerance: float
) -> None:
    scores = {"a": np.abs(first), "b": np.abs(second), "c": np.abs(third)}
    found, exact = HistogramSketch.of(scores, 64).audit(tolerance), audit(centres(scores, 64), tolerance)
    assert found.bias == pytest.approx(exact.bias, abs=SLACK)
    assert found.bias_se == pytest.approx(exact.bias_se, abs=1e-9)
    assert found.freedom == exact.freedom
    if exact.bias_se > 1e-6:
        assert found.bias_freedom == pytest.approx(exact.bias_freedom, rel=1e-6)


@pytest.mark.parametrize("unit", ["subject", "site"])
def test_sums_of_the_sites_give_the_error_clustered_by_unit(unit: str) -> None:
    generator = np.random.default_rng(4)
    level = generator.beta(2, 5, 60)
    subjects = {task: np.repeat(np.arange(60), 4) for task in "abc"}
    scores = {
        task: np.clip(level[own] + generator.normal(0, 0.05, 240), 0, 1) for task, own in subjects.items()
    }
    site = {task: own // 10 for task, own in subjects.items()}
    parts = [{task: values[site[task] == k] for task, values in scores.items()} for k in range(6)]
    own_subjects = [{task: own[site[task] == k] for task, own in subjects.items()} for k in range(6)]
    sketches = [HistogramSketch.of(part, 256) for part in parts]
    together = merged(sketches)
    if unit == "site":
        sums = together.site_sums(sketches, 0.1)
    else:
        answers = [together.subject_sums(*own, 0.1) for own in zip(parts, own_subjects, strict=True)]
        sums = sum(answers[1:], answers[0])
        assert InfluenceSums.from_json(sums.to_json()) == sums
    found = together.audit(0.1, sums)
    exact = audit(centres(scores, 256), 0.1, subjects=site if unit == "site" else subjects)
    assert (found.clustered_by, found.clusters) == (unit, exact.clusters)
    assert found.bias_se == pytest.approx(exact.bias_se, rel=1e-9)
    assert found.violation_rate_se == pytest.approx(exact.violation_rate_se, rel=1e-9)
    for name in ("freedom", "bias_freedom", "violation_rate_freedom", "effective_pairs"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name)), name
    assert found.bias_interval()[0] < found.bias_range[0] < found.bias_range[1] < found.bias_interval()[1]


def test_what_does_not_belong_together_is_refused() -> None:
    sketch = HistogramSketch.of({"a": [0.1, 0.9], "b": [0.3, 0.2]}, 16, score_definition="ruler 1")
    for other, message in (
        (HistogramSketch.of({"a": [0.1], "b": [0.3]}, 32, score_definition="ruler 1"), "number of bins"),
        (HistogramSketch.of({"a": [0.1], "c": [0.3]}, 16, score_definition="ruler 1"), "tasks"),
        (HistogramSketch.of({"a": [0.1], "b": [0.3]}, 16, score_definition="ruler 2"), "score definition"),
    ):
        with pytest.raises(ComparabilityError, match=message):
            sketch + other
    for bins in (3, 1, True, 2.0, 1 << 21):
        with pytest.raises(InputError, match="power of two"):
            HistogramSketch.of({"a": [0.1], "b": [0.3]}, bins)
    sums = sketch.site_sums([sketch], 0.1)
    with pytest.raises(InputError, match="belong to other histograms or tolerances"):
        sketch.audit(0.2, sums)
    with pytest.raises(InputError, match="single subject"):
        sketch.subject_sums({"a": [0.1], "b": [0.3]}, {"a": [7], "b": [7]}, 0.1)
    with pytest.raises(ComparabilityError, match="different histograms, tolerances or units"):
        sums + sketch.site_sums([sketch], 0.2)
    with pytest.raises(InputError, match="do not add up"):
        sketch.site_sums([sketch, sketch], 0.1)


def test_json_holds_counts_alone_and_damage_is_noticed() -> None:
    sketch = HistogramSketch.of({"a": [0.1, 0.9], "b": [0.3, 0.2]}, 4, score_definition="ruler 1").hide(1)
    content = json.loads(sketch.to_json())
    assert content["tasks"] == {
        "a": {"hidden": 0, "counts": [1, 0, 0, 1]},
        "b": {"hidden": 0, "counts": [1, 1, 0, 0]},
    }
    for damage in (
        {"schema": "other"},
        {"tasks": {"a": content["tasks"]["a"]}},
        {"tasks": {**content["tasks"], "b": {"hidden": 0, "counts": [1, -1, 0, 0]}}},
        {"tasks": {**content["tasks"], "b": {"hidden": 0, "counts": [1, 0.5, 0, 0]}}},
        {"tasks": {**content["tasks"], "b": {"hidden": 0, "counts": [1, 0]}}},
    ):
        with pytest.raises(RecordError, match="histogram is damaged"):
            HistogramSketch.from_json(json.dumps({**content, **damage}))
    with pytest.raises(RecordError, match="histogram is damaged"):
        HistogramSketch.from_json("[1")
    for text in ("[1", "[1]", sketch.to_json(), '{"schema": "relif-influence-sums/1", "bias": 1}'):
        with pytest.raises(RecordError, match="influence sums are damaged"):
            InfluenceSums.from_json(text)


def crowd(sizes: list[int], seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores of subjects with so many samples each, in few cells and a sparse tail."""
    generator = np.random.default_rng(seed)
    ids = np.repeat(np.arange(len(sizes)), sizes)
    scores = {task: generator.beta(2, 3, len(ids)) for task in "abc"}
    return scores, {task: generator.permutation(ids) for task in scores}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", [[10] * 12, [30, 60, 5, 5, 1, 1, 1, 1], [3] * 80])
@pytest.mark.parametrize("least", [3, 7, 12])
def test_errors_with_hidden_cells_are_at_least_those_with_none(
    sizes: list[int], least: int, weighted: bool
) -> None:
    """And shares are those of all samples, whose number is known."""
    for seed in range(3):
        scores, ids = crowd(sizes, seed)
        weights = np.random.default_rng(seed).gamma(2, size=(3, sum(sizes)))
        held = dict(zip(scores, weights, strict=True)) if weighted else None
        whole = HistogramSketch.of(scores, 16, weights=held)
        shown = whole.hide(least)
        for tolerance in (0.0, 0.125, 0.3):
            exact = whole.subject_sums(scores, ids, tolerance, held)
            found = shown.subject_sums(scores, ids, tolerance, held)
            assert found.effective == pytest.approx(exact.effective, rel=1e-9)
            assert found.units == exact.units
            for kind in ("bias", "violation_rate"):
                assert getattr(found, kind)[0] >= getattr(exact, kind)[0] * (1 - 1e-9)
            audited = shown.audit(tolerance, found)
            assert np.isfinite([audited.bias_se, audited.violation_rate_se]).all()
            assert (
                audited.bias_interval()[0] <= whole.audit(tolerance, exact).bias <= audited.bias_interval()[1]
            )


def test_a_subject_with_more_samples_than_are_shown_has_an_error() -> None:
    scores, ids = crowd([60, 20, 20, 20], 1)
    sketch = HistogramSketch.of(scores, 128).hide(4)
    assert max(cells.sum() for cells in sketch.counts.values()) < 60
    sums = sketch.subject_sums(scores, ids, 0.1)
    assert sums.effective == pytest.approx(dict.fromkeys("abc", 1 / 3))
    assert 0 < sketch.audit(0.1, sums).bias_se < np.inf
    double = {task: np.tile(values, 2) for task, values in scores.items()}
    with pytest.raises(InputError, match="task 'a': the site has more samples than the histogram of all"):
        sketch.subject_sums(double, {task: np.tile(own, 2) for task, own in ids.items()}, 0.1)


SKETCH = HistogramSketch.of({"a": [0.1, 0.9], "b": [0.3, 0.2]}, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HistogramSketch.of({"a": [0.1], "b": [0.3]}, 16, tolerance=7.0), "tolerance is 7.0"),
        (
            lambda: HistogramSketch.of({"a": [0.1], "b": [0.3]}, 16, tolerance=3j),
            "tolerance must be a number",
        ),
        (
            lambda: HistogramSketch.of({"a": [0.1], "b": [0.3]}, 16, tolerance={("a", "b"): 0.1}),
            "holds one tolerance for all task pairs",
        ),
        (
            lambda: HistogramSketch.of({"a": [0.1], "b": [0.3]}, 16, score_definition=5),
            "score_definition must be text .* not a int",
        ),
        (lambda: SKETCH + 3, "merged with histograms, not with a int"),
        (lambda: SKETCH.site_sums([SKETCH], 0.1) + SKETCH, "not with a HistogramSketch"),
        (lambda: SKETCH.audit(0.1, 3), "errors are the influence sums of all sites, not a int"),
        *(
            (lambda sites=sites: SKETCH.site_sums(sites, 0.1), "must have the merged one's tasks a, b")
            for sites in (
                None,
                [3],
                [HistogramSketch.of({"a": [0.1], "c": [0.3]}, 16)],
                [HistogramSketch.of({"a": [0.1], "b": [0.3]}, 32)],
            )
        ),
    ],
)
def test_what_is_no_part_of_a_histogram_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_what_of_takes_from_json_reads() -> None:
    for tolerance in (0, 1, np.float32(0.25), 0.275, None):
        sketch = HistogramSketch.of({"a": [0.1], "b": [0.3]}, 16, tolerance=tolerance)
        assert HistogramSketch.from_json(sketch.to_json()).to_json() == sketch.to_json()
    assert sum([SKETCH, SKETCH], SKETCH).samples == {"a": 6, "b": 6}
    text = SKETCH.to_json().replace("[0, 1, 0", f"[0, {2**62}, 0", 1)
    with pytest.raises(RecordError, match="of fewer than 2⁴² samples"):
        HistogramSketch.from_json(text)
    both = SKETCH + SKETCH
    assert both.site_sums(iter([SKETCH] * 2), 0.1) == both.site_sums([SKETCH] * 2, 0.1)
