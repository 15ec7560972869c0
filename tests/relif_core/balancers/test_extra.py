"""CAGrad and the balancers that torchjd gives."""

import itertools
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torchjd import aggregation

from relif_core.balancers import make_balancer
from relif_core.errors import InputError

PEERS = {
    "upgrad": aggregation.UPGradWeighting,
    "mgda": aggregation.MGDAWeighting,
    "imtl_g": aggregation.IMTLGWeighting,
    "aligned_mtl": aggregation.AlignedMTLWeighting,
    "dual_proj": aggregation.DualProjWeighting,
}


def random_gram(seed: int, tasks: int) -> Tensor:
    gradients = torch.randn(tasks, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return gradients @ gradients.T


@pytest.mark.parametrize("name", PEERS)
def test_equals_torchjd_times_the_number_of_tasks(name: str) -> None:
    for seed in range(5):
        gram = random_gram(seed, 4)
        expected = 4 * PEERS[name]()(gram / gram.diagonal().max())
        torch.testing.assert_close(make_balancer(name, 4)(torch.ones(4).double(), gram), expected)


@pytest.mark.parametrize("name", ["upgrad", "dual_proj", "aligned_mtl"])
def test_equal_weighting_means_weight_one(name: str) -> None:
    weights = make_balancer(name, 3)(torch.ones(3).double(), torch.eye(3).double())
    torch.testing.assert_close(weights, torch.ones(3).double(), rtol=1e-3, atol=1e-3)


def test_options_reach_torchjd() -> None:
    assert make_balancer("mgda", 3, max_iters=7).weighting.max_iters == 7
    with pytest.raises(InputError, match="imtl_g"):
        make_balancer("imtl_g", 3, unknown=1)


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(InputError, match="UPGrad: is not available here"):
        make_balancer("upgrad", 3)


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("c", [0.2, 0.4, 0.8])
def test_cagrad_has_the_best_worst_decrease(tasks: int, c: float) -> None:
    """By brute force over a fine grid of the simplex: no mixture gives a lower dual value."""
    steps = 400
    grid = (
        np.array([u for u in itertools.product(range(steps + 1), repeat=tasks - 1) if sum(u) <= steps])
        / steps
    )
    grid = np.concatenate((grid, 1 - grid.sum(axis=1, keepdims=True)), axis=1)
    for seed in range(6):
        gram = random_gram(seed, tasks).numpy()
        weights = (
            make_balancer("cagrad", tasks, c=c)(torch.ones(tasks).double(), torch.from_numpy(gram)).numpy()
            / tasks
        )
        mean = np.full(tasks, 1 / tasks)
        radius = c * np.sqrt(mean @ gram @ mean)
        dual = grid @ gram @ mean + radius * np.sqrt(np.einsum("ui,ij,uj->u", grid, gram, grid))
        worst_decrease = (gram @ weights).min()
        offset = weights - mean
        assert np.sqrt(offset @ gram @ offset) <= radius * (1 + 1e-8)
        assert worst_decrease == pytest.approx(dual.min(), rel=2e-3)
        assert worst_decrease <= dual.min() + 1e-9  # weak duality


def test_cagrad_without_radius_is_the_mean() -> None:
    assert make_balancer("cagrad", 3, c=0.0)(torch.ones(3), random_gram(0, 3)).tolist() == [1, 1, 1]


def test_cagrad_with_one_task_lengthens_it() -> None:
    assert make_balancer("cagrad", 1)(torch.ones(1), torch.full((1, 1), 9.0)).item() == pytest.approx(1.4)
