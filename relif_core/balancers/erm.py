"""Empirical risk minimisation: every task weighs the same."""

import torch
from torch import Tensor

from relif_core.balancers.base import Balancer


class ERM(Balancer):
    r"""The plain sum of the losses: :math:`w_i = 1`, whatever the losses and gradients.

    Source: Vapnik, Principles of risk minimization for learning theory, NeurIPS 1991.
    """

    def _weights_from_losses(self, losses: Tensor, present: Tensor) -> Tensor:
        return torch.ones_like(losses)
