"""PCGrad against gradient surgery on explicit vectors."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchjd.aggregation import PCGrad as PeerPCGrad

from relif_core.balancers import make_balancer
from relif_core.balancers.pcgrad import projected_coefficients


def surgery(gradients: Tensor, orders: Tensor) -> Tensor:
    """Return the projected gradients [T, N], vector by vector."""
    projected = []
    for task, order in enumerate(orders.tolist()):
        vector = gradients[task].clone()
        for other in order:
            if other != task and vector @ gradients[other] < 0:
                vector -= (vector @ gradients[other]) / gradients[other].square().sum() * gradients[other]
        projected.append(vector)
    return torch.stack(projected)


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_surgery_on_a_quadratic_problem(seed: int, tasks: int, quadratic: Callable) -> None:
    problem = quadratic(seed, tasks)
    balancer = make_balancer("pcgrad", tasks, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    point = torch.zeros(8, dtype=torch.float64)
    for _ in range(10):
        gradients = problem.gradients(point)
        orders = torch.stack([torch.randperm(tasks, generator=generator) for _ in range(tasks)])
        direction = balancer(problem.losses(point), gradients @ gradients.T) @ gradients
        torch.testing.assert_close(direction, surgery(gradients, orders).sum(0), rtol=1e-6, atol=1e-9)
        point = point - 0.05 * direction


@pytest.mark.parametrize("seed", range(4))
def test_released_variant_equals_surgery_on_whole_parameter_vectors(seed: int, quadratic: Callable) -> None:
    """Heads have disjoint blocks: each comes out as its own gradient times its task's coefficient."""
    tasks, head = 3, 4
    problem = quadratic(seed, tasks)
    balancer = make_balancer("pcgrad_as_released", tasks, seed=seed)
    assert (balancer.gradient_scope, balancer.weighted_heads, balancer.gradient_clip) == ("all", True, 5.0)
    order = torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))
    shared = problem.gradients(torch.zeros(8, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed + 100)
    heads = 0.3 * torch.randn(tasks, head, generator=generator, dtype=torch.float64)
    whole = torch.cat((shared, torch.block_diag(*heads.split(1))), dim=1)
    expected = surgery(whole, order.expand(tasks, tasks)).mean(0)

    gram = shared @ shared.T + torch.diag(heads.square().sum(1))
    weights = balancer(torch.ones(tasks).double(), gram)
    result = torch.cat((weights @ shared, (weights.unsqueeze(1) * heads).flatten()))
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-9)


def test_agrees_with_torchjd() -> None:
    """Both draw one permutation per task; from the same seed they are the same."""
    for seed in range(10):
        gradients = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            expected = PeerPCGrad()(gradients)
        weights = make_balancer("pcgrad", 4, seed=seed)(torch.ones(4).double(), gradients @ gradients.T)
        torch.testing.assert_close(weights @ gradients, expected, rtol=1e-8, atol=1e-10)


@given(st.lists(st.floats(-10, 10), min_size=8, max_size=8), st.floats(-4, 4))
def test_two_tasks_never_conflict_with_the_direction(values: list[float], exponent: float) -> None:
    gradients = torch.tensor(values, dtype=torch.float64).reshape(2, 4)
    gradients[0] *= 10**exponent
    direction = make_balancer("pcgrad", 2)(torch.ones(2).double(), gradients @ gradients.T) @ gradients
    slack = 1e-9 * gradients.square().sum()
    assert (gradients @ direction >= -slack).all()


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(deadline=None)
def test_permuted_tasks_with_permuted_orders_give_permuted_coefficients(seed: int, tasks: int) -> None:
    generator = np.random.default_rng(seed)
    gradients = generator.standard_normal((tasks, 5))
    orders = np.stack([generator.permutation(tasks) for _ in range(tasks)])
    order = generator.permutation(tasks)
    inverse = np.argsort(order)
    plain = projected_coefficients(gradients @ gradients.T, orders)
    turned = projected_coefficients(gradients[order] @ gradients[order].T, inverse[orders[order]])
    np.testing.assert_allclose(turned, plain[np.ix_(order, order)], atol=1e-9)


def test_without_conflict_it_is_the_sum() -> None:
    gradients = torch.rand(4, 6, dtype=torch.float64)
    gram = gradients @ gradients.T
    assert make_balancer("pcgrad", 4)(torch.ones(4), gram).tolist() == [1] * 4
    assert make_balancer("pcgrad_as_released", 4)(torch.ones(4), gram).tolist() == [0.25] * 4


def test_zero_gradient_weighs_one_and_opposite_gradients_cancel() -> None:
    gram = torch.tensor([[1.0, 0.0, -0.5], [0.0, 0.0, 0.0], [-0.5, 0.0, 1.0]])
    assert make_balancer("pcgrad", 3)(torch.ones(3), gram)[1] == 1
    opposite = torch.tensor([[1.0, -3.0], [-3.0, 9.0]])
    assert make_balancer("pcgrad", 2)(torch.ones(2), opposite) @ torch.tensor([1.0, -3.0]) == pytest.approx(0)


def test_orders_are_random_and_follow_the_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    gram = gradients @ gradients.T
    one, other = make_balancer("pcgrad", 5, seed=0), make_balancer("pcgrad", 5, seed=1)
    draws = [one(torch.ones(5), gram) for _ in range(5)]
    assert any(not torch.equal(draws[0], draw) for draw in draws[1:])
    assert not torch.equal(draws[0], other(torch.ones(5), gram))
