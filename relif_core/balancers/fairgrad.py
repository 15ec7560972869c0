"""FairGrad: weights under which the tasks' rates of decrease are α-fair; Nash-MTL is the case α = 1."""

import numpy as np
from torch import Tensor

from relif_core.balancers.base import Array, Balancer, SmallMatrixBalancer

LARGEST = 1e4
"""A scaled solution this large (orthogonal gradients: at most 1) means that the gradients cancel."""

RIDGE = 1e-6
"""Added to the cosines of gradients that cancel, so that a solution exists."""


class FairGrad(SmallMatrixBalancer):
    r"""The positive weights whose combined gradient treats the tasks α-fairly.

    .. math:: G^\top G\,w = w^{-1/\alpha}, \qquad w > 0 \quad \text{(elementwise power)},

    the optimality condition of the strictly convex :math:`\tfrac12 w^\top (G^\top G) w - \sum_i h(w_i)` with
    :math:`h'(w) = w^{-1/\alpha}`; it is solved by a damped Newton method in double precision, after every
    gradient is scaled to length one, so sizes from 1e-12 to 1e12 may meet. Multiplying all gradients by
    :math:`c` multiplies the weights by :math:`c^{-2\alpha/(1+\alpha)}` and leaves the direction as it is.

    Special cases: one task, :math:`w = \|g\|^{-2\alpha/(1+\alpha)}`; orthogonal gradients, the same for each.
    Parallel gradients have a regular solution. A zero gradient admits none (nothing can decrease that loss):
    its weight is 0 and the other tasks share the equation; all zero, all weights are 0. Where gradients
    cancel (opposite ones, or any convex combination near zero), no solution exists either; the cosines then
    get 1e-6 on the diagonal, which gives large weights with a bounded, nearly cancelling sum.

    Args:
        alpha: Fairness :math:`\alpha > 0`; 1 is proportional, large values approach max-min fairness.

    Source: Ban and Ji, Fair resource allocation in multi-task learning, ICML 2024.
    """

    def __init__(self, tasks: int, seed: int = 0, alpha: float = 2.0) -> None:
        super().__init__(tasks, seed)
        self._require(0 < alpha < float("inf"), f"alpha must be positive, got {alpha}")
        self.alpha = alpha

    def _at_zero_gradients(self, tasks: int) -> Array:
        return np.zeros(tasks)

    def _solve(self, gram: Array, scale: float) -> Array:
        weights = np.zeros(len(gram))
        present = gram.diagonal() > 0
        weights[present] = _fair_weights(gram[np.ix_(present, present)], self.alpha)
        return weights * scale ** (-self.alpha / (1 + self.alpha))


class NashMTL(FairGrad):
    r"""The Nash bargaining solution, :math:`G^\top G\,w = 1/w`: FairGrad with :math:`\alpha = 1`.

    The equation is solved to the end in every step; the publication approximates it by a sequence of convex
    programs and may keep the weights for several steps. Special cases are those of :class:`FairGrad`.

    Source: Navon et al., Multi-task learning as a bargaining game, ICML 2022.
    """

    def __init__(self, tasks: int, seed: int = 0) -> None:
        super().__init__(tasks, seed, alpha=1.0)


class FairGradAsReleased(Balancer):
    r"""Weights inversely proportional to the gradient norms, with sum T; no fairness parameter enters.

    .. math:: w_i = T\,\|g_i\|^{-1} / \textstyle\sum_j \|g_j\|^{-1} .

    The sum is this project's normalisation. Directions do not matter; one task has weight 1. A zero gradient
    has weight 0 and leaves the sum to the others; all zero, all weights are 0.

    Source: released code of the paper under study; the method it stands for is :class:`FairGrad`.
    """

    needs_gradients = True
    weighted_heads = False

    def _weights_from_gram(self, losses: Tensor, gram: Tensor, present: Tensor) -> Tensor:
        norms = gram.diagonal().double().clamp_min(0).sqrt().where(present, 0.0)
        inverse = (norms.max() / norms).where(norms > 0, 0.0)
        return inverse * (present.sum() / inverse.sum().clamp_min(1.0))


def _fair_weights(gram: Array, alpha: float) -> Array:
    r"""Return w > 0 with ``gram @ w = w ** (-1 / alpha)``; ``gram`` has a positive diagonal.

    With lengths :math:`n_i`, cosines C and :math:`y_i = n_i w_i / t` the equation becomes
    :math:`C y = b\,y^{-1/\alpha}`, :math:`b_i \propto n_i^{1/\alpha - 1}`, with t chosen so that the largest
    b is 1.
    """
    lengths = np.sqrt(gram.diagonal())
    cosines = gram / np.outer(lengths, lengths)
    log_pull = (1 / alpha - 1) * np.log(lengths)
    shift = log_pull.max()
    pull = np.exp(log_pull - shift)
    start = pull ** (alpha / (1 + alpha))  # the solution for orthogonal gradients
    solution = _newton(cosines, pull, 1 / alpha, start)
    if solution is None:
        lowest = np.linalg.eigvalsh(cosines)[0]
        solution = _newton(
            cosines + (RIDGE - min(lowest, 0.0)) * np.eye(len(gram)), pull, 1 / alpha, start, np.inf
        )
    assert solution is not None
    return solution * np.exp(shift * alpha / (1 + alpha)) / lengths


def _newton(matrix: Array, pull: Array, power: float, start: Array, limit: float = LARGEST) -> Array | None:
    """Return y > 0 with ``matrix @ y = pull * y ** -power``, or None if it grows past its allowed size."""
    y = start.copy()
    for _ in range(2000):
        right = pull * y**-power
        residual = matrix @ y - right
        # In units of y the system is matrix * y yᵀ + diag(power * right * y): well scaled for any sizes.
        system = matrix * np.outer(y, y)
        system.flat[:: len(y) + 1] += power * right * y
        unit = np.sqrt(system.diagonal())
        try:
            step = np.linalg.solve(system / np.outer(unit, unit), -residual * y / unit) / unit
        except np.linalg.LinAlgError:
            return None
        largest = np.abs(step).max()
        if largest < 1e-14:
            break
        # Damped, so that y stays positive.
        y = y * (1 + step / (1 + largest) if largest > 0.25 else 1 + step)
        if y.max() > limit:
            return None
        if largest < 1e-12:
            break
    return y
