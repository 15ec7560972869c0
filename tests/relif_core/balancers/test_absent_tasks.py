"""A batch without a task's labels: the balancer works on the others and keeps what it knows of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.balancers import make_balancer
from relif_core.errors import InputError
from relif_core.methods import balancer_keys

#: Balancers whose weights of one step depend on nothing but that step, and draw nothing.
STATELESS = ("erm", "fairgrad", "fairgrad_as_released", "nash_mtl", "cagrad", "upgrad", "mgda", "imtl_g",
             "aligned_mtl", "dual_proj")  # fmt: skip


def inputs(seed: int, tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(tasks, 12, generator=generator, dtype=torch.float64)
    return torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1, gradients @ gradients.T


@pytest.mark.parametrize("name", STATELESS)
@given(seed=st.integers(0, 10_000), absent=st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_the_others_get_the_weights_of_a_balancer_of_them_alone(name: str, seed: int, absent: int) -> None:
    losses, gram = inputs(seed, 4)
    losses[absent] = gram[absent] = gram[:, absent] = 0
    present = torch.arange(4) != absent
    found = make_balancer(name, 4)(losses, gram, present)
    alone = make_balancer(name, 3)(losses[present], gram[present][:, present])
    assert found[absent] == 0
    torch.testing.assert_close(found[present], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", balancer_keys())
def test_presence_of_all_changes_nothing_and_of_none_breaks_nothing(name: str) -> None:
    plain, told = make_balancer(name, 3, seed=1), make_balancer(name, 3, seed=1)
    for seed in range(4):
        losses, gram = inputs(seed, 3)
        assert torch.equal(plain(losses, gram), told(losses, gram, torch.ones(3, dtype=torch.bool)))
    nothing = told(torch.zeros(3), torch.zeros(3, 3), torch.zeros(3, dtype=torch.bool))
    assert nothing.tolist() == [0, 0, 0]
    losses, gram = inputs(9, 3)
    assert told(losses, gram).isfinite().all()
    with pytest.raises(InputError, match="present has shape"):
        told(losses, gram, torch.ones(2, dtype=torch.bool))


def test_gradnorm_takes_each_first_loss_from_its_first_labelled_batch() -> None:
    """The case of the issue: without a mask, one first batch of loss 0 drove the weights to [2, 1e-4]."""
    balancer = make_balancer("gradnorm", 2)
    norms = torch.tensor([1.0, 1.0])
    balancer(torch.tensor([2.0, 0.0]), torch.diag(torch.tensor([1.0, 0.0])), torch.tensor([True, False]))
    assert balancer.initial_losses.tolist() == [2, 1]
    for _ in range(400):
        weights = balancer(torch.tensor([2.0, 0.5]), torch.diag(norms**2))
    assert balancer.initial_losses.tolist() == [2, 0.5]
    # Equal norms and equal rates: nothing to balance, up to one step of the weights' own Adam.
    torch.testing.assert_close(weights, torch.ones(2), rtol=0, atol=0.06)


def test_gradnorm_holds_an_absent_weight_and_keeps_the_sum() -> None:
    balancer = make_balancer("gradnorm", 3)
    norms = torch.diag(torch.tensor([1.0, 16.0, 4.0]))
    for _ in range(30):
        before = balancer(torch.tensor([1.0, 0.5, 0.9]), norms)
    before = balancer.weights.detach().clone()
    partial = norms.clone()
    partial[1, 1] = 0
    for _ in range(20):
        weights = balancer(torch.tensor([1.0, 0.0, 0.9]), partial, torch.tensor([True, False, True]))
        assert weights[1] == 0
    assert balancer.weights[1] == before[1]
    assert not torch.equal(balancer.weights[0], before[0])
    assert balancer.weights.sum().item() == pytest.approx(3, abs=1e-5)


@pytest.mark.parametrize("name", ["uncertainty", "uncertainty_as_released", "gradnorm_as_released"])
def test_learned_weights_of_an_absent_task_do_not_drift(name: str) -> None:
    balancer = make_balancer(name, 2)
    optimiser = torch.optim.AdamW(balancer.parameter_groups(1e-5), lr=0.05)
    (learned,) = [parameter for group in balancer.parameter_groups(0) for parameter in group["params"]]
    for _ in range(50):
        balancer(torch.tensor([0.7, 0.0]), present=torch.tensor([True, False]))
        optimiser.step()
    # Weights that are divided by their mean move together; the absent one is not trained.
    assert learned.grad[1] == 0
    assert learned[1] == 0
    assert learned[0] != 0


def test_cats_keeps_the_average_of_an_absent_task() -> None:
    balancer = make_balancer("cats_as_released", 2)
    balancer(torch.tensor([0.5, 0.5]))
    for _ in range(50):
        weights = balancer(torch.tensor([0.95, 0.0]), present=torch.tensor([True, False]))
    assert balancer.average[1].item() == pytest.approx(0.95)
    assert weights.tolist() == pytest.approx([1.0, 0.0], abs=1e-3)
