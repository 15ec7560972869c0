"""What every balancer promises: shapes, state, one task, zero gradients, permutations, scales."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from relif_core.balancers import Balancer, balancer_class, make_balancer
from relif_core.errors import InputError
from relif_core.methods import balancer_keys

RANDOM_ORDERS = ("pcgrad", "pcgrad_as_released")  # with given orders: see test_pcgrad


def random_inputs(seed: int, tasks: int, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(tasks, size, generator=generator, dtype=torch.float64)
    return torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1, gradients


def steps(balancer: Balancer, seeds: range, tasks: int = 3) -> list[Tensor]:
    """Return the weights of some steps; learned parameters take a plain gradient step after each."""
    results = []
    for seed in seeds:
        losses, gradients = random_inputs(seed, tasks)
        results.append(balancer(losses, gradients @ gradients.T))
        for group in balancer.parameter_groups(weight_decay=0.0):
            for parameter in group["params"]:
                parameter.data.sub_(parameter.grad, alpha=0.1)
    return results


@pytest.fixture(params=balancer_keys())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_describes_itself(name: str) -> None:
    kind = balancer_class(name)
    assert "Source: " in (kind.__doc__ or "")
    assert ("Source: released code" in kind.__doc__) == kind.__name__.endswith("AsReleased")
    assert kind.__name__.endswith("AsReleased") == name.endswith("_as_released")
    balancer = make_balancer(name, 3)
    assert balancer.gradient_scope in ("shared", "all")
    assert balancer.needs_gradients or (balancer.gradient_scope == "shared" and balancer.weighted_heads)


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_gives_one_finite_weight_per_task_in_the_dtype_of_the_losses(name: str, tasks: int) -> None:
    for dtype in (torch.float32, torch.float64):
        balancer = make_balancer(name, tasks)
        losses, gradients = random_inputs(0, tasks)
        graph = losses.to(dtype).requires_grad_()
        for _ in range(3):
            weights = balancer(graph, (gradients @ gradients.T).to(dtype))
            assert weights.shape == (tasks,)
            assert weights.dtype == dtype
            assert not weights.requires_grad
            assert weights.isfinite().all()


def test_returned_weights_do_not_change_later(name: str) -> None:
    balancer = make_balancer(name, 3)
    first, *_ = results = steps(balancer, range(2))
    kept = first.clone()
    results += steps(balancer, range(2, 5))
    assert torch.equal(first, kept)


def test_state_round_trip_continues_exactly(name: str) -> None:
    balancer = make_balancer(name, 3, seed=5)
    steps(balancer, range(4))
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    restored = make_balancer(name, 3, seed=99)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for expected, result in zip(steps(balancer, range(4, 9)), steps(restored, range(4, 9)), strict=True):
        assert torch.equal(result, expected)


def test_one_seed_gives_one_sequence(name: str) -> None:
    first, second = (steps(make_balancer(name, 4, seed=3), range(6), tasks=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_task_is_never_turned_or_stopped(name: str) -> None:
    losses, gradients = random_inputs(1, 1)
    weight = make_balancer(name, 1)(losses, gradients @ gradients.T)
    assert weight.item() > 0
    if name not in ("fairgrad", "nash_mtl", "cagrad"):
        assert weight.item() == pytest.approx(1.0)


def test_all_gradients_zero_gives_finite_weights(name: str) -> None:
    balancer = make_balancer(name, 3)
    for _ in range(3):
        assert balancer(torch.ones(3), torch.zeros(3, 3)).isfinite().all()


def test_one_zero_gradient_leaves_the_others_a_descent_direction(name: str) -> None:
    losses, gradients = random_inputs(2, 3)
    gradients[1] = 0
    gradients[2] = gradients[0] + 0.1 * gradients[2]
    weights = make_balancer(name, 3)(losses, gradients @ gradients.T)
    direction = weights @ gradients
    assert weights.isfinite().all()
    if name not in ("mgda", "imtl_g"):  # these two give everything to the task that cannot improve
        assert gradients[0] @ direction > 0
        assert gradients[2] @ direction > 0


def test_parallel_gradients_never_turn_round(name: str) -> None:
    gradients = torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64) * random_inputs(3, 1)[1]
    weights = make_balancer(name, 3)(torch.ones(3).double(), gradients @ gradients.T)
    assert (gradients @ (weights @ gradients) > 0).all()


def test_opposite_gradients_of_one_length_cancel(name: str) -> None:
    _, gradients = random_inputs(4, 1)
    gradients = torch.cat((gradients, -gradients))
    weights = make_balancer(name, 2)(torch.ones(2).double(), gradients @ gradients.T)
    assert weights.isfinite().all()
    size = gradients.norm() * weights.abs().max().clamp_min(1.0)
    assert (weights @ gradients).norm() <= 1e-8 * size


@pytest.mark.parametrize("name", [name for name in balancer_keys() if name not in RANDOM_ORDERS])
def test_permuting_the_tasks_permutes_the_weights(name: str) -> None:
    order = torch.tensor([2, 0, 3, 1])
    first, second = make_balancer(name, 4), make_balancer(name, 4)
    for seed in range(5):
        losses, gradients = random_inputs(seed, 4)
        expected = first(losses, gradients @ gradients.T)[order]
        result = second(losses[order], gradients[order] @ gradients[order].T)
        tolerance = 1e-3 if name == "cagrad" else 1e-6
        torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_extreme_common_scale(name: str, scale: float) -> None:
    losses, gradients = random_inputs(6, 3)
    plain = make_balancer(name, 3)(losses, gradients @ gradients.T)
    scaled = make_balancer(name, 3)(losses, gradients @ gradients.T * scale**2)
    plain, scaled = plain / plain.sum(), scaled / scaled.sum()
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e-5, 1e5, 1e9])
def test_one_task_of_extreme_scale_stays_finite(name: str, scale: float) -> None:
    losses, gradients = random_inputs(7, 3)
    gradients[0] *= scale
    balancer = make_balancer(name, 3)
    for _ in range(3):
        assert balancer(losses, gradients @ gradients.T).isfinite().all()


def test_gradient_balancers_ask_for_the_matrix(name: str) -> None:
    balancer = make_balancer(name, 3)
    if balancer.needs_gradients:
        with pytest.raises(InputError, match="Gram"):
            balancer(torch.ones(3))
        with pytest.raises(InputError, match="shape"):
            balancer(torch.ones(3), torch.eye(2))
    else:
        assert balancer(torch.ones(3)).shape == (3,)


def test_wrong_number_of_losses_is_named(name: str) -> None:
    with pytest.raises(InputError, match="losses"):
        make_balancer(name, 3)(torch.ones(2), torch.eye(3))


def test_copies_are_independent(name: str) -> None:
    balancer = make_balancer(name, 3)
    twin = copy.deepcopy(balancer)
    steps(balancer, range(3))
    for expected, result in zip(steps(make_balancer(name, 3), range(2)), steps(twin, range(2)), strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ("balancer", "options", "message"),
    [
        ("pcgrat", {}, "known are erm"),
        ("erm", {"alpha": 2}, "alpha"),
        ("fairgrad", {"alpha": 0}, "alpha"),
        ("gradnorm", {"alpha": -1}, "alpha"),
        ("gradnorm", {"learning_rate": 0}, "learning_rate"),
        ("gradnorm_as_released", {"every": 0}, "every"),
        ("cats_as_released", {"ema": 0}, "ema"),
        ("cagrad", {"c": 1.0}, "c must"),
    ],
)
def test_bad_names_and_options_are_refused(balancer: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_balancer(balancer, 3, **options)


def test_tasks_must_be_at_least_one() -> None:
    with pytest.raises(InputError, match="tasks"):
        make_balancer("erm", 0)


def test_matrix_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        make_balancer("pcgrad", 2)(torch.ones(2), torch.full((2, 2), torch.nan))


def test_weights_of_another_shape_are_refused_and_not_spread() -> None:
    class Column(Balancer):
        def _weights_from_losses(self, losses: Tensor, present: Tensor) -> Tensor:
            return losses[:, None]

    class Scalar(Balancer):
        def _weights_from_losses(self, losses: Tensor, present: Tensor) -> Tensor:
            return losses.mean()

    for kind, shape in ((Column, r"\(2, 1\)"), (Scalar, r"\(\)")):
        with pytest.raises(InputError, match=rf"{kind.__name__}: the weights have shape {shape}, expected"):
            kind(2)(torch.ones(2))
