"""Clinical tensors as a training problem: batches on the device, the model, and evaluation of a split."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relif_core.calibration import LabelledLogits
from relif_core.errors import DataError, InputError
from relif_core.models.clinical import ClinicalModel, audit_score
from relif_core.problems.base import Evaluation
from relif_core.problems.utility import TaskUtility, Utility, task_utility
from relif_core.record import describe_dataset
from relif_core.settings import ModelSettings, RunSettings
from relif_core.tensors.clinical import ClinicalTensors, Task
from relif_core.tensors.folder import SPLITS

EVALUATION_BATCH = 512


class ClinicalProblem:
    """A clinical data set held on one device.

    Inputs are standardised with the manifest's training statistics; rows beyond ``maximum_hours`` of a stay
    are cut (hourly labels there are not used, and stay-level labels keep their stay). A run cuts by its own
    ``training.maximum_hours``.

    Raises:
        DataError: The statistics in the manifest are not finite, or a value is not once it is standardised.
    """

    def __init__(
        self, tensors: ClinicalTensors, device: torch.device | str = "cpu", maximum_hours: int | None = None
    ) -> None:
        self.tensors = tensors
        self.device = torch.device(device)
        self.description = describe_dataset(tensors.manifest)
        self.task_names = tuple(task.name for task in tensors.tasks)
        arrays = tensors.arrays
        statistics = tensors.manifest["statistics"]
        with np.errstate(over="ignore"):
            mean, deviation = (
                np.array(statistics[name], dtype=np.float32) for name in ("mean", "standard_deviation")
            )
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
            raise DataError(f"{tensors.folder}: its statistics are not finite; make the tensors again")
        # A column that never varies in training carries no scale: it is centred only.
        deviation = np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
        inputs = np.empty((len(arrays["values"]), tensors.inputs), dtype=np.float32)
        width = len(mean)
        try:
            with np.errstate(over="raise"):
                np.subtract(arrays["values"], mean, out=inputs[:, :width])
                inputs[:, :width] /= deviation
        except FloatingPointError as error:
            raise DataError(
                f"{tensors.folder}: a value lies too many standard deviations from its mean for float32; make"
                " the tensors again"
            ) from error
        inputs[:, width:] = arrays["observed"]
        self._inputs = torch.from_numpy(inputs).to(self.device)
        self._starts = torch.from_numpy(arrays["offsets"][:-1].copy()).to(self.device)
        self._cut(maximum_hours)
        self._labels = {
            f"{kind}/{task.name}": torch.from_numpy(np.array(arrays[f"{kind}s/{task.name}"])).to(self.device)
            for task in tensors.tasks
            for kind in ("label", "mask")
        }

    @classmethod
    def open(
        cls, folder: Path | str, device: str, settings: RunSettings, weights: Path | str | None = None
    ) -> "ClinicalProblem":
        """Open a tensor folder; clinical models start from no file of weights.

        Args:
            folder: As of ``open_problem``.
            device: As of ``open_problem``.
            settings: As of ``open_problem``.
            weights: As of ``open_problem``.
        """
        return cls(ClinicalTensors.open(folder), device, settings.training.maximum_hours)

    @property
    def data_fingerprint(self) -> str:
        """The data set's fingerprint."""
        return self.tensors.fingerprint

    def for_run(self, settings: RunSettings, records: Path) -> "ClinicalProblem":
        """Return this problem cut to ``training.maximum_hours``; it needs no other run of its study.

        Raises:
            InputError: The settings are of a dense model.
        """
        if not isinstance(settings.model, ModelSettings):
            raise InputError(f"{self.tensors.folder} is clinical: its model settings are ModelSettings")
        problem = copy.copy(self)
        problem._cut(settings.training.maximum_hours)
        return problem

    def _cut(self, maximum_hours: int | None) -> None:
        """Use at most the first ``maximum_hours`` rows of every stay."""
        self._lengths = np.diff(self.tensors.arrays["offsets"])
        if maximum_hours is not None:
            horizon = max(task.horizon_hours or 0 for task in self.tensors.tasks)
            if maximum_hours < horizon:
                raise DataError(
                    f"maximum_hours = {maximum_hours} is below a task's horizon of {horizon} hours"
                )
            self._lengths = np.minimum(self._lengths, maximum_hours)
        self._device_lengths = torch.from_numpy(self._lengths).to(self.device)

    def check(self, batch_size: int) -> None:
        """Refuse data on which a run cannot be trained, selected and reported.

        Raises:
            DataError: An empty split; fewer than two training batches; a task whose training labels are
                missing or of one class; validation labels that leave every task's score undefined.
        """
        stays = {split: self.tensors.stays_of(split) for split in SPLITS}
        empty = [split for split, members in stays.items() if not len(members)]
        if empty:
            raise DataError(f"{self.tensors.folder}: split {empty[0]!r} is empty")
        if len(stays["train"]) < batch_size + 2:
            raise DataError(
                f"{self.tensors.folder}: {len(stays['train'])} training stays make fewer than two batches of"
                f" {batch_size}; lower training.batch_size"
            )
        for task in self.tensors.tasks:
            if not self._classes(task, stays["train"]):
                raise DataError(f"{self.tensors.folder}: no training stay has a label of task {task.name!r}")
            if self._classes(task, stays["train"]) < 2:
                raise DataError(
                    f"{self.tensors.folder}: the training labels of task {task.name!r} are all of one class; "
                    "leave the task out or take more stays"
                )
        if all(self._classes(task, stays["validation"]) < 2 for task in self.tensors.tasks):
            raise DataError(
                f"{self.tensors.folder}: every task has validation labels of one class only, so that no epoch"
                " can be selected; take more validation stays"
            )

    def _classes(self, task: Task, stays: np.ndarray) -> int:
        """Return how many classes the labels that a run reads have (multilabel: the most of any label)."""
        arrays = self.tensors.arrays
        label, mask = arrays[f"labels/{task.name}"], arrays[f"masks/{task.name}"] == 1
        if task.level == "hourly":
            starts = arrays["offsets"][:-1]
            inside = np.zeros(len(mask) + 1, dtype=np.int8)
            inside[starts[stays]] += 1
            inside[starts[stays] + self._lengths[stays]] -= 1
            chosen = mask & (np.cumsum(inside[:-1], dtype=np.int8) > 0)
        else:
            chosen = np.zeros(len(mask), dtype=bool)
            chosen[stays] = mask[stays]
        found = label[chosen]
        if not len(found):
            return 0
        if task.kind == "multilabel":
            return int((found != found[0]).any()) + 1
        return len(np.unique(found))

    def build_model(self, settings: ModelSettings) -> ClinicalModel:
        """Return a freshly initialised model on this device."""
        return ClinicalModel(self.tensors.inputs, self.tensors.tasks, settings).to(self.device)

    def subjects(self, samples: np.ndarray) -> np.ndarray:
        """Return each sample's subject as its rank in the data set: no source id leaves."""
        _, numbers = np.unique(self.tensors.arrays["subjects"], return_inverse=True)
        return numbers[samples].astype(np.int32)

    def batch(self, stays: np.ndarray) -> dict[str, Tensor]:
        """Gather the stays with the given indices [B] as one padded batch (zeros after a stay's last row)."""
        index = torch.from_numpy(np.ascontiguousarray(stays)).to(self.device)
        hours = torch.arange(int(self._lengths[stays].max()), device=self.device)
        lengths = self._device_lengths[index]
        inside = hours < lengths[:, None]
        rows = torch.where(inside, self._starts[index][:, None] + hours, self._starts[index][:, None])
        batch = {"inputs": self._inputs[rows] * inside[..., None], "lengths": lengths}
        for task in self.tensors.tasks:
            label, mask = self._labels[f"label/{task.name}"], self._labels[f"mask/{task.name}"]
            hourly = task.level == "hourly"
            batch[f"label/{task.name}"] = label[rows] if hourly else label[index]
            batch[f"mask/{task.name}"] = mask[rows] * inside if hourly else mask[index]
        return batch

    def training_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Yield an epoch of training batches, shuffled by (seed, epoch); a last single stay is dropped."""
        stays = self.tensors.stays_of("train")
        order = np.random.default_rng([seed, epoch]).permutation(stays)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if len(chosen) > 1:
                yield self.batch(chosen)

    @torch.no_grad()
    def evaluate(self, model: ClinicalModel, split: str) -> Evaluation:
        """Run a model over a split in evaluation mode and return utility, audit scores and embeddings.

        Raises:
            DataError: The split is empty.
        """
        model.eval()
        stays = self.tensors.stays_of(split)
        if not len(stays):
            raise DataError(f"{self.tensors.folder}: split {split!r} is empty")
        # Neighbours in length share a batch; everything is put back into file order below.
        by_length = stays[np.argsort(self._lengths[stays], kind="stable")]
        embeddings, scores, predictions, labels, carries = [], {}, {}, {}, {}
        found_logits: dict[str, LabelledLogits] = {}
        parts_of = ("score", "carries", "prediction", "label", "logit", "rows")
        gathered: dict[str, dict[str, list[Tensor]]] = {
            task.name: {part: [] for part in parts_of} for task in self.tensors.tasks
        }
        for start in range(0, len(by_length), EVALUATION_BATCH):
            batch = self.batch(by_length[start : start + EVALUATION_BATCH])
            outputs = model(batch)
            embeddings.append(outputs.embedding.float())
            for task in self.tensors.tasks:
                logits, mask = outputs.logits[task.name].float(), batch[f"mask/{task.name}"]
                valid = mask.bool()
                probability = logits.softmax(-1) if task.kind == "binned" else logits.sigmoid()
                parts = gathered[task.name]
                parts["score"].append(audit_score(task, logits, mask))
                parts["carries"].append(valid.any(1) if task.level == "hourly" else valid)
                parts["prediction"].append(probability[valid])
                parts["label"].append(batch[f"label/{task.name}"][valid])
                parts["logit"].append(logits[valid])
                parts["rows"].append(valid.sum(1) if task.level == "hourly" else valid.long())
        back = np.argsort(by_length, kind="stable")
        for task in self.tensors.tasks:
            name, parts = task.name, gathered[task.name]
            whole = {kind: torch.cat(pieces).cpu().numpy() for kind, pieces in parts.items()}
            carries[name] = whole["carries"][back]
            in_order = np.argsort(np.repeat(by_length, whole["rows"]), kind="stable")
            found_logits[name] = LabelledLogits(
                task.kind,
                whole["logit"][in_order],
                whole["label"][in_order],
                whole["rows"][back][carries[name]],
            )
            scores[name] = whole["score"][back][carries[name]]
            predictions[name], labels[name] = whole["prediction"], whole["label"]
        found: dict[str, TaskUtility] = {
            task.name: task_utility(task, labels[task.name], predictions[task.name])
            for task in self.tensors.tasks
        }
        return Evaluation(
            utility=Utility(found),
            scores=scores,
            samples={name: stays[held] for name, held in carries.items()},
            embeddings=torch.cat(embeddings).cpu().numpy()[back],
            order=stays,
            logits=found_logits,
        )

    def raw_scores(self, model: ClinicalModel, split: str) -> dict[str, np.ndarray]:
        """Return nothing: logits, which records keep, hold all."""
        return {}

    def waits(self) -> bool:
        """No clinical run needs another's record."""
        return False

    def calibrate_scores(self, model: ClinicalModel, found: Mapping[str, Any] | None = None) -> None:
        """Change nothing: clinical audit scores are probabilities."""
