"""Homoscedastic uncertainty weighting."""

from typing import Any

import torch
from torch import Tensor, nn

from relif_core.balancers.base import Balancer


class Uncertainty(Balancer):
    r"""Learned log-variances :math:`s_i`, 0 at first: the total is :math:`\sum_i e^{-s_i} L_i + s_i/2`.

    :math:`w_i = e^{-s_i}`, and :math:`s_i` belongs to the model's optimiser, without weight decay.
    ``forward`` sets its gradient in closed form, :math:`\partial/\partial s_i = \tfrac12 - e^{-s_i} L_i`, so
    at rest :math:`w_i = 1/(2 L_i)`. Gradients play no part: with a zero loss the weight of the task grows
    without bound, one task behaves like any other. An absent task has gradient 0: only the optimiser's
    momentum still moves its :math:`s_i`.

    Source: Kendall, Gal and Cipolla, Multi-task learning using uncertainty to weigh losses for scene geometry
    and semantics, CVPR 2018.
    """

    def __init__(self, tasks: int, seed: int = 0) -> None:
        super().__init__(tasks, seed)
        self.log_variance = nn.Parameter(torch.zeros(tasks))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the log-variances as one group without weight decay."""
        return [{"params": [self.log_variance], "weight_decay": 0.0}]

    def _weights_from_losses(self, losses: Tensor, present: Tensor) -> Tensor:
        weights = torch.exp(-self.log_variance)
        self.log_variance.grad = (0.5 - weights * losses.to(weights)).where(present, 0.0)
        return weights


class UncertaintyAsReleased(Uncertainty):
    """As :class:`Uncertainty`, with weight decay pulling the log-variances to 0.

    Source: released code of the paper under study.
    """

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the log-variances as one group with the weight decay of the model."""
        return [{"params": [self.log_variance], "weight_decay": weight_decay}]
