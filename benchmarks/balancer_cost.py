"""What a training step costs with every balancer: ``python -m benchmarks.balancer_cost``.

Four tasks on a two-layer LSTM (width 128, 24 hours of 76 inputs, batch 32), one thread, processor time so that other
work on the machine does not count. "Step" is forward, backward, clipping and AdamW relative to ERM, all balancers
taking turns; "weights" is the balancer alone. A gradient balancer needs one backward pass per task, which is
where its cost lies.
"""

import statistics
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from relif_core.balancers import BALANCERS, Balancer, make_balancer

TASKS, BATCH, HOURS, INPUTS, WIDTH, ROUNDS = 4, 32, 24, 76, 128, 15


@dataclass
class Trainee:
    """A model with its balancer and optimiser, and the times of its steps."""

    balancer: Balancer
    encoder: nn.LSTM = field(default_factory=lambda: nn.LSTM(INPUTS, WIDTH, 2, batch_first=True))
    heads: nn.Linear = field(default_factory=lambda: nn.Linear(WIDTH, TASKS))
    step_times: list[float] = field(default_factory=list)
    weight_times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared = list(self.encoder.parameters())
        self.own = list(self.heads.parameters())
        groups = [{"params": [*self.shared, *self.own]}, *self.balancer.parameter_groups(1e-5)]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-3, weight_decay=1e-5)

    def losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the four task losses."""
        logits = self.heads(self.encoder(inputs)[0][:, -1])
        entries = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return entries.mean(0)

    def weights(self, losses: Tensor, gram: Tensor | None) -> Tensor:
        """Return the balancer's weights and note how long it took."""
        start = time.process_time()
        weights = self.balancer(losses.detach(), gram)
        self.weight_times.append(time.process_time() - start)
        return weights

    def step(self, inputs: Tensor, labels: Tensor) -> None:
        """Train on one batch."""
        start = time.process_time()
        self.optimiser.zero_grad()
        losses = self.losses(inputs, labels)
        if self.balancer.needs_gradients:
            self._combined_backward(losses)
        else:
            (self.weights(losses, None) * losses).sum().backward()
        nn.utils.clip_grad_norm_([*self.shared, *self.own], 1.0)
        self.optimiser.step()
        self.step_times.append(time.process_time() - start)

    def _combined_backward(self, losses: Tensor) -> None:
        rows = [
            torch.cat([part.flatten() for part in torch.autograd.grad(loss, self.shared, retain_graph=True)])
            for loss in losses
        ]
        gradients = torch.stack(rows)
        direction = self.weights(losses, gradients @ gradients.T) @ gradients
        own = torch.autograd.grad(losses.sum(), self.own)
        for parameter, gradient in zip(self.own, own, strict=True):
            parameter.grad = gradient
        sizes = [parameter.numel() for parameter in self.shared]
        for parameter, part in zip(self.shared, direction.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)


def main() -> None:
    """Print one line per balancer."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs, labels = torch.randn(BATCH, HOURS, INPUTS), torch.rand(BATCH, TASKS).round()
    trainees = {name: Trainee(make_balancer(name, TASKS)) for name in BALANCERS}
    for _ in range(ROUNDS):
        for trainee in trainees.values():
            trainee.step(inputs, labels)
    base = statistics.median(trainees["erm"].step_times[2:])
    print(f"ERM step: {1000 * base:.1f} ms\n")
    print("| balancer | step / ERM step | weights, ms |\n| --- | ---: | ---: |")
    for trainee in trainees.values():
        ratio = statistics.median(trainee.step_times[2:]) / base
        own = 1000 * statistics.median(trainee.weight_times[2:])
        print(f"| {trainee.balancer.title} | {ratio:.2f} | {own:.2f} |")


if __name__ == "__main__":
    main()
