"""Dense tensors as a training problem: batches on the device, augmentation there, the model, and evaluation of a split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from relif_core.clinical import Evaluation
from relif_core.datasets.dense_tensors import FRAME_ARRAYS, DenseTensors
from relif_core.dense_utility import DenseMeter
from relif_core.errors import DataError, InputError
from relif_core.models.vision import TASKS, DenseModel, calibration_quantiles
from relif_core.record import describe_dataset

EVALUATION_BATCH = 16
#: Zoom factors of the "flip_scale" augmentation, as published with MTAN (Liu et al. 2019).
SCALES = (1.0, 1.2, 1.5)
Augmentation = Literal["none", "flip", "flip_scale"]


@dataclass(frozen=True)
class DenseModelSettings:
    """The dense model: a ResNet (50 in the paper) and its decoders; ``weights`` is a file, "download" or None (random)."""

    encoder: str = "resnet50"
    weights: str | None = None
    head: Literal["decoder", "aspp"] = "decoder"


class DenseProblem:
    """A dense data set held on one device: on a GPU all of it, in its stored types; on a CPU as memory maps.

    ``calibration`` maps a task to the (q10, q90) of the reference model's raw validation scores; every model built here carries it.
    """

    task_names = TASKS

    def __init__(
        self,
        tensors: DenseTensors,
        device: torch.device | str = "cpu",
        *,
        augmentation: Augmentation = "flip",
        calibration: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        if augmentation not in ("none", "flip", "flip_scale"):
            raise InputError(f"no augmentation is called {augmentation!r}; known are none, flip, flip_scale")
        self.tensors = tensors
        self.device = torch.device(device)
        self.description = describe_dataset(tensors.manifest)
        self.augmentation = augmentation
        self.calibration = dict(calibration or {})
        self._resident: dict[str, Tensor] | None = None
        if self.device.type != "cpu":
            self._resident = {
                name: torch.from_numpy(np.array(tensors.arrays[name])).to(self.device)
                for name in FRAME_ARRAYS
            }

    @property
    def data_fingerprint(self) -> str:
        """The data set's fingerprint."""
        return self.tensors.fingerprint

    def build_model(self, settings: DenseModelSettings) -> DenseModel:
        """Return a model on this device: pretrained or random encoder, random decoders, calibrated scores."""
        model = DenseModel(settings.encoder, len(self.tensors.class_names), settings.weights, settings.head)
        model.calibrate(self.calibration)
        return model.to(self.device)

    def subjects(self, samples: np.ndarray) -> np.ndarray:
        """Return each frame's subject as a number: its scene where the source names scenes, else the frame itself.

        Frames of one room are no independent draws, so a room counts as one subject in standard errors.
        """
        scenes = self.tensors.arrays["scenes"]
        numbers = scenes if (scenes >= 0).all() else np.arange(len(scenes))
        return np.asarray(numbers)[samples].astype(np.int32)

    def batch(self, frames: np.ndarray) -> dict[str, Tensor]:
        """Gather the frames with the given indices [B], in their stored types."""
        rows = np.asarray(frames, dtype=np.int64)
        if self._resident is None:
            return {
                name: torch.from_numpy(np.array(self.tensors.arrays[name][rows])) for name in FRAME_ARRAYS
            }
        index = torch.from_numpy(rows).to(self.device)
        return {name: array[index] for name, array in self._resident.items()}

    def training_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Yield one epoch of shuffled, augmented training batches, fixed by (seed, epoch). A last single frame is dropped."""
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(self.tensors.frames_of("train"))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if len(chosen) > 1:
                yield augment(self.batch(chosen), self.augmentation, generator)

    @torch.no_grad()
    def evaluate(self, model: DenseModel, split: str) -> Evaluation:
        """Run a model over a split in evaluation mode and return utility, audit scores and embeddings."""
        model.eval()
        frames = self._frames(split)
        meter = DenseMeter(len(self.tensors.class_names), self.device)
        embeddings: list[Tensor] = []
        scores: dict[str, list[Tensor]] = {task: [] for task in TASKS}
        carries: dict[str, list[Tensor]] = {task: [] for task in TASKS}
        for start in range(0, len(frames), EVALUATION_BATCH):
            batch = self.batch(frames[start : start + EVALUATION_BATCH])
            outputs = model(batch)
            meter.add(outputs.predictions, batch)
            embeddings.append(outputs.embedding)
            for task, score in model.scores(outputs, batch).items():
                scores[task].append(score)
            for task, carried in model.carries(batch).items():
                carries[task].append(carried)
        valid = {task: torch.cat(parts).cpu().numpy() for task, parts in carries.items()}
        return Evaluation(
            utility=meter.utility(),
            scores={task: torch.cat(parts).cpu().numpy()[valid[task]] for task, parts in scores.items()},
            samples={task: frames[held] for task, held in valid.items()},
            embeddings=torch.cat(embeddings).cpu().numpy(),
            order=frames,
        )

    @torch.no_grad()
    def measure_calibration(
        self, model: DenseModel, split: str = "validation"
    ) -> dict[str, tuple[float, float]]:
        """Return (q10, q90) of a model's raw depth and normals scores on a split.

        Meant for the ERM model of a seed: its quantiles then calibrate every method of that seed.
        """
        model.eval()
        frames = self._frames(split)
        raw: dict[str, list[Tensor]] = {"depth": [], "normals": []}
        for start in range(0, len(frames), EVALUATION_BATCH):
            batch = self.batch(frames[start : start + EVALUATION_BATCH])
            found, carried = model.raw_scores(model(batch), batch), model.carries(batch)
            for task, parts in raw.items():
                parts.append(found[task][carried[task]])
        return {task: calibration_quantiles(torch.cat(parts)) for task, parts in raw.items()}

    def _frames(self, split: str) -> np.ndarray:
        frames = self.tensors.frames_of(split)
        if not len(frames):
            raise DataError(f"{self.tensors.folder}: split {split!r} is empty")
        return frames


def augment(
    batch: dict[str, Tensor], augmentation: Augmentation, generator: np.random.Generator
) -> dict[str, Tensor]:
    """Return a batch with images mirrored (each with probability 1/2) and, for "flip_scale", zoomed by a random crop.

    A mirror image negates the x component of its normals. A zoom by s shows a crop of 1/s of the height and width at full size and divides depth by s
    (the camera keeps its focal length); one s per batch, one crop per image. Labels, depth and normals take the nearest pixel.
    """
    if augmentation == "none":
        return batch
    result = dict(batch)
    if augmentation == "flip_scale":
        result = _zoom(result, generator)
    count = len(batch["images"])
    mirrored = torch.from_numpy(generator.uniform(size=count) < 0.5).to(batch["images"].device)
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
    rows = ((2 * torch.arange(height) + 1) * size[0]) // (2 * height)
    columns = ((2 * torch.arange(width) + 1) * size[1]) // (2 * width)
    images = functional.interpolate(
        stacked["images"].float(), size=(height, width), mode="bilinear", align_corners=False
    )
    result = {
        name: stacked[name][..., rows[:, None], columns[None, :]] for name in ("labels", "depth", "normals")
    }
    result["images"] = images.round().clamp(0, 255).to(torch.uint8)
    result["depth"] = result["depth"] / scale
    return result
