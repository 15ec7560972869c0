"""Standard errors: their formula, their agreement with a subject bootstrap, and the coverage of intervals."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from relif_core.audit import audit, compare, subject_bootstrap
from relif_core.audit.uncertainty import combined_error, interval, student_quantile
from relif_core.errors import InputError

TRUTH_POINTS = 200_001
TASKS = {"mortality": (-2.0, 1.2), "los": (0.5, 1.0)}


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def cohort(
    subjects: int, generator: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draw one to three stays per subject; a latent severity moves both tasks' scores, oppositely."""
    subject = np.repeat(np.arange(subjects), generator.integers(1, 4, subjects))
    severity = generator.normal(size=subjects)[subject]
    scores, ids = {}, {}
    for sign, (task, (mean, spread)) in zip((1, -1), TASKS.items(), strict=True):
        logits = mean + spread * (sign * 0.8 * severity + 0.6 * generator.normal(size=len(subject)))
        kept = generator.random(len(subject)) < 0.8
        kept[0] = True
        scores[task], ids[task] = sigmoid(logits)[kept], subject[kept] * 7 - 3
    return scores, ids


def truth(tolerance: float) -> tuple[float, float]:
    normal = stats.norm.ppf((np.arange(TRUTH_POINTS) + 0.5) / TRUTH_POINTS)
    result = audit(
        {task: sigmoid(mean + spread * normal) for task, (mean, spread) in TASKS.items()}, tolerance
    )
    return result.bias, result.violation_rate


def test_clustered_error_equals_its_formula_over_explicit_pairs() -> None:
    scores, ids = cohort(15, np.random.default_rng(5))
    x, y = scores["mortality"], scores["los"]
    for kind in ("bias", "violation_rate"):
        gap = np.abs(x[:, None] - y[None, :])
        kernel = np.maximum(gap - 0.275, 0) if kind == "bias" else (gap > 0.275).astype(float)
        share = dict.fromkeys(np.union1d(ids["mortality"], ids["los"]).tolist(), 0.0)
        for k, subject in enumerate(ids["mortality"].tolist()):
            share[subject] += (kernel[k].mean() - kernel.mean()) / len(x)
        for k, subject in enumerate(ids["los"].tolist()):
            share[subject] += (kernel[:, k].mean() - kernel.mean()) / len(y)
        values = np.array(list(share.values()))
        held = np.array([max((ids[task] == subject).mean() for task in ids) for subject in share])
        expected = math.sqrt((len(values) - 1) / len(values) * ((values / (1 - held)) ** 2).sum())
        result = audit(scores, 0.275, subjects=ids)
        assert getattr(result, f"{kind}_se") == pytest.approx(expected, rel=1e-12)
        assert getattr(result.per_pair[0], f"{kind}_se") == pytest.approx(expected, rel=1e-12)
        assert result.influences is not None
        assert result.influences.subjects.tolist() == list(share)
        assert result.influences.share == pytest.approx(held, rel=1e-12)
        assert getattr(result.influences, kind) == pytest.approx(values, abs=1e-15)


def test_leaving_a_subject_out_moves_an_estimate_by_its_influence_over_one_minus_its_share() -> None:
    generator = np.random.default_rng(4)
    scores = {task: generator.random(60) for task in "ab"}
    ids = {"a": generator.integers(0, 6, 60), "b": np.arange(100, 160)}
    whole = audit(scores, 0.2, subjects=ids)
    assert whole.influences is not None
    for subject in range(6):
        kept = ids["a"] != subject
        without = audit({"a": scores["a"][kept], "b": scores["b"]}, 0.2)
        for kind in ("bias", "violation_rate"):
            moved = getattr(whole.influences, kind)[subject] / (1 - whole.influences.share[subject])
            assert getattr(whole, kind) - getattr(without, kind) == pytest.approx(moved, abs=1e-14)


def test_equal_subjects_keep_the_plain_correction_and_all_degrees_of_freedom() -> None:
    generator = np.random.default_rng(6)
    scores = {task: generator.random(80) for task in "ab"}
    result = audit(scores, 0.2, subjects=dict.fromkeys("ab", np.arange(80) // 2))
    assert result.influences is not None
    expected = math.sqrt(40 / 39 * (result.influences.bias**2).sum())
    assert result.bias_se == pytest.approx(expected, rel=1e-12)
    assert result.freedom == 39
    assert result.effective_pairs == 20


def test_a_subject_with_half_of_the_samples_leaves_few_degrees_of_freedom() -> None:
    ids = np.concatenate([np.zeros(20, int), np.arange(1, 21)])
    scores = {task: np.random.default_rng(k).random(40) for k, task in enumerate("ab")}
    result = audit(scores, 0.2, subjects=dict.fromkeys("ab", ids))
    assert result.freedom == pytest.approx(40**2 / (20**2 + 20) - 1)
    assert result.bias_freedom <= result.freedom


def test_influences_of_normal_size_count_in_full_and_a_few_large_ones_as_few() -> None:
    normal = np.random.default_rng(0).normal(size=100_000)
    assert combined_error(normal, 1e9)[1] == pytest.approx(100_000, rel=0.02)
    few = np.zeros(1000)
    few[:3] = 1.0
    assert combined_error(few, 999)[1] == pytest.approx(6, rel=0.01)
    assert combined_error(normal, 10.0)[1] == 10


def test_error_without_subjects_is_that_of_independent_samples() -> None:
    generator = np.random.default_rng(0)
    scores = {task: generator.random(size) for task, size in (("a", 40), ("b", 30), ("c", 20))}
    result = audit(scores, 0.1)
    gaps = {
        pair: np.maximum(np.abs(scores[pair[0]][:, None] - scores[pair[1]][None, :]) - 0.1, 0)
        for pair in (("a", "b"), ("a", "c"), ("b", "c"))
    }
    of_a = (gaps["a", "b"].mean(1) + gaps["a", "c"].mean(1)) / 3
    of_b = (gaps["a", "b"].mean(0) + gaps["b", "c"].mean(1)) / 3
    of_c = (gaps["a", "c"].mean(0) + gaps["b", "c"].mean(0)) / 3
    expected = math.sqrt(sum(part.var(ddof=1) / len(part) for part in (of_a, of_b, of_c)))
    assert result.bias_se == pytest.approx(expected, rel=1e-12)
    assert (result.clustered_by, result.clusters, result.freedom) == ("sample", 90, 87)
    row = result.per_pair[0]
    parts = gaps["a", "b"].mean(1), gaps["a", "b"].mean(0)
    assert row.bias_se == pytest.approx(
        math.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)), rel=1e-12
    )


def test_repeating_every_stay_changes_nothing_when_clustered_by_subject() -> None:
    generator = np.random.default_rng(1)
    scores = {task: generator.random(50) for task in "ab"}
    ids = {task: np.arange(50) for task in "ab"}
    twice = audit(
        {task: np.tile(values, 2) for task, values in scores.items()},
        0.2,
        subjects={task: np.tile(values, 2) for task, values in ids.items()},
    )
    once = audit(scores, 0.2, subjects=ids)
    assert twice.bias == pytest.approx(once.bias, abs=1e-14)
    assert twice.bias_se == pytest.approx(once.bias_se, rel=1e-12)
    assert twice.clusters == once.clusters == 50


def test_subject_ids_may_be_text_and_need_no_order() -> None:
    scores, ids = cohort(30, np.random.default_rng(2))
    shuffled = np.random.default_rng(3).permutation(len(scores["los"]))
    as_text = {task: np.array([f"patient {value}" for value in values]) for task, values in ids.items()}
    moved_scores = {**scores, "los": scores["los"][shuffled]}
    moved_ids = {**as_text, "los": as_text["los"][shuffled].astype(object)}
    expected = audit(scores, 0.275, subjects=ids)
    found = audit(moved_scores, 0.275, subjects=moved_ids)
    assert found.bias_se == pytest.approx(expected.bias_se, rel=1e-12)
    assert found.pool_fingerprint == audit(scores, 0.275, subjects=as_text).pool_fingerprint


def test_agrees_with_the_subject_bootstrap() -> None:
    scores, ids = cohort(300, np.random.default_rng(7))
    result = audit(scores, 0.275, subjects=ids)
    bias, rate = subject_bootstrap(scores, 0.275, ids, replicates=600, seed=1)
    assert result.bias_se == pytest.approx(bias.std(ddof=1), rel=0.1)
    assert result.violation_rate_se == pytest.approx(rate.std(ddof=1), rel=0.1)
    by_sample = audit(scores, 0.275)
    assert by_sample.bias_se < 0.8 * result.bias_se, (
        "one subject moves both pools, which independent samples miss"
    )


def test_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(11)
    bias, rate = truth(0.275)
    hits = np.zeros(2)
    for _ in range(1000):
        scores, ids = cohort(120, generator)
        result = audit(scores, 0.275, subjects=ids)
        for kind, (value, (low, high)) in enumerate(
            [(bias, result.bias_interval()), (rate, result.violation_rate_interval())]
        ):
            hits[kind] += low <= value <= high
    assert (hits / 1000 >= 0.93).all(), hits
    assert (hits / 1000 <= 0.97).all(), hits


def test_paired_comparison_is_narrower_and_covers() -> None:
    generator = np.random.default_rng(12)
    hits = 0
    for _ in range(400):
        scores, ids = cohort(100, generator)
        other = {
            task: np.clip(values * 0.9 + 0.02 * generator.random(len(values)), 0, 1)
            for task, values in scores.items()
        }
        a, b = audit(scores, 0.2, subjects=ids), audit(other, 0.2, subjects=ids)
        comparison = compare(a, b)
        assert comparison.paired
        assert comparison.standard_error < 0.6 * math.hypot(a.bias_se, b.bias_se)
        difference = TRUE_SHRINK_DIFFERENCE
        hits += comparison.interval[0] <= difference <= comparison.interval[1]
    assert 0.92 <= hits / 400 <= 0.98


def _shrink_difference() -> float:
    normal = stats.norm.ppf((np.arange(20_001) + 0.5) / 20_001)
    scores = {task: sigmoid(mean + spread * normal) for task, (mean, spread) in TASKS.items()}
    uniform = 0.02 * np.random.default_rng(0).random(20_001)
    noisy = {
        task: values * 0.9 + np.random.default_rng(k).permutation(uniform)
        for k, (task, values) in enumerate(scores.items())
    }
    return audit(scores, 0.2).bias - audit(noisy, 0.2).bias


TRUE_SHRINK_DIFFERENCE = _shrink_difference()


@pytest.mark.parametrize("level", [0.1, 0.8, 0.95, 0.99, 1 - 1e-9])
@pytest.mark.parametrize("freedom", [0.23, 1, 1.5, 2, 3, 5, 10, 30, 999.9, 1000, 10**6])
def test_student_quantile(level: float, freedom: int) -> None:
    probability = (1 + level) / 2
    expected = stats.t.ppf(probability, freedom)
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9)


def test_one_independent_unit_has_no_standard_error() -> None:
    result = audit({"a": [0.1, 0.2], "b": [0.9]}, 0.2, subjects={"a": [4, 4], "b": [4]})
    assert math.isnan(result.bias_se)
    assert math.isnan(result.bias_interval()[0])
    assert math.isnan(audit({"a": [0.1], "b": [0.9, 0.8]}, 0.2).bias_se)


def test_intervals_stay_within_the_unit_range_and_need_a_level() -> None:
    result = audit({"a": [0.0, 0.5, 0.1], "b": [0.3, 1.0]}, 0.2)
    low, high = result.violation_rate_interval(0.999)
    assert 0 <= low < high <= 1
    assert interval(0.5, 0.1, 0.95, 10**9) == pytest.approx((0.304, 0.696), abs=1e-3)
    with pytest.raises(InputError, match="probabilities from"):
        student_quantile(0.4, 3)
    assert student_quantile(0.5, 3) == student_quantile(0.5, 5000) == 0
    for level in (0.0, 1.0, 95):
        with pytest.raises(InputError, match="level must lie between 0 and 1"):
            result.bias_interval(level)


@pytest.mark.parametrize(("subjects", "pairs"), [({"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}, 2), (None, 4)])
def test_no_violation_seen_is_bounded_by_the_independent_pairs(subjects: Any, pairs: int) -> None:
    result = audit({"a": [0.1, 0.2, 0.1, 0.2], "b": [0.15, 0.1, 0.2, 0.1]}, 0.5, subjects=subjects)
    assert (result.bias, result.violation_rate, result.bias_se, result.violation_rate_se) == (0, 0, 0, 0)
    low, high = result.violation_rate_interval()
    assert low == 0
    assert (1 - high) ** pairs == pytest.approx(0.05)
    assert result.bias_interval() == (0, pytest.approx(0.5 * high))
    assert result.per_pair[0].violation_rate_interval() == (low, high)
    low, high = compare(result, result).violation_rate_interval
    assert -low == high > 0


def test_bound_on_the_unseen_holds_where_it_is_sharpest() -> None:
    """Both tasks share one rare bit per subject: no bit seen is as likely as the bound says."""
    rate = 2 * 0.02 * 0.98
    for subjects in (10, 40, 100):
        unseen = 0.98**subjects
        high = audit(
            {task: np.zeros(subjects) for task in "ab"},
            0.3,
            subjects=dict.fromkeys("ab", np.arange(subjects)),
        ).violation_rate_interval(1 - unseen)[1]
        assert rate <= high == pytest.approx(rate, rel=0.02)


def test_every_pair_violating_leaves_room_below() -> None:
    result = audit({"a": [0.0, 0.01], "b": [1.0, 0.99]}, 0.5)
    low, high = result.violation_rate_interval()
    assert (result.violation_rate, high) == (1, 1)
    assert low**2 == pytest.approx(0.05)
