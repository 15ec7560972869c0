"""GradNorm against its definition by automatic differentiation, and what the released variant does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from relif_core.balancers import make_balancer


def definition(norms: Tensor, losses: Tensor, initial: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Return the published norm loss, whose targets carry no gradient."""
    weighted = weights * norms
    ratios = losses / initial
    targets = (weighted.mean() * (ratios / ratios.mean()) ** alpha).detach()
    return (weighted - targets).abs().sum()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_equals_its_definition_on_a_quadratic_problem(seed: int, alpha: float, quadratic: Callable) -> None:
    problem = quadratic(seed)
    balancer = make_balancer("gradnorm", 3, alpha=alpha).double()
    reference = torch.ones(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([reference], lr=0.025)
    point = torch.zeros(8, dtype=torch.float64)
    initial = problem.losses(point)
    for _ in range(60):
        gradients, losses = problem.gradients(point), problem.losses(point)
        weights = balancer(losses, gradients @ gradients.T)
        torch.testing.assert_close(weights, reference.detach(), rtol=1e-6, atol=1e-6)
        adam.zero_grad()
        definition(gradients.norm(dim=1), losses, initial, reference, alpha).backward()
        adam.step()
        with torch.no_grad():
            reference.clamp_(min=1e-4).mul_(3 / reference.sum())
        point = point - 0.02 * weights @ gradients


def test_weights_sum_to_the_number_of_tasks_at_every_step() -> None:
    balancer = make_balancer("gradnorm", 4)
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        gradients = torch.randn(4, 6, generator=generator) * torch.tensor([[1e-3], [1.0], [1e3], [1.0]])
        weights = balancer(torch.rand(4, generator=generator), gradients @ gradients.T)
        assert weights.sum().item() == pytest.approx(4, abs=1e-5)
        assert (weights > 0).all()


def fixed_imbalance(name: str, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights after ``steps`` on losses whose gradients and training rates differ and stay."""
    norms = torch.tensor([1.0, 8.0, 2.0])
    initial, later = torch.tensor([2.0, 1.0, 1.0]), torch.tensor([1.0, 0.9, 0.5])
    balancer = make_balancer(name, 3)
    groups = balancer.parameter_groups(weight_decay=1e-5)
    optimiser = torch.optim.AdamW(groups, lr=1e-3) if groups else None
    weights = balancer(initial, torch.diag(norms**2))
    for _ in range(steps):
        weights = balancer(later, torch.diag(norms**2))
        if optimiser:
            optimiser.step()
    ratios = later / initial
    return weights, norms * weights, ratios / ratios.mean()


def test_published_weights_bring_the_norms_to_the_rates() -> None:
    _, weighted_norms, rates = fixed_imbalance("gradnorm", 1500)
    torch.testing.assert_close(weighted_norms / weighted_norms.mean(), rates**1.5, rtol=0.15, atol=0.05)


def test_released_weights_do_not_follow_the_rates() -> None:
    weights, weighted_norms, rates = fixed_imbalance("gradnorm_as_released", 1500)
    share = weights / weights.mean()
    torch.testing.assert_close(share, torch.ones(3), rtol=0.02, atol=0.02)
    assert (weighted_norms / weighted_norms.mean() / rates**1.5).log().abs().max() > 0.9


@pytest.mark.parametrize("name", ["gradnorm", "gradnorm_as_released"])
def test_training_an_imbalanced_pair(name: str) -> None:
    """Two quadratic tasks, one 100 times steeper: only the published method evens out the pace.

    The released weights even fall for the task that stays behind, because its loss stays large.
    """
    centres = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    steepness = torch.tensor([0.01, 1.0])
    balancer = make_balancer(name, 2)
    groups = balancer.parameter_groups(weight_decay=0.0)
    optimiser = torch.optim.AdamW(groups, lr=1e-3) if groups else None
    point = torch.zeros(2)
    for _ in range(800):
        losses = steepness * ((point - centres).square().sum(1) / 2 + 0.05)
        gradients = steepness.unsqueeze(1) * (point - centres)
        weights = balancer(losses, gradients @ gradients.T)
        if optimiser:
            optimiser.step()
        point = point - 0.02 * weights @ gradients / weights.mean()
    rates = losses / (steepness * 0.55)
    gap = (rates[0] - rates[1]).abs().item()
    if name == "gradnorm":
        assert weights[0] > 20 * weights[1]
        assert gap < 0.25
    else:
        assert weights[0] < weights[1]
        assert gap > 1.7


def test_released_variant_descends_the_weighted_loss_and_is_divided_every_hundred_steps(
    quadratic: Callable,
) -> None:
    problem = quadratic(4)
    losses = problem.losses(torch.zeros(8, dtype=torch.float64))
    balancer = make_balancer("gradnorm_as_released", 3).double()
    optimiser = torch.optim.AdamW(balancer.parameter_groups(1e-2), lr=0.02)
    reference = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.AdamW([reference], lr=0.02, weight_decay=1e-2)
    for step in range(250):
        if step in (100, 200):
            with torch.no_grad():
                reference.copy_((3 * reference.exp() / reference.exp().sum()).log())
        weights = balancer(losses)
        torch.testing.assert_close(weights, reference.detach().exp(), rtol=1e-6, atol=1e-6)
        if step in (0, 100, 200):
            assert weights.sum().item() == pytest.approx(3)
        adam.zero_grad()
        (reference.exp() * losses).sum().backward()
        adam.step()
        optimiser.step()


def test_zero_gradient_gives_its_task_no_pull() -> None:
    balancer = make_balancer("gradnorm", 2)
    for _ in range(5):
        weights = balancer(torch.ones(2), torch.diag(torch.tensor([0.0, 1.0])))
    assert weights[1] < 1 < weights[0]
    still = make_balancer("gradnorm", 2)
    for _ in range(5):
        assert torch.equal(still(torch.ones(2), torch.zeros(2, 2)), torch.ones(2))


def test_vanishing_losses_stay_finite() -> None:
    balancer = make_balancer("gradnorm", 2)
    for losses in (torch.zeros(2), torch.ones(2), torch.zeros(2)):
        assert balancer(losses, torch.eye(2)).isfinite().all()
