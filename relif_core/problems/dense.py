"""Dense tensors as a training problem: batches, augmentation, model and evaluation on the device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from relif_core.errors import DataError, InputError, RecordError
from relif_core.files import LOCK, is_held, sha256_of
from relif_core.models.vision import (
    DOWNLOAD,
    TASKS,
    DenseModel,
    DenseOutputs,
    calibration_quantiles,
    valid_pixels,
)
from relif_core.problems import DENSE, is_reference, scores_follow
from relif_core.problems.base import Evaluation, Problem
from relif_core.problems.dense_utility import DenseMeter
from relif_core.record import Record
from relif_core.settings import DenseModelSettings, RunSettings
from relif_core.tensors.dense import FRAME_ARRAYS, NORMAL_SCALE, SPLITS, DenseTensors

EVALUATION_BATCH = 16
#: Temperatures at which a record keeps the confidence of segmentation.
TEMPERATURES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
#: Zoom factors of the "flip_scale" augmentation, as published with MTAN (Liu et al. 2019).
SCALES = (1.0, 1.2, 1.5)
Augmentation = Literal["none", "flip", "flip_scale"]


class DenseProblem(Problem):
    """A dense data set held on one device: on a GPU all of it, in its stored types; on a CPU as memory maps.

    ``weights`` is the file of encoder weights that ``DenseModelSettings.weights`` names by its sha256.
    ``for_run`` gives the problem a run's tasks, augmentation, protocol and score calibration: (q10, q90) of
    the raw validation scores of the ERM run with the same seed, which every model built then carries. An ERM
    run has none while it trains (its scores steer nothing) and is calibrated by its own selected model at the
    end; so is a run of one task, which no audit reads.
    """

    kind, samples = DENSE, "frames"

    def __init__(
        self,
        tensors: DenseTensors,
        device: torch.device | str = "cpu",
        *,
        weights: Path | str | None = None,
        augmentation: Augmentation = "none",
        calibration: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        super().__init__(tensors, device)
        self.task_names: tuple[str, ...] = TASKS
        self.augmentation = augmentation
        self.as_released = False
        self.calibration = dict(calibration or {})
        self.calibrated_by: str | None = None
        #: The quantiles of ``calibrated_by``, and the run and folder that they are awaited for.
        self._due: dict[str, tuple[float, float]] = {}
        self._awaited: tuple[RunSettings, Path] | None = None
        self._subjects = self._rooms()
        self._constants: dict[bool, tuple[float, Tensor]] = {}
        self._weights = None if weights is None else Path(weights)
        self._weights_digest: str | None = None
        self._resident: dict[str, Tensor] | None = None
        if self.device.type != "cpu":
            # All batches of a run but an epoch's last have one shape, for which the quickest way pays.
            torch.backends.cudnn.benchmark = True
            self._resident = {
                name: torch.from_numpy(np.array(tensors.arrays[name])).to(self.device)
                for name in FRAME_ARRAYS
            }

    @classmethod
    def open(
        cls, folder: Path | str, device: str, settings: RunSettings, weights: Path | str | None = None
    ) -> "DenseProblem":
        """Open a tensor folder; nothing of the settings shapes it before ``for_run``."""
        return cls(DenseTensors.open(folder), device, weights=weights)

    def for_run(self, settings: RunSettings, records: Path) -> "DenseProblem":
        """Return this problem with a run's tasks, augmentation, protocol and, if needed, ERM calibration.

        Raises:
            RecordError: ``records`` holds no finished ERM run of the same seed and settings, or, where only
                the end of the run needs it, none that has begun.
            InputError: The settings are of a clinical model.
        """
        problem, model = super().for_run(settings, records), cast(DenseModelSettings, settings.model)
        problem.augmentation, problem.as_released = model.augmentation, model.protocol == "as_released"
        problem.calibration, problem.calibrated_by, problem._due, problem._awaited = {}, None, {}, None
        if model.task is not None:
            problem.task_names = (model.task,)
            own = [task for task in self.description["tasks"] if task["name"] == model.task]
            problem.description = {**self.description, "tasks": own}
        elif not is_reference(settings):
            problem._awaited = settings, Path(records)
            if not scores_follow(settings):
                problem.calibration = problem._take_calibration()
            elif not problem._under_way():
                problem._take_calibration()
        return problem

    def _under_way(self) -> bool:
        """Tell whether somebody makes an ERM run of the awaited one's seed."""
        settings, records = self._awaited  # type: ignore[misc]
        return any(map(is_held, records.glob(f"erm-seed{settings.seed}-*/{LOCK}")))

    def _take_calibration(self) -> dict[str, tuple[float, float]]:
        """Take the quantiles of the awaited ERM record; ``RecordError`` where there is none."""
        settings, records = self._awaited  # type: ignore[misc]
        record = find_reference(settings, self.data_fingerprint, records)
        found = record.result["score_calibration"]["quantiles"]
        self._due = {task: (low, high) for task, (low, high) in found.items()}
        self.calibrated_by = record.key
        return self._due

    def waits(self) -> bool:
        """Tell whether the ERM run whose quantiles scale this run's scores is still under way.

        Raises:
            RecordError: It has left no record and nobody is making it.
        """
        if self._awaited is None or self.calibrated_by is not None:
            return False
        held = self._under_way()
        try:
            self._take_calibration()
        except RecordError:
            if held:
                return True
            raise
        return False

    def build_model(self, settings: DenseModelSettings) -> DenseModel:
        """Return a model on this device: pretrained or random encoder, random decoders, calibrated scores.

        The depth decoder starts at the training frames' median depth, the normals' at their mean normal.

        Raises:
            InputError: The settings name weights whose file was not given or is another one.
        """
        source = self._weights_for(settings)
        model = DenseModel(
            settings.encoder, len(self.tensors.class_names), source, settings.head, settings.task
        )
        model.calibrate(self.calibration)
        model.start_at(*self._training_constants())
        return model.to(self.device)

    def _training_constants(self) -> tuple[float, Tensor]:
        """Return median depth in metres and mean normal [3] of the training frames, measured once.

        Both are exact: depth is counted by its float16 value (the order of whose bit patterns is that of
        positive numbers; of an even number of pixels the lower middle one), normals are summed as whole
        numbers.
        """
        if self.as_released not in self._constants:
            counts, total = np.zeros(1 << 16, dtype=np.int64), np.zeros(3, dtype=np.int64)
            for frame in self.rows("train"):
                depth = np.ascontiguousarray(self.tensors.arrays["depth"][frame]).view(np.uint16)
                counts += np.bincount(depth.ravel(), minlength=1 << 16)
                total += self.tensors.arrays["normals"][frame].sum(axis=(1, 2), dtype=np.int64)
            counts[0] = 0
            middle = int(np.searchsorted(np.cumsum(counts), (counts.sum() + 1) // 2))
            length = float(np.linalg.norm(total)) or 1.0
            median = float(np.uint16(middle).view(np.float16)) if counts.any() else 0.0
            self._constants[self.as_released] = median, torch.tensor(total / length, dtype=torch.float32)
        return self._constants[self.as_released]

    def _check_labels(self) -> None:
        """Refuse a split without a label of some task, and one validation frame: it has no quantiles."""
        if len(self.task_names) > 1 and len(self.rows("validation")) < 2:
            raise DataError(
                f"{self.tensors.folder}: one validation frame calibrates no scores; give two or more"
            )
        for split in SPLITS:
            for task in self.task_names:
                frames = map(self.batch, self.rows(split)[:, None])
                if not any(valid_pixels(frame, (task,))[task].any() for frame in frames):
                    raise DataError(f"{self.tensors.folder}: no {split} frame has a label of task {task!r}")

    def _weights_for(self, settings: DenseModelSettings) -> Path | str | None:
        if settings.weights is None or settings.weights == DOWNLOAD:
            return settings.weights
        if self._weights is None:
            raise InputError(
                f"the settings name encoder weights {settings.weights[:12]}; give their file too (shell:"
                " --weights FILE)"
            )
        self._weights_digest = self._weights_digest or weights_identity(self._weights)
        if self._weights_digest != settings.weights:
            raise InputError(
                f"{self._weights} has sha256 {self._weights_digest[:12]}, the settings name"
                f" {settings.weights[:12]}; give the file that the settings were made with"
            )
        return self._weights

    def calibrate_scores(self, model: DenseModel, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Calibrate a selected ERM model on its own validation scores; return the calibration.

        With ``found``, what this returned for the run's selected model, that calibration is put in place
        instead. ``reference`` is the key of the ERM record that it comes from, None where this run is the ERM
        run.
        """
        if found is not None:
            model.calibrate({task: (low, high) for task, (low, high) in found["quantiles"].items()})
        else:
            model.calibrate(self._due or self.measure_calibration(model))
        quantiles = {
            task: list(model.calibration[task]) for task in model.task_names if task != "segmentation"
        }
        return {"quantiles": quantiles, "reference": self.calibrated_by}

    def _rooms(self) -> np.ndarray:
        """Return each frame's subject: its scene where scenes are named, else its run of frame numbers.

        Frames of one room are no independent draws, so a room counts as one subject in standard errors.
        NYUv2's official numbers go through the rooms in order and its parts divide rooms, so a run of
        consecutive numbers within a part holds whole rooms. Without either, every frame is its own subject.
        """
        scenes, ids = self.tensors.arrays["scenes"], self.tensors.arrays["ids"]
        if (scenes >= 0).all():
            return np.asarray(scenes, dtype=np.int32)
        if self.tensors.manifest["options"].get("layout") not in ("official", "images"):
            return np.arange(len(ids), dtype=np.int32)
        order = np.argsort(ids)
        test = (self.tensors.arrays["split"] == SPLITS.index("test"))[order]
        begins = (np.diff(ids[order]) != 1) | (test[1:] != test[:-1])
        rooms = np.empty(len(ids), dtype=np.int32)
        rooms[order] = np.concatenate([[0], np.cumsum(begins)])
        return rooms

    def batch(self, frames: np.ndarray) -> dict[str, Tensor]:
        """Gather the frames with the given indices [B], in their stored types."""
        rows = np.asarray(frames, dtype=np.int64)
        if self._resident is None:
            return {
                name: torch.from_numpy(np.array(self.tensors.arrays[name][rows])) for name in FRAME_ARRAYS
            }
        index = _sent(torch.from_numpy(rows), self.device)
        return {name: array[index] for name, array in self._resident.items()}

    def _augmented(self, batch: dict[str, Tensor], generator: np.random.Generator) -> dict[str, Tensor]:
        return augment(batch, self.augmentation, generator)

    def evaluate(self, model: DenseModel, split: str) -> Evaluation:
        """Run a model over a split in evaluation mode and return utility, audit scores and embeddings."""
        frames = self.rows(split)
        meter = DenseMeter(len(self.tensors.class_names), self.device, model.task_names)

        def read(batch: dict[str, Tensor], outputs: DenseOutputs) -> dict[str, Tensor]:
            meter.add(outputs.predictions, batch)
            raw, carries = model.raw_scores(outputs, batch), model.carries(batch)
            parts = {"score": model.scaled(raw, carries), "raw": raw, "held": carries}
            found = {f"{kind}/{task}": own for kind, tasks in parts.items() for task, own in tasks.items()}
            return {"embedding": outputs.embedding.float(), **found}

        found = self._gather(model, frames, EVALUATION_BATCH, read)
        held = {task: found[f"held/{task}"] for task in model.task_names}
        return Evaluation(
            utility=meter.utility(),
            scores={task: found[f"score/{task}"][own] for task, own in held.items()},
            raw={task: found[f"raw/{task}"][own] for task, own in held.items()},
            samples={task: frames[own] for task, own in held.items()},
            embeddings=found["embedding"],
            order=frames,
            on_scale=any(quantiles != (0.0, 1.0) for quantiles in model.calibration.values()),
        )

    def raw_scores(self, model: DenseModel, split: str) -> dict[str, np.ndarray]:
        """Return per task what audits under other calibrations read, for its pool's images [n], float32.

        Depth and normals: the score before it is put on the common scale and clipped. Segmentation: the score
        at each of ``TEMPERATURES`` [n, 8]; "segmentation_nll": the mean negative log-likelihood, in nats, of
        an image's labelled pixels there, by which a temperature is chosen on validation.
        """

        def read(batch: dict[str, Tensor], outputs: DenseOutputs) -> dict[str, Tensor]:
            rows, carries = model.raw_scores(outputs, batch), model.carries(batch)
            if "segmentation" in rows:
                rows |= _by_temperature(outputs.predictions["segmentation"].float(), batch)
            return {name: values[carries[name.removesuffix("_nll")]] for name, values in rows.items()}

        return self._gather(model, self.rows(split), EVALUATION_BATCH, read)

    def measure_calibration(self, model: DenseModel) -> dict[str, tuple[float, float]]:
        """Return (q10, q90) of a reference model's raw depth and normals scores on validation."""
        raw = self.evaluate(model, "validation").raw
        return {
            task: calibration_quantiles(torch.from_numpy(values))
            for task, values in raw.items()
            if task != "segmentation"
        }

    def _parts(self, split: str) -> tuple[str, ...]:
        if not self.as_released:
            return (split,)
        return ("train", "validation") if split == "train" else ("test",)


def _sent(small: Tensor, device: torch.device) -> Tensor:
    """Return a host tensor on the device; a GPU's work under way is not waited for."""
    return small.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else small.to(device)


def _by_temperature(logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return segmentation's score and its labels' loss per image and temperature [B, 8] from logits."""
    valid = valid_pixels(batch, ("segmentation",))["segmentation"]
    labels = batch["labels"].long().where(valid, 0)[:, None]
    shares = valid.float() / valid.sum((1, 2)).clamp(min=1)[:, None, None]
    rows = []
    for temperature in TEMPERATURES:
        likelihood = (logits / temperature).log_softmax(1)
        true, most = likelihood.gather(1, labels)[:, 0], likelihood.amax(1).exp()
        rows.append(torch.stack([(most * shares).sum((1, 2)), -(true * shares).sum((1, 2))]))
    score, loss = torch.stack(rows, 2)
    return {"segmentation": score, "segmentation_nll": loss}


def weights_identity(path: Path | str) -> str:
    """Return the sha256 of a file of encoder weights: what ``DenseModelSettings.weights`` calls it.

    Raises:
        DataError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such weights file")
    return sha256_of(path)


def find_reference(settings: RunSettings, data_fingerprint: str, records: Path) -> Record:
    """Return the finished ERM record that calibrates a run's scores.

    Settings of penalty, controller and audit do not matter: ERM does not read them while it trains.

    Args:
        settings: Of the run; seed, revision, model and training are shared.
        data_fingerprint: Of its data.
        records: The record lies below this folder.

    Raises:
        RecordError: There is no such record.
    """
    for path in sorted(Path(records).glob("*/record.json")):
        try:
            record = Record.load(path.parent)
        except RecordError:
            continue  # Whoever made it hears of the damage; here it is no reference.
        own = record.settings
        if (
            is_reference(own)
            and (own.seed, own.revision, own.model, own.training)
            == (settings.seed, settings.revision, settings.model, settings.training)
            and record.content["dataset"]["fingerprint"] == data_fingerprint
        ):
            return record
    raise RecordError(
        f"{settings.method}, seed {settings.seed}: its audit scores are calibrated by the ERM run of the same"
        f" seed and settings, and {records} holds none; run method erm with seed {settings.seed} there first"
    )


def augment(
    batch: dict[str, Tensor], augmentation: Augmentation, generator: np.random.Generator
) -> dict[str, Tensor]:
    """Return a batch with images mirrored (probability 1/2) and, for "flip_scale", zoomed by a random crop.

    A mirror image negates the x component of its normals. A zoom by s shows a crop of 1/s of the height and
    width at full size and divides depth by s (the camera keeps its focal length, its principal point moves
    with the crop), which squeezes the scene along z: the z component of its normals grows by s before they
    are brought back to unit length. One s per batch, one crop per image. Labels, depth and normals take the
    nearest pixel.

    Args:
        batch: Stored arrays of frames.
        augmentation: "none", "flip" or "flip_scale".
        generator: Of the draws.

    Raises:
        InputError: An unknown augmentation.
    """
    if augmentation not in ("none", "flip", "flip_scale"):
        raise InputError(f"no augmentation is called {augmentation!r}; known are none, flip, flip_scale")
    if augmentation == "none":
        return batch
    result = dict(batch)
    if augmentation == "flip_scale":
        result = _zoom(result, generator)
    count = len(batch["images"])
    mirrored = _sent(torch.from_numpy(generator.uniform(size=count) < 0.5), batch["images"].device)
    for name in FRAME_ARRAYS:
        array = result[name]
        flipped = array.flip(-1)
        if name == "normals":
            flipped[:, 0].neg_()
        result[name] = torch.where(mirrored.view(-1, *[1] * (array.dim() - 1)), flipped, array)
    return result


def _zoom(batch: dict[str, Tensor], generator: np.random.Generator) -> dict[str, Tensor]:
    """Crop and enlarge every image of a batch by the same factor."""
    scale = float(generator.choice(SCALES))
    corners = generator.uniform(size=(len(batch["images"]), 2))
    if scale == 1:
        return batch
    height, width = batch["labels"].shape[-2:]
    size = (round(height / scale), round(width / scale))
    cropped: dict[str, list[Tensor]] = {name: [] for name in FRAME_ARRAYS}
    for index, (top_share, left_share) in enumerate(corners):
        top, left = int(top_share * (height - size[0] + 1)), int(left_share * (width - size[1] + 1))
        for name, parts in cropped.items():
            parts.append(batch[name][index, ..., top : top + size[0], left : left + size[1]])
    stacked = {name: torch.stack(parts) for name, parts in cropped.items()}
    device = batch["images"].device
    rows = ((2 * torch.arange(height, device=device) + 1) * size[0]) // (2 * height)
    columns = ((2 * torch.arange(width, device=device) + 1) * size[1]) // (2 * width)
    images = functional.interpolate(
        stacked["images"].float(), size=(height, width), mode="bilinear", align_corners=False
    )
    result = {
        name: stacked[name][..., rows[:, None], columns[None, :]] for name in ("labels", "depth", "normals")
    }
    result["images"] = images.round().clamp(0, 255).to(torch.uint8)
    result["depth"] = result["depth"] / scale
    normals = result["normals"].float()
    normals[:, 2] *= scale
    result["normals"] = (
        (functional.normalize(normals, dim=1) * NORMAL_SCALE).round().to(batch["normals"].dtype)
    )
    return result
