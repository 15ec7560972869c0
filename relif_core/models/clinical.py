"""The clinical model: one LSTM over the hours of a stay, shared by every task, and one small head per task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from relif_core.settings import ModelSettings
from relif_core.tensors.clinical import Task


@dataclass(frozen=True)
class ClinicalOutputs:
    """One forward pass: ``embedding`` [B, hidden] and, per task, logits [B, classes] or [B, T, classes] (hourly)."""

    embedding: Tensor
    logits: dict[str, Tensor]


class ClinicalModel(nn.Module):
    """Two-layer LSTM with a head (linear, ReLU, dropout, linear) per task.

    A batch is a mapping with ``inputs`` [B, T, channels], ``lengths`` [B] (valid rows), and per task ``label/<task>`` and
    ``mask/<task>`` of shape [B] (or [B, classes] labels for multilabel tasks), or [B, T] for hourly tasks. The LSTM is causal
    and padding stands at the end, so no packing is needed: states beyond a stay's length are never read.

    The embedding is the top layer's last valid hidden state, before the dropout that guards the heads: dropout noise would
    otherwise enter the distances that the surrogate compares. Hourly tasks read every hour's state, a task with a horizon
    the state at that hour.
    """

    def __init__(self, inputs: int, tasks: Sequence[Task], settings: ModelSettings) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        between = settings.dropout if settings.layers > 1 else 0.0
        self.encoder = nn.LSTM(inputs, settings.hidden, settings.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(settings.dropout)
        self.heads = nn.ModuleDict(
            {
                task.name: nn.Sequential(
                    nn.Linear(settings.hidden, settings.head_width),
                    nn.ReLU(),
                    nn.Dropout(settings.dropout),
                    nn.Linear(settings.head_width, task.classes),
                )
                for task in self.tasks
            }
        )

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters: those on which task gradients can conflict."""
        return list(self.encoder.parameters())

    def head_parameters(self, task: str) -> list[nn.Parameter]:
        """Return the parameters of one task's head."""
        return list(self.heads[task].parameters())

    def forward(self, batch: Mapping[str, Tensor]) -> ClinicalOutputs:
        """Run the LSTM once and every head on the states that its task reads."""
        states, _ = self.encoder(batch["inputs"])
        last = batch["lengths"] - 1
        embedding = _states_at(states, last)
        dropped = self.dropout(states)
        logits = {}
        for task in self.tasks:
            if task.level == "hourly":
                read = dropped
            elif task.horizon_hours is None:
                read = _states_at(dropped, last)
            else:
                read = _states_at(dropped, last.clamp(max=task.horizon_hours - 1))
            logits[task.name] = self.heads[task.name](read)
        return ClinicalOutputs(embedding, logits)

    def losses(self, outputs: ClinicalOutputs, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the task losses [T]: the mean over labelled entries, 0 where a batch has none."""
        return torch.stack(
            [
                _masked_loss(
                    task, outputs.logits[task.name], batch[f"label/{task.name}"], batch[f"mask/{task.name}"]
                )
                for task in self.tasks
            ]
        )

    def scores(self, outputs: ClinicalOutputs, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the audit score [B] in [0, 1] of every task, exactly 0 where a stay carries no label for it.

        Binary: sigmoid; multilabel: the largest sigmoid; binned: the largest softmax; hourly tasks: the mean over the
        stay's labelled hours.
        """
        return {
            task.name: audit_score(task, outputs.logits[task.name], batch[f"mask/{task.name}"])
            for task in self.tasks
        }


def audit_score(task: Task, logits: Tensor, mask: Tensor) -> Tensor:
    """Map one task's logits [B, (T,) classes] and label mask [B] or [B, T] to audit scores [B] (float32)."""
    logits = logits.float()
    confidence = (logits.softmax(-1) if task.kind == "binned" else logits.sigmoid()).amax(-1)
    valid = mask.to(confidence.dtype)
    if task.level == "hourly":
        return (confidence * valid).sum(1) / valid.sum(1).clamp(min=1)
    return confidence * valid


def _states_at(states: Tensor, rows: Tensor) -> Tensor:
    """Pick one row [B, H] of every sequence in ``states`` [B, T, H]."""
    return states.gather(1, rows.view(-1, 1, 1).expand(-1, 1, states.shape[-1])).squeeze(1)


def _masked_loss(task: Task, logits: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    logits, valid = logits.float(), mask.float()
    if task.kind == "binned":
        entries = functional.cross_entropy(logits.flatten(0, -2), label.flatten().long(), reduction="none")
        entries = entries.view(mask.shape)
    elif task.kind == "multilabel":
        entries = functional.binary_cross_entropy_with_logits(logits, label.float(), reduction="none").mean(
            -1
        )
    else:
        entries = functional.binary_cross_entropy_with_logits(
            logits.squeeze(-1), label.float(), reduction="none"
        )
    return (entries * valid).sum() / valid.sum().clamp(min=1)
