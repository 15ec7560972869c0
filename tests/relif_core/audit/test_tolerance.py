"""Induced tolerances, and calibration by theorem B.3."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import calibration_pairs, conformal_tolerance, induced_tolerances, reference_distances
from relif_core.errors import InputError


def test_prototypes_are_the_highest_scores_and_ties_go_to_the_lower_index() -> None:
    embeddings = {"a": np.eye(4), "b": np.eye(4)}
    scores = {"a": [0.5, 0.9, 0.5, 0.1], "b": [0.0, 1.0, 0.0, 0.0]}
    assert induced_tolerances(embeddings, scores, k=1) == {("a", "b"): pytest.approx(0.0, abs=1e-15)}
    cosine = 1 / np.sqrt(2) * 1 / np.sqrt(2) + 1 / np.sqrt(2) * 1 / np.sqrt(2)
    assert induced_tolerances(embeddings, scores, k=2)["a", "b"] == pytest.approx((1 - cosine) / 2, abs=1e-15)


def test_opposite_prototypes_have_tolerance_one_and_scale_does_not_matter() -> None:
    embeddings = {"a": np.ones((2, 3)), "b": -7 * np.ones((9, 3)), "c": 1e-3 * np.ones((9, 3))}
    scores = {"a": [0.1, 0.2], "b": np.linspace(0, 1, 9), "c": np.linspace(0, 1, 9)}
    found = induced_tolerances(embeddings, scores)
    assert found == {
        ("a", "b"): pytest.approx(1),
        ("a", "c"): pytest.approx(0, abs=1e-15),
        ("b", "c"): pytest.approx(1),
    }
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize(
    ("embeddings", "k", "message"),
    [
        ({"a": np.ones((2, 3)), "b": np.ones((2, 3))}, 0, "k must be an integer of at least 1"),
        ({"a": np.ones((2, 3))}, 5, "task 'b': embeddings are missing"),
        ({"a": np.ones((2, 3)), "b": np.ones((3, 3))}, 5, r"task 'b': embeddings are misaligned, \(3, 3\)"),
        ({"a": np.ones((2, 3)), "b": np.ones(2)}, 5, r"task 'b': embeddings have shape \(2,\)"),
        ({"a": np.ones((2, 3)), "b": np.ones((2, 4))}, 5, "differ in width"),
        ({"a": np.ones((2, 3)), "b": np.zeros((2, 3))}, 5, "task 'b': the prototype has length 0"),
        ({"a": np.ones((2, 3)), "b": np.full((2, 3), np.nan)}, 5, "task 'b': embeddings .* are not finite"),
    ],
)
def test_embeddings_are_checked(embeddings: dict[str, Any], k: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        induced_tolerances(embeddings, {"a": [0.1, 0.2], "b": [0.3, 0.4]}, k)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 6))
def test_samples_of_weight_0_are_in_no_prototype_and_other_weights_change_nothing(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    embeddings = {task: generator.normal(size=(12, 3)) for task in "ab"}
    scores = {task: np.round(generator.random(12), 1) for task in "ab"}
    weights = {task: generator.gamma(1, size=12) * (generator.random(12) > 0.4) + 1e-9 for task in "ab"}
    assert induced_tolerances(embeddings, scores, k, weights=weights) == induced_tolerances(
        embeddings, scores, k
    )
    kept = {task: own > 0.1 for task, own in weights.items()}
    parts = ({task: part[task][kept[task]] for task in "ab"} for part in (embeddings, scores))
    if all(own.any() for own in kept.values()):
        found = induced_tolerances(
            embeddings, scores, k, weights={t: own.astype(int) for t, own in kept.items()}
        )
        assert found == induced_tolerances(*parts, k)


def test_calibration_refuses_weights() -> None:
    with pytest.raises(
        InputError, match=r"takes no weights: .*B\.3.* exchangeable .*; calibrate on data drawn as"
    ):
        conformal_tolerance([0.1, 0.2], 0.5, weights=[1, 2])  # type: ignore[arg-type]


@given(subjects=st.lists(st.integers(0, 30), min_size=2, max_size=80), seed=st.integers(0, 100))
def test_calibration_pairs_share_no_subject(subjects: list[int], seed: int) -> None:
    distinct = len(set(subjects))
    if distinct < 2:
        with pytest.raises(InputError, match="at least two subjects"):
            calibration_pairs(subjects, seed)
        return
    pairs = calibration_pairs(subjects, seed)
    used = np.array(subjects)[pairs].ravel()
    assert pairs.shape == (distinct // 2, 2)
    assert len(set(used.tolist())) == used.size
    assert (pairs == calibration_pairs(subjects, seed)).all()


def test_calibration_pairs_are_uniform_over_matchings_and_samples() -> None:
    partners = np.zeros((4, 4), int)
    chosen = np.zeros(8, int)
    for seed in range(3000):
        pairs = calibration_pairs([0, 0, 0, 0, 1, 1, 2, 3], seed)
        subject = np.array([0, 0, 0, 0, 1, 1, 2, 3])
        np.add.at(partners, (subject[pairs[:, 0]], subject[pairs[:, 1]]), 1)
        chosen[pairs.ravel()] += 1
    matched = (partners + partners.T)[~np.eye(4, dtype=bool)]
    assert (np.abs(matched - 1000) < 130).all()
    assert (np.abs(chosen[:4] - 750) < 120).all()
    assert (np.abs(chosen[4:6] - 1500) < 140).all()


def test_reference_distances() -> None:
    embeddings = np.array([[1.0, 0], [0, 2], [-3, 0], [0, -4]])
    distances = reference_distances(embeddings, [1, 2, 3, 4], seed=0)
    assert distances.shape == (2,)
    assert set(np.round(distances, 12)) <= {0.5, 1.0}
    with pytest.raises(InputError, match="have 4 rows, and there are 3 subjects"):
        reference_distances(embeddings, [1, 2, 3], seed=0)
    with pytest.raises(InputError, match="1 of 4 embeddings"):
        reference_distances(np.where(embeddings == 2, 0, embeddings), [1, 2, 3, 4], seed=0)
    with pytest.raises(InputError, match="one-dimensional"):
        calibration_pairs([[1, 2]], seed=0)
    for nobody in ([], np.array([], dtype="U3"), np.array([], dtype=object)):
        with pytest.raises(InputError, match="at least two subjects, got 0"):
            calibration_pairs(nobody, seed=0)


@pytest.mark.parametrize(
    ("count", "alpha", "expected"),
    [(9, 0.1, 9), (19, 0.05, 19), (99, 0.01, 99), (8, 0.1, None), (10, 0.5, 6), (24, 0.28, 18), (1, 0.5, 1)],
)
def test_conformal_rank(count: int, alpha: float, expected: int | None) -> None:
    distances = np.random.default_rng(0).permutation(np.arange(1, count + 1)) / 1000
    assert conformal_tolerance(distances, alpha) == (1.0 if expected is None else expected / 1000)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("count", [5, 20, 51])
def test_conformal_coverage(count: int, alpha: float) -> None:
    """P(new > tolerance) is at most α, and for distinct distances above α − 1/(n+1)."""
    draws = np.random.default_rng(4).beta(2, 5, (4000, count + 1))
    exceeded = np.mean([row[-1] > conformal_tolerance(row[:-1], alpha) for row in draws])
    noise = 4 * np.sqrt(alpha * (1 - alpha) / 4000)
    assert exceeded <= alpha + noise
    assert exceeded >= alpha - 1 / (count + 1) - noise


@pytest.mark.parametrize(
    ("distances", "alpha", "message"),
    [
        ([], 0.1, "non-empty"),
        ([[0.1]], 0.1, r"numbers of shape \[n\]"),
        ([0.1, np.nan], 0.1, "1 of 2 reference distances are NaN"),
        ([0.1, 1.1], 0.1, r"must lie in \[0, 1\]"),
        ([0.1], 0.0, "alpha must lie between 0 and 1"),
        ([0.1], 1.0, "alpha must lie between 0 and 1"),
    ],
)
def test_conformal_input(distances: Any, alpha: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        conformal_tolerance(distances, alpha)
