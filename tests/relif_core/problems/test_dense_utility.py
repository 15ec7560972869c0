"""Dense utility: reference values, cases worked by hand, and independence of how batches are cut."""

import math

import numpy as np
import pytest
import torch

from relif_core.errors import DivergenceError, InputError
from relif_core.problems.dense_utility import (
    DenseMeter,
    DepthMeter,
    NormalsMeter,
    SegmentationMeter,
    relative_change,
)
from relif_core.problems.utility import TaskUtility, Utility


def random_batches(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        predictions = {
            "segmentation": torch.randn(2, 13, 9, 11, generator=generator),
            "depth": torch.rand(2, 9, 11, generator=generator) * 4,
            "normals": torch.randn(2, 3, 9, 11, generator=generator),
        }
        labels = torch.randint(0, 13, (2, 9, 11), generator=generator, dtype=torch.uint8)
        labels[:, 0] = 255
        depth = (torch.rand(2, 9, 11, generator=generator) * 4 + 0.5).half()
        depth[:, 1] = 0
        normals = torch.randint(-127, 128, (2, 3, 9, 11), generator=generator, dtype=torch.int8)
        normals[:, :, 2] = 0
        yield predictions, {"labels": labels, "depth": depth, "normals": normals}


def joined(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_pooling_is_exact_over_batches() -> None:
    batches = list(random_batches(4))
    pieces, whole = DenseMeter(13), DenseMeter(13)
    for predictions, batch in batches:
        pieces.add(predictions, batch)
    whole.add(joined([p for p, _ in batches]), joined([b for _, b in batches]))
    first, second = pieces.utility().as_json(), whole.utility().as_json()
    assert first["worst"] == pytest.approx(second["worst"], rel=1e-12)
    for task in ("segmentation", "depth", "normals"):
        assert first["tasks"][task]["metrics"] == pytest.approx(second["tasks"][task]["metrics"], rel=1e-12)


def test_normals_statistics_match_numpy() -> None:
    predictions, batch = next(random_batches(1))
    meter = NormalsMeter()
    meter.add(predictions["normals"], batch["normals"])
    metrics = meter.utility().metrics
    a, b = predictions["normals"].double().numpy(), batch["normals"].double().numpy()
    valid = (b != 0).any(axis=1)
    cosine = (a * b).sum(axis=1)[valid] / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))[valid]
    angle = np.degrees(np.arccos(cosine))
    assert metrics["mean_angle"] == pytest.approx(angle.mean(), abs=1e-4)
    assert metrics["median_angle"] == pytest.approx(np.sort(angle)[(len(angle) + 1) // 2 - 1], abs=0.006)
    for limit in (11.25, 22.5, 30):
        assert metrics[f"within_{limit:g}"] == pytest.approx((angle < limit).mean())


def test_segmentation_by_hand() -> None:
    """Two classes of three occur; labels 0 0 1 x, predictions 0 1 1 0: IoU 1/2 and 1/2, accuracy 2/3."""
    labels = torch.tensor([[[0, 0], [1, 255]]], dtype=torch.uint8)
    logits = torch.full((1, 3, 2, 2), -1.0)
    for (row, column), winner in {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0}.items():
        logits[0, winner, row, column] = 1.0
    meter = SegmentationMeter(3)
    meter.add(logits, labels)
    assert meter.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert meter.intersection_over_union()[2].isnan()
    utility = meter.utility()
    assert utility.score == pytest.approx(0.5)
    assert utility.metrics["pixel_accuracy"] == pytest.approx(2 / 3)


def test_depth_by_hand() -> None:
    meter = DepthMeter()
    meter.add(torch.tensor([[[1.0, 2.0, 9.0]]]), torch.tensor([[[2.0, 4.0, 0.0]]]))
    utility = meter.utility()
    assert utility.metrics == pytest.approx(
        {"rmse": math.sqrt(2.5), "absolute_error": 1.5, "relative_error": 0.5}
    )
    assert utility.score == pytest.approx(1 / (1 + math.sqrt(2.5)))


def test_perfect_and_opposite_normals() -> None:
    truth = torch.zeros(1, 3, 2, 2)
    truth[:, 2] = -1
    for predicted, score in ((truth, 1.0), (-truth, 0.0)):
        meter = NormalsMeter()
        meter.add(predicted, truth)
        assert meter.utility().score == pytest.approx(score, abs=1e-6)


def test_missing_targets_give_a_reason_not_a_number() -> None:
    predictions, batch = next(random_batches(1))
    batch["labels"][:] = 255
    batch["depth"][:] = 0
    batch["normals"][:] = 0
    meter = DenseMeter(13)
    meter.add(predictions, batch)
    utility = meter.utility()
    assert [task.score for task in utility.tasks.values()] == [None, None, None]
    assert all(task.missing for task in utility.tasks.values())
    assert math.isnan(utility.worst)


def test_diverged_predictions_are_refused() -> None:
    predictions, batch = next(random_batches(1))
    predictions["depth"][0, 0, 0] = float("nan")
    meter = DenseMeter(13)
    meter.add(predictions, batch)
    with pytest.raises(DivergenceError, match="predictions for depth are not finite"):
        meter.utility()


def test_relative_change_by_hand() -> None:
    utility = Utility(
        {
            "segmentation": TaskUtility(0.5, {"miou": 0.5, "pixel_accuracy": 0.6}),
            "depth": TaskUtility(0.6, {"rmse": 0.9}),
        }
    )
    reference = {"segmentation": {"miou": 0.4, "pixel_accuracy": 0.6}, "depth": {"rmse": 1.0}}
    # segmentation (+25 % + 0 %) / 2, depth +10 %
    assert relative_change(utility, reference) == pytest.approx(100 * (0.125 + 0.1) / 2)
    with pytest.raises(InputError, match="no comparable metric"):
        relative_change(utility, {"depth": {"relative_error": 0.1}})
    with pytest.raises(InputError, match="at least one"):
        relative_change(utility, {})
