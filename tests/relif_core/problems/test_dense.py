"""Dense data as a training problem: batches, true geometry under augmentation, evaluation, calibration."""

import copy

import numpy as np
import pytest
import torch

from relif_core.errors import DataError, InputError
from relif_core.problems.dense import SCALES, DenseProblem, augment
from relif_core.settings import DenseModelSettings
from relif_core.tensors.dense import DenseTensors
from relif_data.synthetic_rooms import prepare

SMALL = DenseModelSettings(encoder="resnet18")


@pytest.fixture(scope="module")
def tensors(tmp_path_factory) -> DenseTensors:
    return DenseTensors.open(
        prepare(None, tmp_path_factory.mktemp("rooms") / "set", frames=40, height=32, width=48, seed=1)
    )


@pytest.fixture(scope="module")
def problem(tensors) -> DenseProblem:
    return DenseProblem(tensors)


@pytest.fixture(scope="module")
def model(problem):
    torch.manual_seed(0)
    return problem.build_model(SMALL)


def test_batches_cover_the_training_part_once_and_repeat_by_seed(tensors) -> None:
    problem = DenseProblem(tensors, augmentation="none")
    batches = list(problem.training_batches(4, seed=0, epoch=0))
    images = torch.cat([batch["images"] for batch in batches]).numpy()
    stored = tensors.batch(tensors.frames_of("train"))["images"]
    assert len(images) == len(stored)
    assert {image.tobytes() for image in images} == {image.tobytes() for image in stored}
    again = list(DenseProblem(tensors, augmentation="flip_scale").training_batches(4, seed=0, epoch=1))
    twice = list(DenseProblem(tensors, augmentation="flip_scale").training_batches(4, seed=0, epoch=1))
    for first, second in zip(again, twice, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_mirroring_mirrors_the_geometry(problem, tensors) -> None:
    batch = problem.batch(tensors.frames_of("train")[:8])
    mirrored = augment(batch, "flip", np.random.default_rng(0))
    changed = 0
    for index in range(8):
        if torch.equal(mirrored["images"][index], batch["images"][index]):
            assert torch.equal(mirrored["normals"][index], batch["normals"][index])
            continue
        changed += 1
        for name in ("images", "labels", "depth"):
            assert torch.equal(mirrored[name][index], batch[name][index].flip(-1))
        sign = torch.tensor([-1, 1, 1], dtype=torch.int8).view(3, 1, 1)
        assert torch.equal(mirrored["normals"][index], batch["normals"][index].flip(-1) * sign)
    assert 0 < changed < 8
    assert torch.equal(batch["normals"], problem.batch(tensors.frames_of("train")[:8])["normals"])


def test_zoom_divides_depth_and_keeps_types_and_sizes(problem, tensors) -> None:
    batch = problem.batch(tensors.frames_of("train")[:4])
    factors = set()
    for seed in range(12):
        zoomed = augment(batch, "flip_scale", np.random.default_rng(seed))
        for name in batch:
            assert zoomed[name].shape == batch[name].shape
            assert zoomed[name].dtype == batch[name].dtype
        values = batch["depth"].float().unique()
        first = zoomed["depth"].float()[0, 0, 0]
        factors |= {s for s in SCALES if ((values / s).half().float() - first).abs().min() == 0}
        assert set(zoomed["labels"].unique().tolist()) <= set(batch["labels"].unique().tolist())
    assert factors == set(SCALES)


def test_zoomed_normals_are_those_of_the_zoomed_depth() -> None:
    """A plane seen through a pinhole, 1/Z = (n / d) · ((x − cx)/f, (y − cy)/f, 1): depth shows its normal."""
    height, width, focal, frames = 60, 80, 70.0, 6
    y, x = np.mgrid[:height, :width]
    normal = np.array([0.5, 0.3, -0.8]) / np.linalg.norm([0.5, 0.3, -0.8])
    inverse = -(normal[0] * (x - 39.5) / focal + normal[1] * (y - 29.5) / focal + normal[2]) / 2.0
    codes = np.rint(127 * normal).astype(np.int8)
    batch = {
        "images": torch.zeros(frames, 3, height, width, dtype=torch.uint8),
        "labels": torch.zeros(frames, height, width, dtype=torch.uint8),
        "depth": torch.from_numpy(1 / inverse).float().expand(frames, height, width).contiguous(),
        "normals": torch.from_numpy(codes).view(1, 3, 1, 1).repeat(frames, 1, height, width),
    }
    batch["normals"][:, :, :2] = 0
    worst = 0.0
    for seed in range(6):
        draws = np.random.default_rng(seed)
        scale, corners = draws.choice(SCALES), draws.uniform(size=(frames, 2))
        mirrored = draws.uniform(size=frames) < 0.5
        zoomed = augment(batch, "flip_scale", np.random.default_rng(seed))
        size = np.round([height / scale, width / scale])
        top, left = np.floor(corners * ([height, width] - size + 1)).T if scale > 1 else np.zeros((2, frames))
        for frame in range(frames):
            depth, found = (
                zoomed[name][frame].float().numpy().astype(float) for name in ("depth", "normals")
            )
            if mirrored[frame]:
                depth, found = depth[:, ::-1], found[:, :, ::-1] * np.array([-1, 1, 1])[:, None, None]
            u = (x - ((39.5 - left[frame] + 0.5) * scale - 0.5)) / focal
            v = (y - ((29.5 - top[frame] + 0.5) * scale - 0.5)) / focal
            plane = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
            fitted = -np.linalg.lstsq(plane, 1 / depth.ravel(), rcond=None)[0]
            length = np.linalg.norm(found, axis=0)
            held = length > 0
            assert held.sum() >= (height - 4) * width
            cosine = np.einsum("c,cn->n", fitted / np.linalg.norm(fitted), found[:, held] / length[held])
            worst = max(worst, float(np.degrees(np.arccos(cosine.clip(-1, 1))).max()))
            if scale == 1:
                assert np.abs(found[:, held] - codes[:, None]).max() == 0
    assert worst < 1.0


def test_evaluation_is_complete_and_independent_of_batches(problem, model, tensors, monkeypatch) -> None:
    first = problem.evaluate(model, "test")
    monkeypatch.setattr("relif_core.problems.dense.EVALUATION_BATCH", 3)
    second = problem.evaluate(model, "test")
    frames = tensors.frames_of("test")
    np.testing.assert_array_equal(first.order, frames)
    assert first.embeddings.shape == (len(frames), 512)
    assert first.utility.worst == pytest.approx(second.utility.worst, abs=1e-4)
    for task in problem.task_names:
        assert len(first.scores[task]) == len(first.samples[task]) == len(frames)
        assert first.scores[task].dtype == np.float32
        assert ((first.scores[task] >= 0) & (first.scores[task] <= 1)).all()
        np.testing.assert_allclose(first.scores[task], second.scores[task], atol=1e-5)
    assert first.embeddings_of("depth").shape == (len(frames), 512)


def test_calibration_reaches_every_model(problem, model, tensors) -> None:
    quantiles = problem.measure_calibration(model)
    assert set(quantiles) == {"depth", "normals"}
    calibrated = DenseProblem(tensors, calibration=quantiles)
    other = calibrated.build_model(SMALL)
    assert other.calibration["depth"] == pytest.approx(quantiles["depth"])
    other.load_state_dict(model.state_dict())
    other.calibrate(quantiles)
    scores = calibrated.evaluate(other, "validation").scores["depth"]
    # Ten per cent on either side are clipped.
    assert scores.min() == 0
    assert scores.max() == 1
    assert 0 < np.median(scores) < 1


def test_rooms_are_the_subjects(problem, tensors) -> None:
    frames = tensors.frames_of("test")
    np.testing.assert_array_equal(problem.subjects(frames), tensors.arrays["scenes"][frames])


def test_a_few_steps_lower_the_loss_of_every_task(problem, tensors) -> None:
    torch.manual_seed(0)
    model = problem.build_model(SMALL).train()
    batch = problem.batch(tensors.frames_of("train")[:6])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(8):
        losses = model.losses(model(batch), batch).values
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        history.append(losses.detach())
    assert (history[-1] < history[0]).all()


def test_bad_requests_are_named(tensors, tmp_path) -> None:
    with pytest.raises(InputError, match="no augmentation"):
        next(DenseProblem(tensors, augmentation="blur").training_batches(4, 0, 0))  # type: ignore[arg-type]
    folder = prepare(None, tmp_path / "set", frames=8, height=32, width=32, views=1, validation_fraction=0.0)
    empty = DenseProblem(DenseTensors.open(folder))
    with pytest.raises(DataError, match="split 'validation' is empty"):
        empty.evaluate(empty.build_model(SMALL), "validation")
    lone = copy.copy(tensors)
    split = np.array(tensors.arrays["split"])
    split[np.flatnonzero(split == 1)[1:]] = 0
    object.__setattr__(lone, "arrays", {**tensors.arrays, "split": split})
    with pytest.raises(DataError, match="one validation frame calibrates no scores; give two or more"):
        DenseProblem(lone).check(2)
