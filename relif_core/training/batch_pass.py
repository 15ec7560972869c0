"""What a training step computes of a batch before anything is weighed: losses, penalty, task gradients.

On a GPU a dense model's pass is a thousand small launches, which cost the host more than the GPU. There the
pass over a whole batch is captured once as a CUDA graph and replayed in every later step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from relif_core.models import TaskLosses
from relif_core.penalties import Penalty

Flat = tuple[Tensor, ...]


@dataclass(frozen=True)
class TaskGradients:
    """The gradient of every task's loss.

    Attributes:
        shared: [T, n], by the shared parameters, flat.
        heads: T lists, by each parameter of the task's head.
    """

    shared: Tensor
    heads: Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class PassedBatch:
    """What a batch gives.

    Attributes:
        penalty: R (with a gradient path), None without a penalty; so ``rate``, its violation rate, and
            ``valid``, false where the step is skipped.
        gradients: Of the tasks, for balancers that need them.
    """

    losses: TaskLosses
    penalty: Tensor | None
    rate: Tensor | None
    valid: Tensor | None
    gradients: TaskGradients | None


class BatchPass:
    """Callable: a batch to a :class:`PassedBatch`; on a GPU, for a model that says so, through a CUDA graph.

    Captured are whole batches of a model whose ``capturable`` is true: all their arrays have one shape, and
    nothing in the pass waits for the host. A pass that leaves both task gradients and a penalty with a
    gradient path is not captured, because a graph's second backward would read what the first has
    overwritten. Replays compute what the eager pass does, with the same kernels.

    Args:
        model: As ``Problem.build_model`` returns it.
        penalty: None without one.
        precision: "float32" or "bfloat16", of the model's autocast region.
        tasks: Their names, in the order of the losses.
        by_task: Whether the tasks' gradients are wanted.
        batch_size: Of a whole batch.
        capture: False: never.
    """

    def __init__(
        self,
        model: Any,
        penalty: Penalty | None,
        precision: str,
        tasks: Sequence[str],
        *,
        by_task: bool,
        batch_size: int,
        capture: bool = True,
    ) -> None:
        self._eager = _Forward(model, penalty, precision, tasks if by_task else ())
        self._batch_size = batch_size
        on_gpu = next(model.parameters()).device.type == "cuda"
        self._captures = capture and on_gpu and model.capturable and not (by_task and penalty is not None)
        self._graph: Callable[[Mapping[str, Tensor]], Flat] | None = None

    def __call__(self, batch: Mapping[str, Tensor]) -> PassedBatch:
        """Return what the batch gives; buffers of model and penalty move as in any training step."""
        forward: Callable[[Mapping[str, Tensor]], Flat] = self._eager
        if self._captures and len(next(iter(batch.values()))) == self._batch_size:
            self._graph = forward = self._graph or self._capture(batch)
        return self._eager.named(forward(batch))

    def _capture(self, batch: Mapping[str, Tensor]) -> Callable[[Mapping[str, Tensor]], Flat]:
        eager = self._eager
        own = _Forward(eager.model, eager.penalty, eager.precision, eager.tasks, cached=False)
        before = [buffer.clone() for buffer in own.buffers()]
        sample: Any = ({name: values.clone() for name, values in batch.items()},)
        # A pass that returns its gradients leaves no gradient path to its parameters.
        graph: Any = (lambda arrays: own(arrays)) if own.tasks else own
        # Gradients of captured passes are gathered on the stream of the capture, which backward waits for.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        graph = torch.cuda.make_graphed_callables(graph, sample, allow_unused_input=True)
        with torch.no_grad():  # the passes before the capture have moved them
            for buffer, value in zip(own.buffers(), before, strict=True):
                buffer.copy_(value)
        return cast(Callable[[Mapping[str, Tensor]], Flat], graph)


class _Forward(nn.Module):
    """The pass as a function of a batch's arrays to plain tensors, whose parameters are the model's.

    ``tasks`` are those whose gradients are wanted; ``cached`` lets autocast keep the weights that it has
    cast, which a graph must not.
    """

    def __init__(
        self, model: Any, penalty: Penalty | None, precision: str, tasks: Sequence[str], cached: bool = True
    ) -> None:
        super().__init__()
        self.model, self.penalty, self.precision, self.cached = model, penalty, precision, cached
        self.tasks = tuple(tasks)

    def forward(self, batch: Mapping[str, Tensor]) -> Flat:
        """Return losses and presence [T]; R, rate, validity; gradients: shared [T, n], then of each head."""
        model = self.model
        device = next(iter(batch.values())).device.type
        with torch.autocast(
            device, torch.bfloat16, enabled=self.precision == "bfloat16", cache_enabled=self.cached
        ):
            outputs = model(batch)
            losses = model.losses(outputs, batch)
        found: Flat = ()
        if self.penalty is not None:
            external = getattr(self.penalty, "needs_features", False)
            reads = model.features(batch) if external else outputs.embedding
            penalty = self.penalty(reads, model.scores(outputs, batch))
            found = (penalty.loss, penalty.violation_rate, penalty.valid)
        if not self.tasks:
            return losses.values, losses.present, *found
        shared = model.shared_parameters()
        rows, heads = [], []
        for index, task in enumerate(self.tasks):
            last = self.penalty is None and index == len(self.tasks) - 1
            gradients = torch.autograd.grad(
                losses.values[index], shared + model.head_parameters(task),
                retain_graph=not last, allow_unused=True, materialize_grads=True,
            )  # fmt: skip
            rows.append(torch.cat([gradient.flatten() for gradient in gradients[: len(shared)]]))
            heads += gradients[len(shared) :]
        return losses.values.detach(), losses.present, *found, torch.stack(rows), *heads

    def named(self, flat: Flat) -> PassedBatch:
        """Give the parts of what ``forward`` returned their names."""
        values, present, *rest = flat
        penalty = rate = valid = gradients = None
        if self.penalty is not None:
            penalty, rate, valid, *rest = rest
            rate = rate.detach()  # every output of a captured pass has a gradient path
        if self.tasks:
            shared, *rest = rest
            heads = []
            for task in self.tasks:
                count = len(self.model.head_parameters(task))
                heads.append(rest[:count])
                rest = rest[count:]
            gradients = TaskGradients(shared, heads)
        return PassedBatch(TaskLosses(values, present), penalty, rate, valid, gradients)
