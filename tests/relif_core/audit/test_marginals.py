"""Theorems T1 to T4: what two marginal distributions do to Bias, on random marginals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import audit, bias_parts, coupling_bounds, shrunk
from relif_core.audit.exact import pair_terms
from relif_core.audit.pools import sorted_pool
from relif_core.errors import InputError
from tests.relif_core.audit.brute_force import pools, tolerances

MANY = settings(max_examples=1000, deadline=None)


def bias(first: np.ndarray, second: np.ndarray, tolerance: float) -> float:
    return pair_terms(sorted_pool(first), sorted_pool(second), tolerance).bias


def coarsened(values: np.ndarray, seed: int) -> np.ndarray:
    """Replace scores by their group's mean, E[p | G], for groups that need not follow their order."""
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, generator.integers(1, len(values) + 1), len(values))
    sums, counts = np.bincount(groups, values.astype(float)), np.bincount(groups)
    return np.clip(sums[groups] / counts[groups], 0, 1)


@MANY
@given(first=pools(most=60), second=pools(most=60), tolerance=tolerances, seed=st.integers(0, 2**32 - 1))
def test_t1_coarser_scores_have_no_more_bias(first, second, tolerance: float, seed: int) -> None:
    full = bias(first, second, tolerance)
    half = bias(coarsened(first, seed), second, tolerance)
    assert half <= full + 1e-12
    assert bias(coarsened(first, seed), coarsened(second, seed + 1), tolerance) <= half + 1e-12


@MANY
@given(seed=st.integers(0, 2**32 - 1), most=st.integers(2, 60), tolerance=tolerances)
def test_t1_calibrated_binary_scores_lie_between_base_rates_and_the_perfect_predictor(
    seed: int, most: int, tolerance: float
) -> None:
    generator = np.random.default_rng(seed)
    labels = [generator.integers(0, 2, int(generator.integers(2, most + 1))).astype(float) for _ in range(2)]
    calibrated = [coarsened(outcomes, seed + k) for k, outcomes in enumerate(labels)]
    value = bias(*calibrated, tolerance)
    rates = [outcomes.mean() for outcomes in labels]
    assert max(abs(rates[0] - rates[1]) - tolerance, 0) <= value + 1e-12
    assert value <= bias(*labels, tolerance) + 1e-12


def test_t1_fails_for_top_labels() -> None:
    """Information takes task A's maximum from 0.5 to 1, towards task B's constant 0.9."""
    assert bias(np.array([0.5]), np.array([0.9]), 0.05) == pytest.approx(0.35)
    assert bias(np.array([1.0]), np.array([0.9]), 0.05) == pytest.approx(0.05)


@MANY
@given(
    first=pools(most=60),
    second=pools(most=60),
    tolerance=tolerances,
    amount=st.floats(0, 0.99),
    centre=st.floats(0, 1),
)
def test_t2_shrinkage_divides_the_tolerance_and_keeps_ranks(
    first, second, tolerance: float, amount: float, centre: float
) -> None:
    moved = shrunk({"a": first, "b": second}, amount, centre)
    expected = (1 - amount) * bias(first, second, min(1.0, tolerance / (1 - amount)))
    assert bias(moved["a"], moved["b"], tolerance) == pytest.approx(expected, abs=1e-9)
    assert bias(moved["a"], moved["b"], tolerance) <= bias(first, second, tolerance) + 1e-12
    order = np.argsort(first, kind="stable")
    assert (np.diff(moved["a"][order]) >= 0).all()


@MANY
@given(first=pools(most=60), second=pools(most=60))
def test_t3_energy_identity(first, second) -> None:
    x, y = first.astype(float), second.astype(float)
    mean_differences = [np.abs(values[:, None] - values).mean() for values in (x, y)]
    ends = np.unique(np.concatenate([x, y]))
    difference = (x[:, None] <= ends).mean(axis=0) - (y[:, None] <= ends).mean(axis=0)
    integral = float(np.sum(difference[:-1] ** 2 * np.diff(ends)))
    parts = bias_parts(first, second)
    assert parts.spread == pytest.approx(sum(mean_differences) / 2, abs=1e-9)
    assert parts.mismatch == pytest.approx(integral, abs=1e-9)
    assert parts.bias == pytest.approx(bias(first, second, 0.0), abs=1e-12)


def test_t3_mismatch_can_be_negative_at_a_positive_tolerance() -> None:
    parts = bias_parts([0.0, 1.0], [0.5], 0.5)
    assert parts.bias == 0
    assert (parts.spread, parts.mismatch) == (0.125, -0.125)


@MANY
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 60), tolerance=tolerances)
def test_t4_every_pairing_and_independence_lie_between_the_two_monotone_ones(
    seed: int, size: int, tolerance: float
) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.choice([generator.random((2, size)), generator.integers(0, 4, (2, size)) / 3])
    low, high = coupling_bounds(x, y, tolerance)
    paired = np.maximum(np.abs(x - generator.permutation(y)) - tolerance, 0).mean()
    for value in (paired, bias(x, y, tolerance)):
        assert low - 1e-12 <= value <= high + 1e-12


@MANY
@given(scores=st.lists(pools(most=40), min_size=3, max_size=3), tolerance=st.floats(0, 1))
def test_t5_three_tasks_have_at_most_two_thirds_of_the_largest_bias(scores, tolerance: float) -> None:
    value = audit(dict(zip("abc", scores, strict=True)), tolerance).bias
    assert value <= 2 / 3 * (1 - tolerance) + 1e-12
    corner = audit({"a": [0.0], "b": [1.0], "c": [1.0]}, tolerance).bias
    assert corner == pytest.approx(2 / 3 * (1 - tolerance), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coupling_bounds([0.1], [0.1, 0.2], 0.1), "one length, got 1 and 2"),
        (lambda: coupling_bounds([0.1], [0.1], -0.1), "negative"),
        (lambda: bias_parts([0.1], []), "pool is empty"),
        (lambda: shrunk({"a": [0.1], "b": [0.2]}, 1.5, 0.5), "amount must be a number"),
        (lambda: shrunk({"a": [0.1], "b": [0.2]}, 0.5, np.nan), "centre must be a number"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
