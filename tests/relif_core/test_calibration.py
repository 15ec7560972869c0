"""Temperatures: the optimum of the NLL on any logits, and scores that keep argmax and order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax

from relif_core.calibration import HIGHEST, LOWEST, LabelledLogits, fit_temperature


def drawn(kind: str, seed: int, truth: float, rows: int = 60, classes: int = 4) -> LabelledLogits:
    """Logits whose labels follow them at a true temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, 1 if kind == "binary" else classes)) * 3
    if kind == "binned":
        chances = np.exp(log_softmax(logits / truth, axis=1))
        labels = np.array([generator.choice(classes, p=row) for row in chances])
    else:
        labels = (generator.uniform(size=logits.shape) < expit(logits / truth)).astype(np.uint8)
        labels = labels[:, 0] if kind == "binary" else labels
    return LabelledLogits(kind, logits.astype(np.float32), labels, np.ones(rows, dtype=np.int32))


def nll(found: LabelledLogits, temperature: float) -> float:
    values = found.logits.astype(np.float64) / temperature
    if found.kind == "binned":
        return float(-log_softmax(values, axis=1)[np.arange(len(values)), found.labels].mean())
    return float((np.logaddexp(0, values) - found.labels.reshape(values.shape) * values).mean())


@pytest.mark.parametrize("kind", ["binary", "binned", "multilabel"])
@given(seed=st.integers(0, 10_000), truth=st.floats(0.3, 6))
def test_the_temperature_minimises_the_nll(kind: str, seed: int, truth: float) -> None:
    found = drawn(kind, seed, truth)
    bounds = (np.log(LOWEST), np.log(HIGHEST))
    best = minimize_scalar(
        lambda log: nll(found, np.exp(log)), bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    fitted = fit_temperature(found)
    assert nll(found, fitted) <= best.fun + 1e-9
    if LOWEST * 1.1 < fitted < HIGHEST / 1.1:
        assert np.log(fitted) == pytest.approx(best.x, abs=1e-4)


def test_limits_by_hand() -> None:
    def of(labels: list[int]) -> LabelledLogits:
        return LabelledLogits(
            "binary", np.array([[-1.0], [1.0]]), np.array(labels), np.ones(2, dtype=np.int32)
        )

    assert fit_temperature(of([0, 1])) == pytest.approx(LOWEST)
    assert fit_temperature(of([1, 0])) == pytest.approx(HIGHEST)
    nothing = LabelledLogits("binary", np.zeros((0, 1)), np.zeros(0), np.zeros(0, dtype=np.int32))
    assert fit_temperature(nothing) == 1.0
    even = LabelledLogits("binned", np.full((3, 4), 0.7), np.array([0, 3, 1]), np.ones(3, dtype=np.int32))
    assert fit_temperature(even) == 1.0
    # logit ± 1, right in three of four: σ(1/T) = 3/4, so T = 1 / ln 3.
    logits = np.array([[1.0], [1.0], [1.0], [-1.0]])
    four = LabelledLogits("binary", logits, np.array([1, 1, 0, 0]), np.ones(4, dtype=np.int32))
    assert fit_temperature(four) == pytest.approx(1 / np.log(3))


def test_a_confident_no_scores_0_without_a_warning() -> None:
    no = LabelledLogits("binary", np.array([[-8.0]]), np.zeros(1), np.ones(1, dtype=int))
    assert no.scores(0.01) == 0
    assert LabelledLogits("binary", np.array([[-800.0]]), np.zeros(1), np.ones(1)).predictions() == 0


def test_scores_by_hand() -> None:
    log3 = float(np.log(3))
    binned = LabelledLogits("binned", np.array([[2 * log3, 0.0, 0.0]]), np.array([0]), np.array([1]))
    np.testing.assert_allclose(binned.scores(2.0), [0.6])
    hourly = LabelledLogits(
        "binary", np.array([[2 * log3], [0.0], [-2 * log3]]), np.zeros(3), np.array([2, 1])
    )
    np.testing.assert_allclose(hourly.scores(2.0), [(0.75 + 0.5) / 2, 0.25])
