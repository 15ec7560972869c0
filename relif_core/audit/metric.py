"""Bias and violation rate batch by batch: a metric for torchmetrics that needs torch alone, loaded late."""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from relif_core.audit.pools import FEW_ULP, Tolerance, checked_tasks, checked_tolerances
from relif_core.audit.result import KINDS
from relif_core.audit.sketch import BINS, HistogramSketch, checked_bins
from relif_core.errors import InputError, listed

if TYPE_CHECKING:
    import torch


def __getattr__(name: str) -> Any:
    """Make :class:`AuditMetric` when it is first asked for, on torchmetrics if that is installed."""
    if name != "AuditMetric":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    bases: tuple[type, ...]
    if importlib.util.find_spec("torchmetrics"):
        from relif_core.torchvision_import import import_torchvision

        with contextlib.suppress(ImportError):  # torchmetrics imports it where it is installed
            import_torchvision()
        from torchmetrics import Metric

        bases = (_Counting, Metric)
    else:
        from torch.nn import Module

        bases = (_Counting, _Plain, Module)
    metaclass: Any = type(bases[-1])
    made = metaclass(name, bases, {"__doc__": _Counting.__doc__, "__module__": __name__})
    return globals().setdefault(name, made)


class _Plain:
    """What :class:`AuditMetric` needs of ``torchmetrics.Metric``, for where that is not installed."""

    _states: tuple[str, ...] = ()
    _own: "dict[str, torch.Tensor] | None" = None

    def add_state(self, name: str, default: "torch.Tensor", dist_reduce_fx: str) -> None:
        self.register_buffer(name, default, persistent=False)  # type: ignore[attr-defined]
        self._states += (name,)

    def reset(self) -> None:
        """Forget every batch."""
        import torch

        self._own = None
        for name in self._states:
            setattr(self, name, torch.zeros_like(getattr(self, name)))

    def sync(self) -> None:
        """Let every process hold the counts of all; nothing where training is not distributed."""
        import torch

        if self._own is None and torch.distributed.is_available() and torch.distributed.is_initialized():
            self._own = {name: getattr(self, name) for name in self._states}
            for name, own in self._own.items():
                setattr(self, name, own.clone())
                torch.distributed.all_reduce(getattr(self, name))

    def unsync(self) -> None:
        """Go back to the counts of this process."""
        for name, own in (self._own or {}).items():
            setattr(self, name, own)
        self._own = None

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        held = self._own is not None
        self.sync()
        try:
            yield
        finally:
            if not held:
                self.unsync()


class _Counting:
    """Audit a model over an epoch's batches, in constant memory and over all processes of a training.

    Each update adds the batch's scores, detached, to a histogram per task (:class:`.HistogramSketch`); none
    is kept. A ``torchmetrics.Metric`` where torchmetrics is installed, else a module with the same
    ``update``, ``compute``, ``sync``, ``unsync`` and ``reset``. ``compute`` counts what every process saw and
    leaves each process its own counts.

    Args:
        tasks: Task names, at least two.
        tolerance: δ, one number or one per task pair, as for :func:`.audit`.
        bins: A power of two; Bias is within 1/bins of the exact one.
        weighted: Whether every update comes with sample weights.
        settings: Passed on to ``torchmetrics.Metric``.

    Raises:
        InputError: Fewer than two tasks, a tolerance that :func:`.audit` refuses, bins no power of two.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    counts: "torch.Tensor"
    masses: "torch.Tensor"

    def __init__(
        self,
        tasks: Sequence[str],
        tolerance: Tolerance,
        bins: int = BINS,
        weighted: bool = False,
        **settings: Any,
    ) -> None:
        import torch

        super().__init__(**settings)
        checked_bins(bins)
        self.tasks, self.tolerance, self.bins, self.weighted = checked_tasks(tasks), tolerance, bins, weighted
        checked_tolerances(tolerance, self.tasks)
        state = torch.zeros(len(self.tasks), bins, dtype=torch.int64)
        self.add_state("counts", state, dist_reduce_fx="sum")  # type: ignore[attr-defined]
        if weighted:
            state = torch.zeros(len(self.tasks), 2, bins + 1, dtype=torch.float64)
            self.add_state("masses", state, dist_reduce_fx="sum")  # type: ignore[attr-defined]

    def update(
        self, scores: Mapping[str, "torch.Tensor"], weights: "Mapping[str, torch.Tensor] | None" = None
    ) -> None:
        """Count a batch.

        Args:
            scores: Task name to scores [n] in [0, 1] of the samples that carry the task's label, of any
                floating kind and device; tasks of which the batch has none may be left out.
            weights: Task name to weights [n] of the same samples, at least 0, for a ``weighted`` metric; on
                one scale in all batches.

        Raises:
            InputError: An unknown task, another shape, NaN or scores outside [0, 1] (a few units in the last
                place beyond, as softmax leaves them, count as 0 or 1); weights that are missing, negative or
                not finite, or that a metric without gets.
        """
        import torch

        if (weights is None) == self.weighted:
            raise InputError(
                "weights go with weighted=True, in every update; make the metric with or without"
            )
        for given in (scores, {} if weights is None else weights):
            if not isinstance(given, Mapping) or not all(map(torch.is_tensor, given.values())):
                raise InputError("scores and weights must map task names to tensors; use torch.as_tensor")
        batch = torch.zeros_like(self.counts)
        masses = torch.zeros_like(self.masses, dtype=torch.float64) if self.weighted else None
        for task, values in scores.items():
            if task not in self.tasks:
                raise InputError(f"task {task!r} is none of the metric's tasks {listed(self.tasks)}")
            values = values.detach()
            if values.is_complex():
                raise InputError(f"task {task!r}: scores must be real numbers, got {values.dtype}")
            if values.ndim != 1:
                raise InputError(
                    f"task {task!r}: scores must be one-dimensional, got shape {tuple(values.shape)}; pass"
                    " one score per valid sample"
                )
            values = values.float() if values.element_size() < 4 or not values.is_floating_point() else values
            slack = FEW_ULP * torch.finfo(values.dtype).eps
            inside = (values >= -slack) & (values <= 1 + slack)
            if not bool(inside.all()):
                raise InputError(
                    f"task {task!r}: {int((~inside).sum())} of {len(values)} scores are NaN or outside [0,"
                    " 1]; map the output to an audit score first"
                )
            cells = (values * self.bins).long().clamp(min=0, max=self.bins - 1)
            if weights is not None and masses is not None:
                own = _checked_weights(weights, task, values)
                powers = torch.stack([own, own**2]).to(masses.device)
                masses[self.tasks.index(task)].index_add_(1, cells.to(masses.device), powers)
                cells = cells[own.to(cells.device) > 0]
            batch[self.tasks.index(task)] += torch.bincount(cells, minlength=self.bins).to(batch.device)
        self.counts += batch
        if masses is not None:
            self.masses = self.masses + masses

    def compute(self) -> "dict[str, torch.Tensor]":
        """Return "bias" and "violation_rate", each with the ends "_low" and "_high" of its proven range.

        Raises:
            InputError: A task without a score so far.
        """
        import torch

        # torchmetrics wraps compute in sync and unsync itself.
        with self._together() if isinstance(self, _Plain) else contextlib.nullcontext():
            found = self.sketch().audit(self.tolerance)
        values: dict[str, float] = {}
        for kind in KINDS:
            low, high = getattr(found, f"{kind}_range")
            values |= {kind: getattr(found, kind), f"{kind}_low": low, f"{kind}_high": high}
        return {name: torch.tensor(value, device=self.counts.device) for name, value in values.items()}

    def sketch(self) -> HistogramSketch:
        """Return the histogram of this process's batches; of all processes within ``sync``."""
        cells, masses = self.counts.cpu().numpy().copy(), None
        if self.weighted:
            masses = dict(zip(self.tasks, self.masses.cpu().numpy().copy(), strict=True))
        counts = dict(zip(self.tasks, cells, strict=True))
        return HistogramSketch(counts, dict.fromkeys(counts, 0), weights=masses)


def _checked_weights(
    weights: "Mapping[str, torch.Tensor]", task: str, values: "torch.Tensor"
) -> "torch.Tensor":
    """Return a task's weights as float64, or refuse them."""
    if task not in weights or weights[task].shape != values.shape:
        raise InputError(f"task {task!r}: weights are missing or misaligned; give one per score")
    own = weights[task].detach().double()
    wrong = int((~(own.isfinite() & (own >= 0))).sum())
    if wrong:
        raise InputError(f"task {task!r}: {wrong} of {len(own)} weights are negative or not finite")
    return own
