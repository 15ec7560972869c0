"""The clinical model: one LSTM over the hours of a stay, shared by all tasks, and a small head for each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from relif_core.errors import DataError
from relif_core.models import MultiTaskModel
from relif_core.settings import ModelSettings
from relif_core.tensors.clinical import Task

#: Share of the stays in a run of hours that has to end before the LSTM goes on with fewer.
FALLEN = 0.2


@dataclass(frozen=True)
class ClinicalOutputs:
    """A forward pass: ``embedding`` [B, hidden], and logits [B, classes] or [B, T, classes] (hourly)."""

    embedding: Tensor
    logits: dict[str, Tensor]


class ClinicalModel(MultiTaskModel):
    """Two-layer LSTM with a head (linear, ReLU, dropout, linear) per task.

    A batch is a mapping with ``inputs`` [B, T, channels], ``lengths`` [B] (valid rows), and per task
    ``label/<task>`` and ``mask/<task>`` of shape [B] (or [B, classes] labels for multilabel tasks), or [B, T]
    for hourly tasks. The LSTM is causal and padding stands at the end: states beyond a stay's length are
    never read, and on a processor they are not computed either.

    The embedding is the top layer's last valid hidden state, before the dropout that guards the heads:
    dropout noise would otherwise enter the distances that the surrogate compares. Hourly tasks read every
    hour's state, a task with a horizon the state at that hour.

    Raises:
        DataError: PyTorch allows no module of a task's name.
    """

    #: Its passes read the stays' lengths on the host.
    capturable = False
    encoder: nn.LSTM

    def __init__(self, inputs: int, tasks: Sequence[Task], settings: ModelSettings) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        between = settings.dropout if settings.layers > 1 else 0.0
        self.encoder = nn.LSTM(inputs, settings.hidden, settings.layers, batch_first=True, dropout=between)
        self.dropout = Dropout(settings.dropout)
        self.heads = nn.ModuleDict()
        for task in self.tasks:
            head = nn.Sequential(
                nn.Linear(settings.hidden, settings.head_width),
                nn.ReLU(),
                Dropout(settings.dropout),
                nn.Linear(settings.head_width, task.classes),
            )
            try:
                self.heads[task.name] = head
            except KeyError as error:  # PyTorch keeps modules beside its own attributes
                raise DataError(f"no head can be called {task.name!r} ({error}); rename the task") from error

    def forward(self, batch: Mapping[str, Tensor]) -> ClinicalOutputs:
        """Run the LSTM once and every head on the states that its task reads."""
        inputs, last = batch["inputs"], batch["lengths"] - 1
        states, places = self._states(inputs, batch["lengths"])
        embedding = states.index_select(0, _place_of(places, last))
        dropped: dict[int | None, Tensor] = {}  # tasks that read the same states share one mask
        logits = {}
        for task in self.tasks:
            head, horizon = self.heads[task.name], task.horizon_hours
            if task.level == "hourly":
                if -1 not in dropped:
                    dropped[-1] = self.dropout(states)
                read = head(dropped[-1]).index_select(0, places.flatten())
                logits[task.name] = read.view(*places.shape, -1)
                continue
            if horizon not in dropped:
                rows = last if horizon is None else last.clamp(max=horizon - 1)
                read = embedding if horizon is None else states.index_select(0, _place_of(places, rows))
                dropped[horizon] = self.dropout(read)
            logits[task.name] = head(dropped[horizon])
        return ClinicalOutputs(embedding, logits)

    def _states(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the top layer's states [R, hidden] and each stay-hour's row [B, T] (any beyond its length).

        On a processor stays are sorted by length and the LSTM goes over runs of hours of those still alive.
        """
        stays, hours = inputs.shape[:2]
        places = torch.arange(stays * hours, device=inputs.device).view(stays, hours)
        if inputs.device.type != "cpu":
            return self.encoder(inputs)[0].flatten(0, 1), places
        order = lengths.argsort(descending=True, stable=True)
        encoder, alive = self.encoder, _alive(lengths, hours)
        weights: list[list[Tensor]] = [list(own) for own in encoder.all_weights]
        start_of_all = inputs.new_zeros(1, stays, encoder.hidden_size)
        memory = [[start_of_all, start_of_all] for _ in weights]
        pieces, begun = [], 0
        for start, stop, count in _runs(alive):
            living = order[:count]
            rows = inputs[living, start:stop]
            for layer, (state, cell) in enumerate(memory):
                if layer:
                    rows = dropout(rows, encoder.dropout, self.training)
                before = state[:, :count], cell[:, :count]
                # with biases, one layer, no dropout, one direction, batch first
                rows, *memory[layer] = torch.lstm(
                    rows, before, weights[layer], True, 1, 0.0, self.training, False, True
                )
            places[living, start:stop] = torch.arange(begun, begun + count * (stop - start)).view(count, -1)
            pieces.append(rows.flatten(0, 1))
            begun += count * (stop - start)
        return torch.cat(pieces), places.clamp_(max=begun - 1)

    def _loss(
        self, task: str, outputs: ClinicalOutputs, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        mask, kind = batch[f"mask/{task}"], self.tasks[self.task_names.index(task)]
        return _masked_loss(kind, outputs.logits[task], batch[f"label/{task}"], mask), mask.bool().any()

    def features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the inputs' means over valid hours [B, channels], which an external distance compares."""
        return batch["inputs"].sum(1) / batch["lengths"].unsqueeze(1)

    def scores(self, outputs: ClinicalOutputs, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the audit score [B] in [0, 1] of every task, exactly 0 where a stay carries no label for it.

        Binary: sigmoid; multilabel: the largest sigmoid; binned: the largest softmax; hourly tasks: the mean
        over the stay's labelled hours.

        Args:
            outputs: Of this batch.
            batch: See the class.
        """
        return {
            task.name: audit_score(task, outputs.logits[task.name], batch[f"mask/{task.name}"])
            for task in self.tasks
        }


def audit_score(task: Task, logits: Tensor, mask: Tensor) -> Tensor:
    """Map one task's logits to audit scores [B] (float32).

    Args:
        task: The task.
        logits: [B, classes], hourly [B, T, classes].
        mask: 1 where there is a label, [B] or [B, T].
    """
    logits = logits.float()
    confidence = (logits.softmax(-1) if task.kind == "binned" else logits.sigmoid()).amax(-1)
    valid = mask.to(confidence.dtype)
    if task.level == "hourly":
        return (confidence * valid).sum(1) / valid.sum(1).clamp(min=1)
    return confidence * valid


def dropout(values: Tensor, rate: float, training: bool) -> Tensor:
    """Drop entries and scale the others so that the mean is kept.

    On a processor sixteen random bits decide an entry: the rate is rounded to a multiple of 2⁻¹⁶ and the
    scale is exact for it.

    Args:
        values: Any shape.
        rate: Probability to drop an entry.
        training: False: return ``values``.
    """
    if not training or not 0 < rate < 1 or values.device.type != "cpu":
        return functional.dropout(values, rate, training)
    levels = 2**16
    drop = min(round(rate * levels), levels - 1)
    bits = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: values.numel()].view(values.shape) >= drop - levels // 2
    return values * kept * (levels / (levels - drop))


class Dropout(nn.Dropout):
    """``dropout`` as a layer."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``dropout`` of the input."""
        return dropout(input, self.p, self.training)


def _alive(lengths: Tensor, hours: int) -> list[int]:
    """Return how many stays reach into every hour."""
    return (lengths > torch.arange(hours)[:, None]).sum(1).tolist()


def _runs(alive: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, stays) of runs of hours: each ends once ``FALLEN`` of its stays have ended."""
    start = 0
    for hour, count in enumerate(alive):
        if count <= (1 - FALLEN) * alive[start]:
            yield start, hour, alive[start]
            start = hour
        if not count:
            return
    yield start, len(alive), alive[start]


def _place_of(places: Tensor, hours: Tensor) -> Tensor:
    """Pick one hour [B] of every stay's places [B, T]."""
    return places.gather(1, hours.view(-1, 1)).squeeze(1)


def _masked_loss(task: Task, logits: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    logits, valid = logits.float(), mask.float()
    if task.kind == "binned":
        entries = functional.cross_entropy(logits.flatten(0, -2), label.flatten().long(), reduction="none")
        entries = entries.view(mask.shape)
    else:
        several = task.kind == "multilabel"
        logits = logits if several else logits.squeeze(-1)
        entries = functional.binary_cross_entropy_with_logits(logits, label.float(), reduction="none")
        entries = entries.mean(-1) if several else entries
    return (entries * valid).sum() / valid.sum().clamp(min=1)
