"""What the training loop asks of a data set and a model: one interface for clinical and for dense tasks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from relif_core.calibration import LabelledLogits
from relif_core.problems.utility import Utility
from relif_core.settings import RunSettings


@dataclass(frozen=True)
class Evaluation:
    """One split seen by one model.

    Attributes:
        scores: Task → float32 [n] of the samples that carry a label.
        samples: Task → int64 [n], their rows of the data set.
        embeddings: float32 [N, D] of the whole split.
        order: int64 [N], their rows of the data set.
        logits: Task → logits of its labelled rows, where it has class logits.
        raw: Dense task → scores before scale and clipping.
        on_scale: False while the scores have no scale that methods share: in a dense ERM run, whose own
            quantiles set it at the end.
    """

    utility: Utility
    scores: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    embeddings: np.ndarray = field(repr=False)
    order: np.ndarray = field(repr=False)
    logits: dict[str, LabelledLogits] = field(default_factory=dict, repr=False)
    raw: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    on_scale: bool = True

    def embeddings_of(self, task: str) -> np.ndarray:
        """Return the embeddings [n, D] of the samples in a task's pool."""
        return self.embeddings[np.searchsorted(self.order, self.samples[task])]


class Problem(Protocol):
    """A data set held on one device, with the model that learns it.

    The model is a module with ``task_names``-ordered ``losses(outputs, batch)`` (``TaskLosses``),
    ``scores(outputs, batch)`` (task to [B] in [0, 1]), ``features(batch)`` [B, F] (what an external distance
    compares), ``shared_parameters()`` and ``head_parameters(task)``; its outputs carry ``embedding`` [B, D].
    """

    task_names: tuple[str, ...]
    description: dict[str, Any]
    device: torch.device

    @property
    def data_fingerprint(self) -> str:
        """The sha256 that identifies the data in records."""

    def for_run(self, settings: RunSettings, records: Path) -> "Problem":
        """Return this problem as one run needs it.

        Args:
            settings: Of the run.
            records: Folder of the study's other runs.
        """

    def check(self, batch_size: int) -> None:
        """Refuse (``DataError``) data on which a run cannot be trained, selected and reported."""

    def waits(self) -> bool:
        """Tell whether the record of this run waits for that of another run, which is under way."""

    def build_model(self, settings: Any) -> Any:
        """Return a freshly initialised model on this device; ``settings`` is ``RunSettings.model``."""

    def subjects(self, samples: np.ndarray) -> np.ndarray:
        """Return the number of each sample's subject, int32 [n]."""

    def training_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[Mapping[str, Tensor]]:
        """Yield one epoch of training batches, fixed by (seed, epoch).

        Args:
            batch_size: Samples of a batch.
            seed: Of the run.
            epoch: From 0.
        """

    def evaluate(self, model: Any, split: str) -> Evaluation:
        """Run a model over a split.

        Args:
            model: As of :meth:`build_model`.
            split: "validation" or "test".
        """

    def raw_scores(self, model: Any, split: str) -> dict[str, np.ndarray]:
        """Return per task and pool what audits under other calibrations need beyond scores and logits.

        Args:
            model: As of :meth:`build_model`.
            split: "validation" or "test".
        """

    def calibrate_scores(self, model: Any, found: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Put a model's audit scores on the scale that all methods share; return it for the record.

        Args:
            model: As of :meth:`build_model`.
            found: What the selected model returned, for the same run's model of another epoch.

        Returns:
            The scale; None where the scores are in [0, 1] by definition.
        """
