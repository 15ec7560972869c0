"""PCGrad: gradients that conflict are projected onto each other's normal planes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relif_core.balancers.base import Array, SmallMatrixBalancer


class PCGrad(SmallMatrixBalancer):
    r"""The sum of gradient surgery's projected gradients, as coefficients of the original gradients.

    For every task i the projected gradient starts as :math:`g_i` and meets the others in a random order of
    its own: on conflict, :math:`\langle \hat g_i, g_j\rangle < 0`,

    .. math:: \hat g_i \leftarrow \hat g_i - \frac{\langle \hat g_i, g_j\rangle}{\|g_j\|^2}\, g_j .

    :math:`\hat g_i` stays in the span of the gradients, so its coefficients follow from the Gram matrix
    alone, and :math:`w` is their sum over tasks.

    Special cases: without conflict, and for one task, all weights are 1. A zero gradient neither conflicts
    nor changes (weight 1). Opposite gradients of two tasks cancel: the direction is zero. For two tasks the
    direction conflicts with neither gradient.

    Source: Yu, Kumar, Gupta, Levine, Hausman and Finn, Gradient surgery for multi-task learning, NeurIPS
    2020, algorithm 1.
    """

    def __init__(self, tasks: int, seed: int = 0) -> None:
        super().__init__(tasks, seed)
        self.generator = torch.Generator().manual_seed(seed)

    def get_extra_state(self) -> Tensor:
        """Return the state of the random generator."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Put the random generator back."""
        self.generator.set_state(state.cpu())

    def _orders(self, tasks: int) -> NDArray[np.int64]:
        """Return the order in which every task (row) meets the tasks, itself included."""
        draws = [torch.randperm(tasks, generator=self.generator) for _ in range(tasks)]
        return torch.stack(draws).numpy()

    def _solve(self, gram: Array, scale: float) -> Array:
        return projected_coefficients(gram, self._orders(len(gram))).sum(axis=0)


class PCGradAsReleased(PCGrad):
    """PCGrad with one common random order for all tasks, the mean, projected heads and a gradient clip of 5.

    The inner products run over all parameters, so each head's squared norm counts on the diagonal. Heads of
    different tasks share no parameter; the head of task i therefore receives its gradient times the same
    coefficient as the shared part.

    Source: released code of the paper under study; the method it stands for is :class:`PCGrad`.
    """

    gradient_scope = "all"
    weighted_heads = True
    gradient_clip = 5.0

    def _orders(self, tasks: int) -> NDArray[np.int64]:
        return np.tile(torch.randperm(tasks, generator=self.generator).numpy(), (tasks, 1))

    def _at_zero_gradients(self, tasks: int) -> Array:
        return np.full(tasks, 1 / tasks)

    def _solve(self, gram: Array, scale: float) -> Array:
        return super()._solve(gram, scale) / len(gram)


def projected_coefficients(gram: Array, orders: NDArray[np.int64]) -> Array:
    """Return the coefficients [T, T] of every projected gradient (rows) over the gradients (columns).

    Args:
        gram: Inner products [T, T] of the gradients.
        orders: [T, T], row i the tasks in the order in which task i meets them; meeting itself is no step.
    """
    tasks = np.arange(len(gram))
    coefficients = np.eye(len(gram))
    squared_norms = gram.diagonal()
    for others in orders.T:  # one meeting of every task at a time
        products = np.einsum("ij,ij->i", coefficients, gram[others])
        conflict = (products < 0) & (others != tasks) & (squared_norms[others] > 0)
        steps = np.divide(products, squared_norms[others], out=np.zeros(len(gram)), where=conflict)
        coefficients[tasks, others] -= steps
    return coefficients
