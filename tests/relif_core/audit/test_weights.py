"""Sample weights: whole numbers are repeated samples, equal ones change nothing, only ratios count."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import audit, bias_curve, compare, subject_bootstrap
from relif_core.errors import ComparabilityError, InputError
from tests.relif_core.audit.brute_force import pools, tolerances

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(first=pools(least=2, most=60), second=pools(least=2, most=60), tolerance=tolerances, seed=SEEDS)
def test_whole_weights_are_repeated_samples(first, second, tolerance: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = {"a": first, "b": second}
    times = {task: generator.integers(0, 5, len(values)) for task, values in scores.items()}
    for own in times.values():
        own[0] = 1
    ids = {task: generator.integers(0, 9, len(values)) for task, values in scores.items()}
    groups = {task: own % 2 for task, own in ids.items()}
    found = audit(scores, tolerance, subjects=ids, groups=groups, weights=times)
    repeated, people, labels = (
        {task: np.repeat(part[task], times[task]) for task in part} for part in (scores, ids, groups)
    )
    wanted = audit(repeated, tolerance, subjects=people, groups=labels)
    assert found.groups.keys() == wanted.groups.keys()
    parts = [(found, wanted), *((found.groups[label], one) for label, one in wanted.groups.items())]
    for own, other in parts:
        for name in ("bias", "violation_rate", "bias_se", "violation_rate_se", "freedom"):
            assert getattr(own, name) == pytest.approx(getattr(other, name), abs=1e-9, nan_ok=True)
        assert own.clusters == other.clusters
    curve, plain = bias_curve(scores, [tolerance], weights=times), bias_curve(repeated, [tolerance])
    assert curve.bias == pytest.approx(plain.bias, abs=1e-12)
    assert curve.violation_rate == pytest.approx(plain.violation_rate, abs=1e-12)


def test_the_bootstrap_draws_weights_along() -> None:
    generator = np.random.default_rng(3)
    level = generator.random(120)
    ids = dict.fromkeys("ab", np.repeat(np.arange(120), 2))
    scores = {task: np.clip(level[own] + generator.normal(0, 0.2, 240), 0, 1) for task, own in ids.items()}
    weights = {task: generator.integers(0, 4, 240) for task in "ab"}
    drawn = subject_bootstrap(scores, 0.2, ids, replicates=300, weights=weights)
    repeated, people = ({t: np.repeat(part[t], weights[t]) for t in part} for part in (scores, ids))
    plain = subject_bootstrap(repeated, 0.2, people, replicates=300)
    for own, other in zip(drawn, plain, strict=True):
        assert own == pytest.approx(other, abs=1e-12)
    found = audit(scores, 0.2, subjects=ids, weights=weights)
    assert found.bias_se == pytest.approx(drawn[0].std(ddof=1), rel=0.15)
    rare = {"a": np.r_[1, np.zeros(239)], "b": np.ones(240)}
    assert np.isfinite(subject_bootstrap(scores, 0.2, ids, replicates=20, weights=rare)).all()


def test_by_hand() -> None:
    """P(x = 1) = 3/4 and y = 0: an excess of 0.8 three times out of four."""
    found = audit({"a": [1.0, 0.0], "b": [0.0, 0.0]}, 0.2, weights={"a": [3, 1], "b": [1, 1]})
    assert found.bias == pytest.approx(0.6)
    assert found.violation_rate == pytest.approx(0.75)


def test_only_ratios_count_and_another_weighting_is_another_pool() -> None:
    generator = np.random.default_rng(0)
    scores = {task: generator.random(50) for task in "ab"}
    ids, weights = dict.fromkeys("ab", np.arange(50)), {task: generator.random(50) for task in "ab"}
    one = audit(scores, 0.2, subjects=ids, weights=weights)
    ten = audit(scores, 0.2, subjects=ids, weights={task: 10 * own for task, own in weights.items()})
    assert ten.bias == pytest.approx(one.bias, abs=1e-15)
    assert compare(one, ten).standard_error == pytest.approx(0, abs=1e-15)
    equal = audit(scores, 0.2, subjects=ids, weights=dict.fromkeys("ab", np.ones(50)))
    plain = audit(scores, 0.2, subjects=ids)
    assert equal.bias == pytest.approx(plain.bias, abs=1e-14)
    assert equal.bias_se == pytest.approx(plain.bias_se, rel=1e-12)
    with pytest.raises(ComparabilityError, match="pool differs"):
        compare(one, plain)
    alone = audit(scores, 0.2, weights=weights)
    assert (alone.clustered_by, alone.clusters, alone.influences) == ("sample", 100, None)


def test_a_frame_names_the_column() -> None:
    generator = np.random.default_rng(1)
    frame = pd.DataFrame({"a": generator.random(30), "b": generator.random(30), "w": generator.random(30)})
    found = audit(frame, 0.2, weights="w")
    wanted = audit(
        {task: frame[task] for task in "ab"},
        0.2,
        subjects=dict.fromkeys("ab", np.arange(30)),
        weights=dict.fromkeys("ab", frame["w"]),
    )
    assert found == wanted


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1], "weights must map task names"),
        ({"a": [1, 1]}, "task 'b': weights are missing"),
        ({"a": [1, 1], "b": [1]}, "task 'b': weights are misaligned"),
        ({"a": [1, 1], "b": [1, -1]}, "task 'b': 1 of 2 weights are negative"),
        ({"a": [1, 1], "b": [0, 0]}, "some are above"),
        ({"a": [1, 1], "b": [1, None]}, "1 of 2 weights are missing"),
        ({"a": [1, 1], "b": [1, np.nan]}, "1 of 2 weights are missing"),
        ({"a": [1, 1], "b": ["1", "2"]}, "weights must be real numbers"),
    ],
)
def test_bad_weights_are_named(weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        audit({"a": [0.1, 0.2], "b": [0.3, 0.9]}, 0.2, weights=weights)
