"""Random quadratic multi-task problems."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass
class QuadraticProblem:
    r"""Tasks :math:`L_i(\theta) = \tfrac12 (\theta - c_i)^\top A_i (\theta - c_i) + b_i` in float64."""

    curvatures: Tensor
    centres: Tensor
    offsets: Tensor

    def losses(self, point: Tensor) -> Tensor:
        difference = point - self.centres
        return 0.5 * torch.einsum("ti,tij,tj->t", difference, self.curvatures, difference) + self.offsets

    def gradients(self, point: Tensor) -> Tensor:
        return torch.einsum("tij,tj->ti", self.curvatures, point - self.centres)


@pytest.fixture
def quadratic() -> Callable[..., QuadraticProblem]:
    def make(seed: int, tasks: int = 3, size: int = 8) -> QuadraticProblem:
        generator = torch.Generator().manual_seed(seed)
        roots = torch.randn(tasks, size, size, generator=generator, dtype=torch.float64)
        return QuadraticProblem(
            curvatures=roots @ roots.mT / size,
            centres=torch.randn(tasks, size, generator=generator, dtype=torch.float64),
            offsets=0.1 + torch.rand(tasks, generator=generator, dtype=torch.float64),
        )

    return make
