"""The sampled protocol: its order of draws, its error, its relation to the exact protocol."""

import math

import numpy as np
import pytest

from relif_core.audit import audit


def test_draws_follow_the_published_order() -> None:
    source = np.random.default_rng(0)
    scores = {"a": source.random(300).astype(np.float32), "b": source.random(100).astype(np.float32)}
    generator = np.random.default_rng(42)
    pool_a = scores["a"][generator.choice(300, 256, replace=False)]
    x = pool_a[generator.integers(0, 256, 4096)]
    y = scores["b"][generator.integers(0, 100, 4096)]
    gap = np.abs(x - y)
    result = audit(scores, 0.2, protocol="sampled")
    assert result.bias == pytest.approx(float(np.maximum(gap - np.float32(0.2), 0).mean()), rel=1e-6)
    assert result.violation_rate == np.mean(gap > np.float32(0.2))
    assert (result.protocol, result.pair_seed, result.pool_size, result.pairs) == ("sampled", 42, 256, 4096)


def test_standard_error_matches_the_spread_over_cohorts_and_seeds() -> None:
    generator = np.random.default_rng(1)
    results = [
        audit(
            {"a": generator.beta(2, 5, 400), "b": generator.beta(4, 3, 400)},
            0.15,
            protocol="sampled",
            pair_seed=seed,
            pool_size=64,
            pairs=256,
        )
        for seed in range(800)
    ]
    for kind in ("bias", "violation_rate"):
        spread = np.std([getattr(result, kind) for result in results])
        stated = math.sqrt(np.mean([getattr(result, f"{kind}_se") ** 2 for result in results]))
        assert stated == pytest.approx(spread, rel=0.1)


def test_subjects_outside_the_sampled_pool_carry_no_influence() -> None:
    generator = np.random.default_rng(2)
    scores = {task: generator.random(100) for task in "ab"}
    subjects = {task: np.arange(100) for task in "ab"}
    result = audit(scores, 0.2, subjects=subjects, protocol="sampled", pool_size=20)
    assert result.influences is not None
    assert len(result.influences.subjects) == result.clusters <= 40
    assert result.influences.bias.sum() == pytest.approx(0, abs=1e-15)


def test_exact_protocol_has_no_seed() -> None:
    result = audit({"a": [0.1], "b": [0.9]}, 0.2, pair_seed=7, pool_size=3, pairs=1)
    assert (result.pair_seed, result.pool_size, result.pairs) == (None, None, None)
