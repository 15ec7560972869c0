"""The exact protocol equals brute force and obeys the theorems that hold for it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import audit, bias_curve, exact
from relif_core.audit.exact import reach
from relif_core.audit.pools import Pool, sorted_pool
from relif_core.audit.sorting import sorted_with_order
from tests.relif_core.audit.brute_force import GRID, all_pairs, pools, tolerances


@settings(max_examples=300, deadline=None)
@given(first=pools(), second=pools(), tolerance=tolerances)
def test_equals_brute_force_on_two_tasks(first: np.ndarray, second: np.ndarray, tolerance: float) -> None:
    bias, rate = all_pairs({"a": first, "b": second}, {("a", "b"): tolerance})
    result = audit({"a": first, "b": second}, tolerance)
    assert result.bias == pytest.approx(bias, abs=1e-12)
    assert result.violation_rate == pytest.approx(rate, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(scores=st.lists(pools(most=60), min_size=3, max_size=5), seed=st.integers(0, 1000))
def test_equals_brute_force_on_more_tasks_with_a_tolerance_per_pair(
    scores: list[np.ndarray], seed: int
) -> None:
    named = {f"task {k}": pool for k, pool in enumerate(scores)}
    generator = np.random.default_rng(seed)
    per_pair = {pair: float(generator.choice(GRID)) for pair in itertools.combinations(named, 2)}
    bias, rate = all_pairs(named, per_pair)
    result = audit(named, {pair[::-1]: value for pair, value in per_pair.items()})
    assert result.bias == pytest.approx(bias, abs=1e-12)
    assert result.violation_rate == pytest.approx(rate, abs=1e-12)
    for row in result.per_pair:
        pair_scores = {task: named[task] for task in row.tasks}
        assert (row.bias, row.violation_rate) == pytest.approx(all_pairs(pair_scores, per_pair), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(first=pools(), second=pools(), deltas=st.lists(tolerances, min_size=1, max_size=20))
def test_curve_equals_the_audit_at_every_tolerance(
    first: np.ndarray, second: np.ndarray, deltas: list[float]
) -> None:
    scores = {"a": first, "b": second}
    curve = bias_curve(scores, deltas)
    for position, delta in enumerate(deltas):
        result = audit(scores, delta)
        assert curve.bias[position] == pytest.approx(result.bias, abs=1e-15)
        assert curve.violation_rate[position] == result.violation_rate


def test_a_curve_of_large_pools_equals_the_audit() -> None:
    """Beyond a few thousand scores a curve has passes of its own."""
    generator = np.random.default_rng(0)
    scores = {"a": generator.random(4_000), "b": np.round(generator.random(3_000), 2)}
    deltas = [0.0, 0.1, 0.275, 0.9999]
    curve = bias_curve(scores, deltas)
    results = [audit(scores, delta) for delta in deltas]
    assert curve.bias == pytest.approx([result.bias for result in results], abs=1e-15)
    assert curve.violation_rate.tolist() == [result.violation_rate for result in results]


@settings(max_examples=60, deadline=None)
@given(first=pools(), second=pools(), deltas=st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_monotone_lipschitz_and_convex_in_the_tolerance(
    first: np.ndarray, second: np.ndarray, deltas: list[float]
) -> None:
    grid = np.sort(deltas)
    curve = bias_curve({"a": first, "b": second}, grid)
    steps = np.diff(grid)
    falls = -np.diff(curve.bias)
    assert (falls >= -1e-13).all()
    assert (falls <= curve.violation_rate[:-1] * steps + 1e-13).all()
    assert (falls >= curve.violation_rate[1:] * steps - 1e-13).all()
    assert (np.diff(curve.violation_rate) <= 0).all()


@settings(max_examples=60, deadline=None)
@given(first=pools(), second=pools(), tolerance=tolerances)
def test_order_of_tasks_and_samples_and_mirroring_do_not_matter(
    first: np.ndarray, second: np.ndarray, tolerance: float
) -> None:
    result = audit({"a": first, "b": second}, tolerance)
    swapped = audit({"b": second[::-1], "a": first[::-1]}, tolerance)
    assert swapped.bias == pytest.approx(result.bias, abs=1e-13)
    assert swapped.violation_rate == result.violation_rate
    mirrored = audit({"a": 1 - first.astype(float), "b": 1 - second.astype(float)}, tolerance)
    assert mirrored.bias == pytest.approx(result.bias, abs=1e-12)


def test_gap_equal_to_the_tolerance_is_no_violation() -> None:
    assert audit({"a": [0.5], "b": [0.75, 0.25]}, 0.25).violation_rate == 0.0
    assert audit({"a": [0.5], "b": [np.nextafter(0.75, 1), 0.25]}, 0.25).violation_rate == 0.5


def test_comparison_is_that_of_float64_where_rounding_decides() -> None:
    assert 0.4 - 0.1 > 0.3
    assert not 0.4 > 0.1 + 0.3
    assert audit({"a": [0.1], "b": [0.4]}, 0.3).violation_rate == 1.0


def test_hand_worked_case() -> None:
    result = audit({"a": [0.0, 1.0], "b": [0.2, 0.5, 0.9]}, 0.25)
    assert result.bias == pytest.approx((0.25 + 0.65 + 0.55 + 0.25) / 6, abs=1e-15)
    assert result.violation_rate == pytest.approx(4 / 6)


@settings(max_examples=300, deadline=None)
@given(first=pools(), second=pools(), tolerance=tolerances, block=st.sampled_from([1, 8, 1 << 14]))
def test_blocks_count_across_as_all_pairs_do(
    first: np.ndarray, second: np.ndarray, tolerance: float, block: int
) -> None:
    low, high = (np.sort(np.abs(values.astype(np.float64))) for values in (first, second))
    within, exceeded = np.full(len(low), -1), np.full(len(high), -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_SMALL", 0)
        patch.setattr(exact, "_BLOCK", block)
        exact.cross(low, high, tolerance, within, exceeded)
    above = high[None, :] - low[:, None] > tolerance
    assert (within == len(high) - above.sum(axis=1)).all()
    assert (exceeded == above.sum(axis=0)).all()


@settings(max_examples=200, deadline=None)
@given(values=pools(), tolerance=tolerances)
def test_reach_is_the_last_number_within_the_tolerance(values: np.ndarray, tolerance: float) -> None:
    values = np.abs(values.astype(np.float64))
    top = reach(values, tolerance)
    assert (top - values <= tolerance).all()
    assert (np.nextafter(top, 9) - values > tolerance).all()


@given(values=pools())
def test_sorting_order_sorts(values: np.ndarray) -> None:
    order = sorted_with_order(values)[1]
    assert (np.sort(order) == np.arange(len(values))).all()
    assert (values[order] == np.sort(values)).all()


@settings(max_examples=60, deadline=None)
@given(values=pools(), single=st.booleans(), seed=st.integers(0, 1000))
def test_sorted_pools_keep_every_score_with_its_code(values: np.ndarray, single: bool, seed: int) -> None:
    values = values.astype(np.float32) if single else values
    codes = np.random.default_rng(seed).integers(0, len(values), len(values))
    pool = sorted_pool(values, codes)
    assert pool.values.dtype == np.float64
    assert (pool.values == np.sort(values)).all()
    assert not np.signbit(pool.values).any()
    found = np.lexsort((pool.codes, pool.values))
    expected = np.lexsort((codes, values))
    assert (pool.codes[found] == codes[expected]).all()


def test_prefix_sums_keep_their_precision_over_long_constant_pools() -> None:
    pool = Pool(np.full(3_000_001, 0.1))
    assert pool.prefix[-1] == pytest.approx(0.1 * 3_000_001, rel=1e-14)
    assert pool.prefix[0] == 0
    assert pool.prefix[2_999_999] == pytest.approx(0.1 * 2_999_999, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, bool])
def test_other_kinds_of_numbers_are_read_as_their_values(dtype: type) -> None:
    first, second = np.array([0, 1, 1], dtype), np.array([0, 0, 1], dtype)
    expected = audit({"a": first.astype(float), "b": second.astype(float)}, 0.275)
    assert audit({"a": first, "b": second}, 0.275).bias == expected.bias


def test_large_pools_agree_with_a_histogram_of_their_ties() -> None:
    generator = np.random.default_rng(3)
    counts_a, counts_b = generator.integers(1, 20_000, 21), generator.integers(1, 20_000, 21)
    scores = {"a": np.repeat(GRID, counts_a), "b": np.repeat(GRID, counts_b)}
    gap = np.abs(GRID[:, None] - GRID[None, :])
    weight = np.outer(counts_a / counts_a.sum(), counts_b / counts_b.sum())
    result = audit(scores, 0.275)
    assert result.bias == pytest.approx(float((weight * np.maximum(gap - 0.275, 0)).sum()), abs=1e-12)
    assert result.violation_rate == pytest.approx(float((weight * (gap > 0.275)).sum()), abs=1e-12)
