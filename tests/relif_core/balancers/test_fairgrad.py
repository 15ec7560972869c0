"""FairGrad and Nash-MTL against their optimality equation, closed forms and a general solver."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import root
from torch import Tensor
from torchjd.aggregation import FairGradWeighting

from relif_core.balancers import make_balancer

ALPHAS = [0.5, 1.0, 2.0, 5.0]


def relative_residual(gram: Tensor, weights: Tensor, alpha: float) -> float:
    """Return the largest violation of the equation relative to its right-hand side."""
    right = weights ** (-1 / alpha)
    return ((gram @ weights - right) / right).abs().max().item()


def solve(gram: Tensor, alpha: float) -> Tensor:
    return make_balancer("fairgrad", len(gram), alpha=alpha)(torch.ones(len(gram)).double(), gram)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("tasks", [1, 2, 3, 6])
def test_optimality_equation_on_quadratic_problems(tasks: int, alpha: float, quadratic: Callable) -> None:
    for seed in range(4):
        problem = quadratic(seed, tasks, size=12)
        gradients = problem.gradients(torch.zeros(12, dtype=torch.float64))
        weights = solve(gradients @ gradients.T, alpha)
        assert (weights > 0).all()
        assert relative_residual(gradients @ gradients.T, weights, alpha) < 1e-10


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equals_a_general_solver_in_log_weights(alpha: float, quadratic: Callable) -> None:
    for seed in range(5):
        gradients = quadratic(seed, 3).gradients(torch.zeros(8, dtype=torch.float64))
        gram = (gradients @ gradients.T).numpy()

        def equation(log_weights: np.ndarray, gram: np.ndarray = gram) -> np.ndarray:
            return np.log(gram @ np.exp(log_weights)) + log_weights / alpha

        result = solve(torch.from_numpy(gram), alpha).numpy()
        start = np.log(result) + np.random.default_rng(seed).normal(0, 0.01, 3)
        found = root(equation, start, tol=1e-13)
        np.testing.assert_allclose(result, np.exp(found.x), rtol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_closed_forms(alpha: float) -> None:
    norms = torch.tensor([0.5, 2.0, 10.0], dtype=torch.float64)
    power = alpha / (1 + alpha)
    torch.testing.assert_close(solve(torch.diag(norms**2), alpha), norms ** (-2 * power), rtol=1e-10, atol=0)
    parallel = torch.full((3, 3), 4.0, dtype=torch.float64)
    torch.testing.assert_close(
        solve(parallel, alpha), torch.full((3,), 12.0, dtype=torch.float64) ** -power, rtol=1e-10, atol=0
    )


@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([1.0, 2.0, 5.0]), st.floats(0, 6))
@settings(deadline=None, max_examples=60)
def test_optimality_equation_for_gradients_of_very_different_size(
    seed: int, tasks: int, alpha: float, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(tasks, 40, generator=generator, dtype=torch.float64)
    gradients *= 10 ** (spread * (2 * torch.rand(tasks, 1, generator=generator, dtype=torch.float64) - 1))
    gram = gradients @ gradients.T
    weights = solve(gram, alpha)
    # Gᵀ G w itself is only known up to rounding of the terms that cancel in it.
    rounding = 1e-14 * ((gram.abs() @ weights) * weights ** (1 / alpha)).max().item()
    assert relative_residual(gram, weights, alpha) < 1e-9 + rounding


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("factor", [1e-6, 0.1, 30.0, 1e6])
def test_scaling_all_gradients_scales_the_weights_by_a_known_power(
    alpha: float, factor: float, quadratic: Callable
) -> None:
    gradients = quadratic(1, 4).gradients(torch.zeros(8, dtype=torch.float64))
    gram = gradients @ gradients.T
    expected = solve(gram, alpha) * factor ** (-2 * alpha / (1 + alpha))
    torch.testing.assert_close(solve(gram * factor**2, alpha), expected, rtol=1e-9, atol=0)


def test_proportional_fairness_ignores_the_scale_of_single_tasks(quadratic: Callable) -> None:
    """With α = 1 (Nash-MTL) the direction is the same whatever units the losses have."""
    gradients = quadratic(2, 3).gradients(torch.zeros(8, dtype=torch.float64))
    scaled = gradients * torch.tensor([[1e-3], [1.0], [50.0]], dtype=torch.float64)
    nash = make_balancer("nash_mtl", 3)
    losses = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(
        nash(losses, scaled @ scaled.T) @ scaled, nash(losses, gradients @ gradients.T) @ gradients
    )
    torch.testing.assert_close(nash(losses, gradients @ gradients.T), solve(gradients @ gradients.T, 1.0))


def test_every_task_decreases(quadratic: Callable) -> None:
    for seed in range(10):
        gradients = quadratic(seed, 4, size=10).gradients(torch.zeros(10, dtype=torch.float64))
        assert (gradients @ (solve(gradients @ gradients.T, 2.0) @ gradients) > 0).all()


def test_agrees_with_torchjd(quadratic: Callable) -> None:
    for seed in range(5):
        gradients = quadratic(seed, 3).gradients(torch.zeros(8, dtype=torch.float64))
        gram = gradients @ gradients.T
        gram /= gram.diagonal().max()
        torch.testing.assert_close(solve(gram, 2.0), FairGradWeighting(2.0)(gram), rtol=1e-4, atol=1e-5)


def test_zero_gradient_leaves_the_problem() -> None:
    gram = torch.diag(torch.tensor([4.0, 0.0, 1.0], dtype=torch.float64))
    weights = solve(gram, 2.0)
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], solve(gram[[0, 2]][:, [0, 2]], 2.0))
    assert solve(torch.zeros(2, 2, dtype=torch.float64), 2.0).tolist() == [0, 0]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_cancelling_gradients_give_a_finite_symmetric_answer(alpha: float) -> None:
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    weights = solve(opposite, alpha)
    assert weights.isfinite().all()
    assert weights[0].item() == pytest.approx(weights[1].item(), rel=1e-6)
    star = torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]], dtype=torch.float64)
    assert solve(star, alpha).isfinite().all()
    assert solve(opposite - 1e-7 * torch.eye(2).double(), alpha).isfinite().all()


def test_released_variant_is_the_inverse_norm_with_sum_of_tasks(quadratic: Callable) -> None:
    gradients = quadratic(3, 4).gradients(torch.zeros(8, dtype=torch.float64))
    inverse = 1 / gradients.norm(dim=1)
    weights = make_balancer("fairgrad_as_released", 4)(torch.ones(4).double(), gradients @ gradients.T)
    torch.testing.assert_close(weights, 4 * inverse / inverse.sum(), rtol=1e-9, atol=0)


def test_released_variant_at_zero_gradients() -> None:
    balancer = make_balancer("fairgrad_as_released", 3)
    weights = balancer(torch.ones(3), torch.diag(torch.tensor([1.0, 0.0, 4.0])))
    torch.testing.assert_close(weights, torch.tensor([2.0, 0.0, 1.0]))
    assert balancer(torch.ones(3), torch.zeros(3, 3)).tolist() == [0, 0, 0]
