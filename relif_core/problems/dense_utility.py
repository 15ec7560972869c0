"""Utility of dense prediction, accumulated over batches on the device that computes them.

The sums run over all valid pixels of a split, so the result does not depend on how it was cut into batches.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from relif_core.errors import DivergenceError, InputError
from relif_core.methods import DENSE_TASKS
from relif_core.problems.utility import TaskUtility, Utility
from relif_core.tensors.dense import IGNORE

#: Angles in degrees within which the share of pixels is reported.
ANGLES = (11.25, 22.5, 30.0)
#: Angles are also counted in bins of this many degrees, from which the median is read.
BIN_DEGREES = 0.01


class SegmentationMeter:
    """Confusion matrix [classes, classes] (rows: label, columns: prediction) over all labelled pixels."""

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        self.classes = classes
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: [B, classes, H, W].
            labels: [B, H, W]; 255, or any value outside the classes, is left out.
        """
        predicted = logits.argmax(dim=1)
        truth = labels.long()
        valid = (truth >= 0) & (truth < self.classes) & (truth != IGNORE)
        pairs = torch.where(valid, truth * self.classes + predicted, 0)
        self.confusion.view(-1).index_add_(0, pairs.flatten(), valid.flatten().to(torch.int64))

    def intersection_over_union(self) -> Tensor:
        """Return IoU [classes] (float64), NaN for a class in neither labels nor predictions."""
        hits = self.confusion.diagonal().double()
        union = self.confusion.sum(dim=0) + self.confusion.sum(dim=1) - self.confusion.diagonal()
        return hits / union

    def utility(self) -> TaskUtility:
        """Return mIoU, over classes in labels or predictions, as the score, with pixel accuracy."""
        total = int(self.confusion.sum())
        if total == 0:
            return TaskUtility(None, {}, "no labelled pixel")
        score = float(self.intersection_over_union().nanmean())
        accuracy = float(self.confusion.diagonal().sum()) / total
        return TaskUtility(score, {"miou": score, "pixel_accuracy": accuracy})


class DepthMeter:
    """Sums of depth errors over all pixels whose true depth is known, in metres."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # count, squared error, absolute error, absolute error / depth
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    def add(self, predicted: Tensor, depth: Tensor) -> None:
        """Add a batch of depth maps of equal shape.

        Args:
            predicted: In metres.
            depth: In metres; 0 is left out.
        """
        valid = depth > 0
        truth = torch.where(valid, depth, 1).double()
        error = torch.where(valid, predicted.double() - truth, 0.0)
        self.sums += torch.stack(
            [valid.sum().double(), error.square().sum(), error.abs().sum(), (error.abs() / truth).sum()]
        )

    def utility(self) -> TaskUtility:
        """Return 1 / (1 + RMSE in metres) as the score, with RMSE, mean absolute and mean relative error."""
        count, squared, absolute, relative = self.sums.tolist()
        if count == 0:
            return TaskUtility(None, {}, "no pixel with depth")
        rmse = math.sqrt(squared / count)
        return TaskUtility(
            1 / (1 + rmse),
            {"rmse": rmse, "absolute_error": absolute / count, "relative_error": relative / count},
        )


class NormalsMeter:
    """Degrees between predicted and true surface normals, over all pixels that have a true one."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.within = torch.zeros(len(ANGLES), dtype=torch.int64, device=device)
        self.counts = torch.zeros(round(180 / BIN_DEGREES) + 1, dtype=torch.int64, device=device)

    def add(self, predicted: Tensor, normals: Tensor) -> None:
        """Add a batch of normals [B, 3, H, W] of any length.

        Args:
            predicted: The prediction.
            normals: The truth; a normal of zero is left out.
        """
        truth = normals.float()
        valid = (truth != 0).any(dim=1)
        cosine = functional.cosine_similarity(predicted.float(), truth, dim=1).double()
        angle = torch.rad2deg(torch.arccos(torch.where(valid, cosine, 1.0).nan_to_num(0.0).clamp(-1, 1)))
        self.total += angle.sum()  # 0 where there is no true normal
        self.within += torch.stack([((angle < limit) & valid).sum() for limit in ANGLES])
        bins = (angle / BIN_DEGREES).long()
        self.counts.index_add_(0, bins.flatten(), valid.flatten().to(torch.int64))

    def utility(self) -> TaskUtility:
        """Return 1 − mean angle / 180°, mean, median (to 0.01°), shares within 11.25°, 22.5° and 30°."""
        count = int(self.counts.sum())
        if count == 0:
            return TaskUtility(None, {}, "no pixel with a surface normal")
        mean = float(self.total) / count
        # Middle of the bin that holds the ceil(count / 2)-th smallest angle.
        middle = int(torch.searchsorted(self.counts.cumsum(0), (count + 1) // 2))
        metrics = {"mean_angle": mean, "median_angle": (middle + 0.5) * BIN_DEGREES}
        for limit, within in zip(ANGLES, self.within.tolist(), strict=True):
            metrics[f"within_{limit:g}"] = within / count
        return TaskUtility(1 - mean / 180, metrics)


class DenseMeter:
    """The meters of the named tasks (all three by default) over one pass through a split."""

    def __init__(
        self, classes: int, device: torch.device | str = "cpu", tasks: Sequence[str] = DENSE_TASKS
    ) -> None:
        meters: dict[str, SegmentationMeter | DepthMeter | NormalsMeter] = {
            "segmentation": SegmentationMeter(classes, device),
            "depth": DepthMeter(device),
            "normals": NormalsMeter(device),
        }
        self.meters = {task: meters[task] for task in tasks}
        self.finite = {task: torch.ones((), dtype=torch.bool, device=device) for task in tasks}

    @torch.no_grad()
    def add(self, predictions: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Add a batch, without waiting for the device.

        Args:
            predictions: As of ``DenseModel``.
            batch: Its stored targets.
        """
        for task, predicted in predictions.items():
            self.finite[task] = self.finite[task] & predicted.isfinite().all()
        for task, meter in self.meters.items():
            meter.add(predictions[task], batch["labels" if task == "segmentation" else task])

    def utility(self) -> Utility:
        """Return the utility of the tasks; its ``worst`` and ``macro`` are over the defined scores.

        Raises:
            DivergenceError: Predictions were not finite.
        """
        for task, finite in self.finite.items():
            if not finite:
                raise DivergenceError(f"predictions for {task} are not finite; the model has diverged")
        return Utility({task: meter.utility() for task, meter in self.meters.items()})


def relative_change(utility: Utility, reference: Mapping[str, Mapping[str, float]]) -> float:
    """Return Δm in percent: mean relative change of all raw metrics from single-task runs, positive = better.

    Within a task its metrics count equally, and tasks count equally (Maninis et al. 2019; Vandenhende et al.
    2021).

    Args:
        utility: Of the model of all tasks.
        reference: Task → metrics of a model trained on that task alone.

    Raises:
        InputError: A metric is missing or a reference is 0.
    """
    higher_is_better = {"miou", "pixel_accuracy", *(f"within_{limit:g}" for limit in ANGLES)}
    changes = []
    for task, metrics in reference.items():
        parts = []
        for name, single in metrics.items():
            if task not in utility.tasks or name not in utility.tasks[task].metrics or single == 0:
                raise InputError(f"Δm: task {task!r} has no comparable metric {name!r}")
            sign = 1 if name in higher_is_better else -1
            parts.append(sign * (utility.tasks[task].metrics[name] - single) / single)
        if not parts:
            raise InputError(f"Δm: no reference metric for task {task!r}")
        changes.append(sum(parts) / len(parts))
    if not changes:
        raise InputError("Δm needs at least one task")
    return 100 * sum(changes) / len(changes)
