"""The loss weighting behind the "CATS" rows of the paper under study."""

import torch
from torch import Tensor

from relif_core.balancers.base import Balancer


class CATSAsReleased(Balancer):
    r"""Weights proportional to the moving average of the losses: harder tasks weigh more.

    .. math:: m_i \leftarrow a L_i + (1-a)\,m_i, \qquad w_i = T m_i / \textstyle\sum_j m_j ,

    with :math:`m_i = 1` at first and the present loss taken in before use. Gradients play no part; one task
    has weight 1. Losses must not be negative.

    The publication describes a dynamic-graph system for continuous analytics targets, which is no loss
    weighting and is not reproduced; this is what the released code runs under its name.

    Args:
        ema: Weight :math:`a` of the new loss, in (0, 1].

    Source: released code for Liu, Liu and Ge 2023.
    """

    average: Tensor

    def __init__(self, tasks: int, seed: int = 0, ema: float = 0.1) -> None:
        super().__init__(tasks, seed)
        self._require(0 < ema <= 1, f"ema must lie in (0, 1], got {ema}")
        self.ema = ema
        self.register_buffer("average", torch.ones(tasks))

    def _weights_from_losses(self, losses: Tensor, present: Tensor) -> Tensor:
        moved = self.average.lerp(losses.to(self.average), self.ema)
        self.average.copy_(moved.where(present, self.average))
        return self.average / self.average.mean()
