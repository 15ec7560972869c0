"""GradNorm: weights that bring the tasks' gradient norms to a common scale."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from relif_core.balancers.base import Balancer


class GradNorm(Balancer):
    r"""Weights, with sum T, learned so that all tasks train at similar rates.

    With :math:`n_i = \|\nabla L_i\|`, :math:`G_i = w_i n_i`, their mean :math:`\bar G`, the loss ratios
    :math:`\tilde L_i = L_i/L_i(0)` and the relative inverse training rates
    :math:`r_i = \tilde L_i/\operatorname{mean}_j \tilde L_j`, the weights descend

    .. math:: \sum_i |G_i - \bar G r_i^\alpha|, \qquad \text{targets } \bar G r_i^\alpha \text{ held
        constant},

    whose derivative is :math:`\operatorname{sign}(G_i - \bar G r_i^\alpha)\, n_i`, by Adam with a learning
    rate of their own, and are then divided by their mean. A step uses the weights from before its own update;
    the first call stores :math:`L_i(0)` and uses weights 1.

    Special cases: one task keeps weight 1. A zero gradient gives its task no pull of its own (only the
    division moves its weight); all zero, the weights stay up to Adam's momentum. Directions do not matter, so
    parallel and opposite gradients are alike. A first loss below 1e-12 counts as 1e-12; where all losses are
    zero every :math:`r_i` is 1. Weights are kept at or above 1e-4 before the division. An absent task keeps
    its weight and stays out of both means; its :math:`L_i(0)` is its loss in the first batch that has it.

    Args:
        alpha: Strength :math:`\alpha \ge 0` of the pull to equal rates.
        learning_rate: Of the weights' own Adam. The value, and the floor above, are this project's choice.

    Source: Chen, Badrinarayanan, Lee and Rabinovich, GradNorm: gradient normalization for adaptive loss
    balancing in deep multitask networks, ICML 2018.
    """

    needs_gradients = True
    weighted_heads = False

    floor = 1e-4

    initial_losses: Tensor
    seen: Tensor

    def __init__(self, tasks: int, seed: int = 0, alpha: float = 1.5, learning_rate: float = 0.025) -> None:
        super().__init__(tasks, seed)
        self._require(alpha >= 0, f"alpha must not be negative, got {alpha}")
        self._require(learning_rate > 0, f"learning_rate must be positive, got {learning_rate}")
        self.alpha = alpha
        self.weights = nn.Parameter(torch.ones(tasks))
        self.optimizer = torch.optim.Adam([self.weights], lr=learning_rate)
        self.register_buffer("initial_losses", torch.ones(tasks))
        self.register_buffer("seen", torch.zeros(tasks, dtype=torch.bool))

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of the weights' optimiser."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put the weights' optimiser back."""
        self.optimizer.load_state_dict(state)

    def _weights_from_gram(self, losses: Tensor, gram: Tensor, present: Tensor) -> Tensor:
        used = self.weights.detach().clone()
        losses = losses.to(used)
        first = present & ~self.seen
        self.initial_losses.copy_(torch.where(first, losses.clamp_min(1e-12), self.initial_losses))
        self.seen |= present
        self.weights.grad = self._slope(losses, gram.diagonal().clamp_min(0).sqrt().to(used), present)
        self.optimizer.step()
        moved = self.weights.detach().clamp(min=self.floor).where(present, 0.0)
        # Absent tasks keep their weight; the others share what is left of the sum T.
        share = (self.tasks - used.masked_fill(present, 0.0).sum()) / moved.sum().clamp_min(self.floor)
        self.weights.copy_((moved * share).where(present, used))
        return used

    def _slope(self, losses: Tensor, norms: Tensor, present: Tensor) -> Tensor:
        """Return the derivative of the norm loss for the present weights, [T], 0 for absent tasks."""
        count = present.sum().clamp_min(1)
        ratios = (losses / self.initial_losses).where(present, 0.0)
        mean = ratios.sum() / count
        rates = torch.where(mean > 0, ratios / mean, 1.0)
        weighted = (self.weights.detach() * norms).where(present, 0.0)
        target = weighted.sum() / count * rates**self.alpha
        return (torch.sign(weighted - target) * norms).where(present, 0.0)


class GradNormAsReleased(Balancer):
    r"""Log-weights that descend the weighted loss itself, because the released norm loss carries no gradient.

    :math:`w_i = e^{a_i}`, :math:`a_i = 0` at first, in the model's optimiser with its weight decay; the
    gradient is :math:`\partial/\partial a_i \sum_j e^{a_j} L_j = w_i L_i`, so all weights shrink, none is
    drawn to equal training rates, and every ``every`` steps the weights are divided by their mean. Gradients
    play no part; a zero loss leaves its log-weight alone; one task returns to weight 1 at every division.

    Args:
        every: Steps between two divisions, at least 1.

    Source: released code of the paper under study; the method it stands for is :class:`GradNorm`.
    """

    steps: Tensor

    def __init__(self, tasks: int, seed: int = 0, every: int = 100) -> None:
        super().__init__(tasks, seed)
        self._require(every >= 1, f"every must be at least 1, got {every}")
        self.every = every
        self.log_weights = nn.Parameter(torch.zeros(tasks))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the log-weights as one group with the weight decay of the model."""
        return [{"params": [self.log_weights], "weight_decay": weight_decay}]

    def _weights_from_losses(self, losses: Tensor, present: Tensor) -> Tensor:
        due = (self.steps > 0) & (self.steps % self.every == 0)
        log_mean = self.log_weights.logsumexp(0) - math.log(self.tasks)
        self.log_weights.sub_(log_mean * due)
        self.steps += 1
        weights = self.log_weights.exp()
        self.log_weights.grad = (weights * losses.to(weights)).where(present, 0.0)
        return weights
