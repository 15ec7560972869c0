"""CAGrad: the largest worst-case decrease in a ball around the mean gradient."""

import numpy as np

from relif_core.balancers.base import Array, SmallMatrixBalancer

SMALLEST_NORM = 1e-7
"""Below this combined norm (largest gradient 1) the worst case has no direction."""


class CAGrad(SmallMatrixBalancer):
    r"""The direction that lowers the worst task most, within :math:`c\|g_0\|` of the mean :math:`g_0`.

    The dual problem is solved on the probability simplex, from the Gram matrix alone (SLSQP, as in the
    publication; the worst decrease is then within 1e-4 of the best):

    .. math::
        u = \operatorname{arg\,min}_{u \in \Delta}\; g_u^\top g_0 + c\,\|g_0\|\,\|g_u\|, \quad g_u = \sum_i
        u_i g_i, \qquad d = g_0 + \frac{c\,\|g_0\|}{\|g_u\|}\, g_u .

    The weights are those of :math:`d` times T, so that :math:`c = 0` gives weight 1 for each task.

    Special cases: parallel gradients of one length only lengthen the mean. Where :math:`g_u` or :math:`g_0`
    vanishes (opposite gradients of one length, or all zero) all weights are 1. One task has weight :math:`1 +
    c`.

    Args:
        c: Radius of the ball relative to the mean gradient, in [0, 1).

    Source: Liu, Liu, Jin, Stone and Liu, Conflict-averse gradient descent for multi-task learning, NeurIPS
        2021.
    """

    def __init__(self, tasks: int, seed: int = 0, c: float = 0.4) -> None:
        super().__init__(tasks, seed)
        self._require(0 <= c < 1, f"c must lie in [0, 1), got {c}")
        self.c = c

    def _solve(self, gram: Array, scale: float) -> Array:
        mean_products = gram.mean(axis=1)
        radius = self.c * float(np.sqrt(mean_products.mean().clip(0.0)))
        weights = np.ones(len(gram))
        if radius <= SMALLEST_NORM:
            return weights
        mixture = _worst_case(gram, mean_products, radius)
        norm = float(np.sqrt((mixture @ gram @ mixture).clip(0.0)))
        if norm <= SMALLEST_NORM:
            return weights
        return weights + len(gram) * radius / norm * mixture


def _worst_case(gram: Array, mean_products: Array, radius: float) -> Array:
    """Return the point of the simplex where ``u @ mean_products + radius * sqrt(u @ gram @ u)`` is least."""
    from scipy.optimize import minimize

    def value_and_slope(u: Array) -> tuple[float, Array]:
        product = gram @ u
        norm = float(np.sqrt((u @ product).clip(1e-300)))
        return float(u @ mean_products + radius * norm), mean_products + radius * product / norm

    tasks = len(gram)
    found = minimize(
        value_and_slope,
        np.full(tasks, 1 / tasks),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * tasks,
        constraints={"type": "eq", "fun": lambda u: u.sum() - 1, "jac": lambda u: np.ones(tasks)},
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    mixture = np.clip(found.x, 0.0, None)
    return mixture / mixture.sum()
