"""ERM, Uncertainty and CATS against automatic differentiation and closed forms."""

from collections.abc import Callable

import pytest
import torch

from relif_core.balancers import make_balancer


def test_erm_is_the_sum() -> None:
    assert make_balancer("erm", 4)(torch.rand(4)).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ["uncertainty", "uncertainty_as_released"])
def test_uncertainty_equals_differentiating_the_published_loss(name: str, quadratic: Callable) -> None:
    """Twenty steps of AdamW on weights and shared parameters, against autograd on the whole expression."""
    problem = quadratic(0)
    decay = 0.1
    reference_s = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    reference_point = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    point = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    balancer = make_balancer(name, 3).double()
    reference = torch.optim.AdamW(
        [
            {"params": [reference_point]},
            {"params": [reference_s], "weight_decay": decay if name == "uncertainty_as_released" else 0.0},
        ],
        lr=0.05,
        weight_decay=decay,
    )
    optimiser = torch.optim.AdamW(
        [{"params": [point]}, *balancer.parameter_groups(decay)], lr=0.05, weight_decay=decay
    )
    for _ in range(20):
        reference.zero_grad()
        (torch.exp(-reference_s) * problem.losses(reference_point) + reference_s / 2).sum().backward()
        reference.step()
        optimiser.zero_grad()
        losses = problem.losses(point)
        (balancer(losses) * losses).sum().backward()
        optimiser.step()
    torch.testing.assert_close(point, reference_point, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(balancer.log_variance, reference_s, rtol=1e-9, atol=1e-9, check_dtype=True)


def test_uncertainty_rests_where_weights_are_half_the_inverse_losses() -> None:
    balancer = make_balancer("uncertainty", 3)
    losses = torch.tensor([0.1, 0.5, 2.0])
    optimiser = torch.optim.SGD(balancer.parameter_groups(0.0), lr=0.5)
    for _ in range(500):
        weights = balancer(losses)
        optimiser.step()
    torch.testing.assert_close(weights, 0.5 / losses, rtol=1e-4, atol=0)


def test_weight_decay_pulls_the_released_uncertainty_back() -> None:
    results = {}
    for name in ("uncertainty", "uncertainty_as_released"):
        balancer = make_balancer(name, 2)
        optimiser = torch.optim.AdamW(balancer.parameter_groups(0.5), lr=0.05)
        for _ in range(300):
            balancer(torch.tensor([0.01, 0.02]))
            optimiser.step()
        results[name] = balancer.log_variance.detach().abs()
    assert (results["uncertainty_as_released"] < 0.9 * results["uncertainty"]).all()


def test_cats_follows_the_moving_average_of_the_losses() -> None:
    balancer = make_balancer("cats_as_released", 3)
    average = [1.0, 1.0, 1.0]
    for seed in range(10):
        losses = torch.rand(3, generator=torch.Generator().manual_seed(seed))
        average = [0.1 * loss + 0.9 * old for loss, old in zip(losses.tolist(), average, strict=True)]
        expected = torch.tensor([3 * value / sum(average) for value in average])
        torch.testing.assert_close(balancer(losses), expected, rtol=1e-6, atol=1e-6)


def test_cats_gives_the_harder_task_more() -> None:
    balancer = make_balancer("cats_as_released", 2)
    for _ in range(200):
        weights = balancer(torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5]), rtol=1e-4, atol=1e-4)
