"""Models: a shared encoder, one head per task, and the map from outputs to audit scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TaskLosses:
    """The losses of one batch.

    Attributes:
        values: [T] in the order of the model's tasks, 0 without gradient where the batch has no label.
        present: bool [T], where it has one.
    """

    values: Tensor
    present: Tensor


class MultiTaskModel(nn.Module):
    """An ``encoder`` that all tasks share and ``heads`` by task: what the training loop reads of a model.

    ``capturable`` tells whether all whole batches have one shape and no pass waits for the host.
    """

    capturable: ClassVar[bool]
    encoder: nn.Module
    heads: nn.ModuleDict

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks in the order of ``losses``."""
        return tuple(self.heads)

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters: those on which task gradients can conflict."""
        return list(self.encoder.parameters())

    def head_parameters(self, task: str) -> list[nn.Parameter]:
        """Return the parameters of one task's head."""
        return list(self.heads[task].parameters())

    def losses(self, outputs: Any, batch: Mapping[str, Tensor]) -> TaskLosses:
        """Return the task losses, each a mean over the batch's labelled entries.

        Args:
            outputs: Of this batch.
            batch: See the model's class.
        """
        values, present = zip(*(self._loss(task, outputs, batch) for task in self.heads), strict=True)
        return TaskLosses(torch.stack(values), torch.stack(present))

    def _loss(self, task: str, outputs: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss of one task, and whether the batch has a label of it."""
        raise NotImplementedError

    def scores(self, outputs: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the audit score [B] in [0, 1] of every task, 0 where a sample carries no label for it.

        Args:
            outputs: Of this batch.
            batch: See the model's class.
        """
        raise NotImplementedError

    def features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what an external distance between samples compares, [B, F]."""
        raise NotImplementedError
