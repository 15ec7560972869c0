"""Models: a shared encoder, one head per task, and the map from outputs to audit scores."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TaskLosses:
    """The losses of one batch.

    Attributes:
        values: [T] in the order of the model's tasks, 0 without gradient where the batch has no label.
        present: bool [T], where it has one.
    """

    values: Tensor
    present: Tensor
