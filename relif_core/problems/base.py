"""What the training loop asks of a data set and a model: one interface for clinical and for dense tasks."""

import abc
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from relif_core.calibration import LabelledLogits
from relif_core.errors import DataError, InputError
from relif_core.problems import ProblemKind
from relif_core.problems.utility import Utility
from relif_core.record import describe_dataset
from relif_core.settings import RunSettings
from relif_core.tensors.folder import SPLITS, TensorFolder


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


class Problem(abc.ABC):
    """A data set held on one device, with the model that learns it.

    The model is a ``models.MultiTaskModel``; its outputs carry ``embedding`` [B, D].

    Attributes:
        kind: Its entry in the table of problems.
        samples: What a sample is called in messages, in the plural.
    """

    kind: ProblemKind
    samples: str
    task_names: tuple[str, ...]
    #: Each sample's subject, as a number that no source knows.
    _subjects: np.ndarray

    def __init__(self, tensors: TensorFolder, device: torch.device | str) -> None:
        self.tensors: Any = tensors
        self.device = torch.device(device)
        self.description = describe_dataset(tensors.manifest)

    @classmethod
    @abc.abstractmethod
    def open(
        cls, folder: Path | str, device: str, settings: RunSettings, weights: Path | str | None = None
    ) -> Self:
        """Open a tensor folder: ``open_problem``.

        Args:
            folder: As of ``open_problem``.
            device: As of ``open_problem``.
            settings: As of ``open_problem``.
            weights: As of ``open_problem``.
        """

    @property
    def data_fingerprint(self) -> str:
        """The sha256 that identifies the data in records."""
        return self.tensors.fingerprint

    def for_run(self, settings: RunSettings, records: Path) -> Self:
        """Return this problem as one run needs it.

        Args:
            settings: Of the run.
            records: Folder of the study's other runs.

        Raises:
            InputError: The settings are of another kind of problem.
        """
        if not self.kind.takes(settings):
            raise InputError(f"{self.tensors.folder} is {self.kind.name}: {self.kind.mend}")
        return copy.copy(self)

    def check(self, batch_size: int) -> None:
        """Refuse data on which a run cannot be trained, selected and reported.

        Args:
            batch_size: Of training.

        Raises:
            DataError: An empty split, validation of one subject, fewer than two training batches, or labels
                that do not serve.
        """
        for split in SPLITS:
            self.rows(split)
        self._check_labels()
        if len(np.unique(self.subjects(self.rows("validation")))) < 2:
            raise DataError(
                f"{self.tensors.folder}: validation {self.samples} of one subject make no calibration pair;"
                " give two subjects or more"
            )
        if (count := len(self.rows("train"))) < batch_size + 2:
            raise DataError(
                f"{self.tensors.folder}: {count} training {self.samples} make fewer than two batches of"
                f" {batch_size}; lower training.batch_size"
            )

    @abc.abstractmethod
    def _check_labels(self) -> None:
        """Refuse (``DataError``) labels with which a run cannot be trained, selected and reported."""

    def waits(self) -> bool:
        """Tell whether the record of this run waits for that of another run, which is under way."""
        return False

    @abc.abstractmethod
    def build_model(self, settings: Any) -> Any:
        """Return a freshly initialised model on this device; ``settings`` is ``RunSettings.model``."""

    def subjects(self, samples: np.ndarray) -> np.ndarray:
        """Return the number of each sample's subject, int32 [n]: no source id leaves."""
        return self._subjects[samples]

    def rows(self, split: str) -> np.ndarray:
        """Return the samples of "train", "validation" or "test", in file order; ``DataError``: none."""
        parts = self._parts(split)
        found = np.flatnonzero(np.isin(self.tensors.arrays["split"], [SPLITS.index(part) for part in parts]))
        if not len(found):
            raise DataError(f"{self.tensors.folder}: split {parts[0]!r} is empty")
        return found

    def _parts(self, split: str) -> tuple[str, ...]:
        """Return the splits of the data that a run takes for one of its own."""
        return (split,)

    @abc.abstractmethod
    def batch(self, samples: np.ndarray) -> dict[str, Tensor]:
        """Gather the samples with the given indices [B] on the device."""

    def training_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[Mapping[str, Tensor]]:
        """Yield one epoch of training batches, fixed by (seed, epoch); a last single sample is dropped.

        Args:
            batch_size: Samples of a batch.
            seed: Of the run.
            epoch: From 0.
        """
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(self.rows("train"))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if len(chosen) > 1:
                yield self._augmented(self.batch(chosen), generator)

    def _augmented(self, batch: dict[str, Tensor], generator: np.random.Generator) -> dict[str, Tensor]:
        return batch

    @abc.abstractmethod
    def evaluate(self, model: Any, split: str) -> Evaluation:
        """Run a model over a split, in evaluation mode.

        Args:
            model: As of :meth:`build_model`.
            split: "validation" or "test".

        Raises:
            DataError: The split is empty.
        """

    @torch.no_grad()
    def _gather(
        self,
        model: Any,
        samples: np.ndarray,
        size: int,
        read: Callable[[dict[str, Tensor], Any], dict[str, Tensor]],
    ) -> dict[str, np.ndarray]:
        """Return what ``read`` takes from every batch and the outputs of a model in evaluation mode."""
        model.eval()
        found: dict[str, list[Tensor]] = {}
        for start in range(0, len(samples), size):
            batch = self.batch(samples[start : start + size])
            for name, values in read(batch, model(batch)).items():
                found.setdefault(name, []).append(values)
        return {name: torch.cat(parts).cpu().numpy() for name, parts in found.items()}

    def raw_scores(self, model: Any, split: str) -> dict[str, np.ndarray]:
        """Return per task and pool what audits under other calibrations need beyond scores and logits.

        Args:
            model: As of :meth:`build_model`.
            split: "validation" or "test".
        """
        return {}

    def calibrate_scores(self, model: Any, found: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Put a model's audit scores on the scale that all methods share; return it for the record.

        Args:
            model: As of :meth:`build_model`.
            found: What the selected model returned, for the same run's model of another epoch.

        Returns:
            The scale; None where the scores are in [0, 1] by definition.
        """
        return None
