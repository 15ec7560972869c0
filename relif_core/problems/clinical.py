"""Clinical tensors as a training problem: batches on the device, the model, and evaluation of a split."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relif_core.calibration import LabelledLogits
from relif_core.errors import DataError
from relif_core.models.clinical import ClinicalModel, ClinicalOutputs, audit_score
from relif_core.problems import CLINICAL
from relif_core.problems.base import Evaluation, Problem
from relif_core.problems.utility import Utility, task_utility
from relif_core.settings import ModelSettings, RunSettings
from relif_core.tensors.clinical import ClinicalTensors, Task
from relif_core.tensors.folder import SPLITS

EVALUATION_BATCH = 512


class ClinicalProblem(Problem):
    """A clinical data set held on one device.

    Inputs are standardised with the manifest's training statistics; rows beyond ``maximum_hours`` of a stay
    are cut (hourly labels there are not used, and stay-level labels keep their stay). A run cuts by its own
    ``training.maximum_hours``.

    Raises:
        DataError: The statistics in the manifest are not finite, or a value is not once it is standardised.
    """

    kind, samples = CLINICAL, "stays"

    def __init__(
        self, tensors: ClinicalTensors, device: torch.device | str = "cpu", maximum_hours: int | None = None
    ) -> None:
        super().__init__(tensors, device)
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
        _, ranks = np.unique(arrays["subjects"], return_inverse=True)
        self._subjects = ranks.astype(np.int32)
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
        """Open a tensor folder; clinical models start from no file of weights."""
        return cls(ClinicalTensors.open(folder), device, settings.training.maximum_hours)

    def for_run(self, settings: RunSettings, records: Path) -> "ClinicalProblem":
        """Return this problem cut to ``training.maximum_hours``; it needs no other run of its study."""
        problem = super().for_run(settings, records)
        problem._cut(settings.training.maximum_hours)
        return problem

    def _cut(self, maximum_hours: int | None) -> None:
        """Use at most the first ``maximum_hours`` rows of every stay."""
        self._lengths = np.diff(self.tensors.arrays["offsets"])
        if maximum_hours is not None:
            horizon = max(task.horizon_hours or 0 for task in self.tensors.tasks)
            if maximum_hours < horizon:
                raise DataError(
                    f"{self.tensors.folder}: maximum_hours = {maximum_hours} is below a task's horizon of"
                    f" {horizon} hours; raise training.maximum_hours"
                )
            self._lengths = np.minimum(self._lengths, maximum_hours)
        self._device_lengths = torch.from_numpy(self._lengths).to(self.device)

    def _check_labels(self) -> None:
        """Refuse training labels of one class, validation that ranks no epoch, and a split with no pair."""
        tasks, folder = self.tensors.tasks, self.tensors.folder
        found = {split: [self._classes(task, self.rows(split)) for task in tasks] for split in SPLITS}
        for task, classes in zip(tasks, found["train"], strict=True):
            if not classes:
                raise DataError(f"{folder}: no training stay has a label of task {task.name!r}")
            if classes < 2:
                raise DataError(
                    f"{folder}: the training labels of task {task.name!r} are all of one class; leave the"
                    " task out or take more stays"
                )
        for split in SPLITS[1:]:
            if (labelled := sum(map(bool, found[split]))) < min(2, len(tasks)):
                raise DataError(
                    f"{folder}: {labelled} of {len(tasks)} tasks have {split} labels, too few for an audit;"
                    f" take more {split} stays"
                )
        if max(found["validation"]) < 2:
            raise DataError(
                f"{folder}: every task has validation labels of one class only, so that no epoch can be"
                " selected; take more validation stays"
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
            found = label[mask & (np.cumsum(inside[:-1], dtype=np.int8) > 0)]
        else:
            found = label[stays][mask[stays]]
        if not len(found):
            return 0
        if task.kind == "multilabel":
            return int((found != found[0]).any()) + 1
        return len(np.unique(found))

    def build_model(self, settings: ModelSettings) -> ClinicalModel:
        """Return a freshly initialised model on this device."""
        return ClinicalModel(self.tensors.inputs, self.tensors.tasks, settings).to(self.device)

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

    def evaluate(self, model: ClinicalModel, split: str) -> Evaluation:
        """Run a model over a split in evaluation mode and return utility, audit scores and embeddings."""
        stays, tasks = self.rows(split), self.tensors.tasks
        # Neighbours in length share a batch; everything is put back into file order below.
        by_length = stays[np.argsort(self._lengths[stays], kind="stable")]
        back = np.argsort(by_length, kind="stable")

        def read(batch: dict[str, Tensor], outputs: ClinicalOutputs) -> dict[str, Tensor]:
            found = {"embedding": outputs.embedding.float()}
            for task in tasks:
                logits, mask = outputs.logits[task.name].float(), batch[f"mask/{task.name}"]
                valid, hourly = mask.bool(), task.level == "hourly"
                probability = logits.softmax(-1) if task.kind == "binned" else logits.sigmoid()
                found |= {
                    f"score/{task.name}": audit_score(task, logits, mask),
                    f"held/{task.name}": valid.any(1) if hourly else valid,
                    f"rows/{task.name}": valid.sum(1) if hourly else valid.long(),
                    f"prediction/{task.name}": probability[valid],
                    f"label/{task.name}": batch[f"label/{task.name}"][valid],
                    f"logit/{task.name}": logits[valid],
                }
            return found

        found = self._gather(model, by_length, EVALUATION_BATCH, read)
        utility, scores, samples, kept = {}, {}, {}, {}
        for task in tasks:
            name, label, rows = task.name, found[f"label/{task.name}"], found[f"rows/{task.name}"]
            held = found[f"held/{name}"][back]
            in_order = np.argsort(np.repeat(by_length, rows), kind="stable")
            logits = found[f"logit/{name}"][in_order]
            scores[name], samples[name] = found[f"score/{name}"][back][held], stays[held]
            kept[name] = LabelledLogits(task.kind, logits, label[in_order], rows[back][held])
            utility[name] = task_utility(task, label, found[f"prediction/{name}"])
        return Evaluation(Utility(utility), scores, samples, found["embedding"][back], stays, logits=kept)
