"""The sampled protocol: its order of draws, its error, its relation to the exact protocol."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import audit, audit_card, card_markdown, compare
from relif_core.errors import ComparabilityError


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


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-30, 30))
def test_pairs_are_drawn_by_weight_whatever_its_scale_and_never_of_weight_0(seed: int, power: int) -> None:
    generator = np.random.default_rng(seed)
    scores = {task: generator.random(int(generator.integers(4, 40))) for task in "abc"}
    times = {task: generator.integers(0, 4, len(own)) for task, own in scores.items()}
    ids = {task: generator.integers(0, 30, len(own)) for task, own in scores.items()}
    for task in scores:
        times[task][:2], ids[task][:2] = 1, (0, 1)
    given_ = {"tolerance": 0.2, "protocol": "sampled", "pairs": 200, "pair_seed": seed}
    found = audit(scores, **given_, subjects=ids, weights=times)
    scaled = {task: own * 2.0**power for task, own in times.items()}
    assert audit(scores, **given_, subjects=ids, weights=scaled) == found
    kept = [{task: part[task][own > 0] for task, own in times.items()} for part in (scores, ids, times)]
    fewer = audit(kept[0], **given_, subjects=kept[1], weights=kept[2])
    for name in ("bias", "violation_rate", "draw_errors"):
        assert getattr(fewer, name) == getattr(found, name)
    assert (fewer.bias_se, fewer.clusters) == (pytest.approx(found.bias_se), found.clusters)
    exact = audit(scores, 0.2, subjects=ids, weights=times)
    assert found.bias_se == pytest.approx(math.hypot(exact.bias_se, found.draw_errors[0]))


@pytest.mark.parametrize("pool_size", [8, 256])
def test_over_seeds_the_mean_is_the_weighted_exact_value(pool_size: int) -> None:
    generator = np.random.default_rng(3)
    scores = {task: generator.random(60) for task in "ab"}
    weights = {task: own**4 for task, own in scores.items()}
    weights["b"] = weights["b"][::-1]
    exact = audit(scores, 0.2, weights=weights)
    drawn = [
        audit(scores, 0.2, protocol="sampled", pair_seed=k, pool_size=pool_size, pairs=64, weights=weights)
        for k in range(600)
    ]
    for place, kind in enumerate(("bias", "violation_rate")):
        values = np.array([getattr(one, kind) for one in drawn])
        assert abs(values.mean() - getattr(exact, kind)) < 4 * values.std() / np.sqrt(600)
        stated = math.sqrt(np.mean([one.draw_errors[place] ** 2 for one in drawn]))
        assert stated == pytest.approx(values.std(), rel=0.1)


def test_weighted_draws_by_hand_compare_and_are_told() -> None:
    """One pair has all the weight: 0.9 against 0.1, beyond the tolerance by 0.3."""
    scores, weights = {"a": [0.9, 0.5], "b": [0.5, 0.1]}, {"a": [5, 0], "b": [0, 2]}
    settings_ = {"tolerance": 0.5, "protocol": "sampled", "pairs": 10}
    found = audit(scores, **settings_, weights=weights)
    assert (found.bias, found.violation_rate) == (pytest.approx(0.3), 1)
    assert (found.pool_size, found.pairs, found.pair_seed) == (None, 10, 42)
    assert found.notes == ("samples are drawn in proportion to their weights",)
    assert "10 drawn from whole pools, by weight, pair seed 42" in card_markdown(audit_card(found, model="m"))
    assert audit(scores, **settings_, weights=weights, groups={"a": [0, 1], "b": [1, 0]}).groups_left_out
    ids = {"a": [1, 2], "b": [1, 2]}
    one = audit(scores, **settings_, weights={"a": [1, 3], "b": [1, 1]}, subjects=ids)
    assert (
        compare(one, audit(scores, **settings_, weights={"a": [2, 6], "b": [1, 1]}, subjects=ids)).difference
        == 0
    )
    with pytest.raises(ComparabilityError, match="pool differs"):
        compare(one, audit(scores, **settings_, weights={"a": [3, 1], "b": [1, 1]}, subjects=ids))


def test_exact_protocol_has_no_seed() -> None:
    result = audit({"a": [0.1], "b": [0.9]}, 0.2, pair_seed=7, pool_size=3, pairs=1)
    assert (result.pair_seed, result.pool_size, result.pairs) == (None, None, None)
