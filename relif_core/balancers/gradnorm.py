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

    .. math:: \sum_i |G_i - \bar G r_i^\alpha|, \qquad \text{targets } \bar G r_i^\alpha \text{ held constant},

    whose derivative is :math:`\operatorname{sign}(G_i - \bar G r_i^\alpha)\, n_i`, by Adam with a learning rate of
    their own, and are then divided by their mean. A step uses the weights from before its own update; the first
    call stores :math:`L_i(0)` and uses weights 1.

    Special cases: one task keeps weight 1. A zero gradient gives its task no pull of its own (only the
    division moves its weight); all zero, the weights stay up to Adam's momentum. Directions do not matter, so
    parallel and opposite gradients are alike. A first loss below 1e-12 counts as 1e-12; where all losses are zero
    every :math:`r_i` is 1. Weights are kept at or above 1e-4 before the division.

    Args:
        tasks: number of tasks T.
        seed: not used.
        alpha: strength :math:`\alpha \ge 0` of the pull to equal rates.
        learning_rate: of the weights' own Adam. The value, and the floor above, are this project's choice.

    Source: Chen, Badrinarayanan, Lee and Rabinovich, GradNorm: gradient normalization for adaptive loss balancing
    in deep multitask networks, ICML 2018.
    """

    title = "GradNorm"
    source = "Chen, Badrinarayanan, Lee and Rabinovich 2018"
    needs_gradients = True
    weighted_heads = False

    floor = 1e-4
    momentum = (0.9, 0.999)

    weights: Tensor
    initial_losses: Tensor
    first_moment: Tensor
    second_moment: Tensor
    steps: Tensor

    def __init__(self, tasks: int, seed: int = 0, alpha: float = 1.5, learning_rate: float = 0.025) -> None:
        super().__init__(tasks, seed)
        self._require(alpha >= 0, f"alpha must not be negative, got {alpha}")
        self._require(learning_rate > 0, f"learning_rate must be positive, got {learning_rate}")
        self.alpha = alpha
        self.learning_rate = learning_rate
        self.register_buffer("weights", torch.ones(tasks))
        self.register_buffer("initial_losses", torch.ones(tasks))
        self.register_buffer("first_moment", torch.zeros(tasks))
        self.register_buffer("second_moment", torch.zeros(tasks))
        self.register_buffer("steps", torch.zeros(()))

    def _weights_from_gram(self, losses: Tensor, gram: Tensor) -> Tensor:
        used = self.weights.clone()
        losses = losses.to(used)
        first = self.steps == 0
        self.initial_losses.copy_(torch.where(first, losses.clamp_min(1e-12), self.initial_losses))
        self._descend(self._slope(losses, gram.diagonal().clamp_min(0).sqrt().to(used)))
        return used

    def _slope(self, losses: Tensor, norms: Tensor) -> Tensor:
        """Return the derivative of the norm loss for the present weights, [T]."""
        ratios = losses / self.initial_losses
        mean = ratios.mean()
        rates = torch.where(mean > 0, ratios / mean, 1.0)
        weighted = self.weights * norms
        return torch.sign(weighted - weighted.mean() * rates**self.alpha) * norms

    def _descend(self, slope: Tensor) -> None:
        """Move the weights by one step of Adam and bring their mean back to 1."""
        fast, slow = self.momentum
        self.steps += 1
        self.first_moment.lerp_(slope, 1 - fast)
        self.second_moment.lerp_(slope.square(), 1 - slow)
        spread = (self.second_moment / (1 - slow**self.steps)).sqrt() + 1e-8
        step = self.first_moment / (1 - fast**self.steps) / spread
        self.weights.sub_(self.learning_rate * step).clamp_(min=self.floor)
        self.weights.div_(self.weights.mean())


class GradNormAsReleased(Balancer):
    r"""Log-weights that descend the weighted loss itself, because the released norm loss carries no gradient.

    :math:`w_i = e^{a_i}`, :math:`a_i = 0` at first, in the model's optimiser with its weight decay; the gradient is
    :math:`\partial/\partial a_i \sum_j e^{a_j} L_j = w_i L_i`, so all weights shrink, none is drawn to equal
    training rates, and every ``every`` steps the weights are divided by their mean. Gradients play no
    part; a zero loss leaves its log-weight alone; one task returns to weight 1 at every division.

    Args:
        tasks: number of tasks T.
        seed: not used.
        every: steps between two divisions, at least 1.

    Source: released code of the paper under study; the method it stands for is :class:`GradNorm`.
    """

    title = "GradNorm (as released)"
    source = "Chen, Badrinarayanan, Lee and Rabinovich 2018"
    version = "as_released"

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

    def _weights_from_losses(self, losses: Tensor) -> Tensor:
        due = (self.steps > 0) & (self.steps % self.every == 0)
        log_mean = self.log_weights.logsumexp(0) - math.log(self.tasks)
        self.log_weights.sub_(log_mean * due)
        self.steps += 1
        weights = self.log_weights.exp()
        self.log_weights.grad = weights * losses.to(weights)
        return weights
