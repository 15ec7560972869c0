"""Before the first step: splits, classes, labels, batches. During it: absent labels, numbers not finite."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relif_core.errors import DataError, DivergenceError, InputError
from relif_core.problems.clinical import ClinicalProblem
from relif_core.problems.dense import DenseProblem
from relif_core.settings import RunSettings, dense_settings
from relif_core.tensors.clinical import ClinicalTensors
from relif_core.tensors.dense import NORMAL_SCALE, DenseTensors
from relif_core.training.loop import TrainingLoop, run
from relif_data.synthetic_rooms import prepare

Small = Callable[..., RunSettings]


def with_arrays(problem: ClinicalProblem, **arrays: np.ndarray) -> ClinicalProblem:
    """Return the problem of the same tensors with some arrays replaced ("__" stands for "/")."""
    named = {name.replace("__", "/"): array for name, array in arrays.items()}
    tensors = replace(problem.tensors, arrays={**problem.tensors.arrays, **named})
    return ClinicalProblem(tensors)


def of_stays(problem: ClinicalProblem, name: str, split: str, value: int) -> np.ndarray:
    """Return a per-stay array with one value for every stay of a split."""
    array = np.array(problem.tensors.arrays[name])
    array[problem.tensors.stays_of(split)] = value
    return array


def rows_of(problem: ClinicalProblem, task: str, split: int) -> np.ndarray:
    """Return where the labels of a task, of stays or of hours, belong to a split."""
    arrays = problem.tensors.arrays
    inside = arrays["split"] == split
    hourly = len(arrays[f"masks/{task}"]) != len(inside)
    return np.repeat(inside, np.diff(arrays["offsets"])) if hourly else inside


def without(problem: ClinicalProblem, task: str, split: int) -> np.ndarray:
    """Return the mask of a task with no label in a split."""
    return np.where(rows_of(problem, task, split), 0, problem.tensors.arrays[f"masks/{task}"])


def refusal(problem: ClinicalProblem, settings: RunSettings, folder: Path) -> str:
    with pytest.raises(DataError) as error:
        run(settings, problem, folder)
    return str(error.value)


def test_a_run_that_does_not_fit_in_memory_says_so(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InputError, match=r"relif, seed 0: memory is too small .* allocate memory.*; lower train"
    ):
        run(small(model={"hidden": 10**8}), icu, tmp_path / "too wide")
    for raised in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")):

        def fail(loop: TrainingLoop, batch: Mapping[str, torch.Tensor], error: Exception = raised) -> None:
            raise error

        monkeypatch.setattr(TrainingLoop, "step", fail)
        with pytest.raises(InputError, match="memory is too small"):
            run(small(), icu, tmp_path / type(raised).__name__)


def test_what_data_cannot_carry_is_named_before_the_first_step(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_step(self: TrainingLoop, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        raise AssertionError("a step was made")

    monkeypatch.setattr(TrainingLoop, "step", no_step)
    split = np.array(icu.tensors.arrays["split"])
    for gone, name in ((1, "validation"), (2, "test")):
        text = refusal(with_arrays(icu, split=np.where(split == gone, 0, split)), small(), tmp_path / name)
        assert text.startswith("relif, seed 0, before epoch 1: ")
        assert f"split '{name}' is empty" in text
    unlabelled = with_arrays(icu, masks__mortality=of_stays(icu, "masks/mortality", "train", 0))
    assert "no training stay has a label of task 'mortality'" in refusal(unlabelled, small(), tmp_path / "a")
    one_class = with_arrays(icu, labels__mortality=of_stays(icu, "labels/mortality", "train", 0))
    assert "labels of task 'mortality' are all of one class" in refusal(one_class, small(), tmp_path / "b")
    large = small(training={"batch_size": len(icu.tensors.stays_of("train"))})
    assert "fewer than two batches" in refusal(icu, large, tmp_path / "c")


@pytest.mark.parametrize("split", [1, 2])
def test_a_split_without_two_labelled_tasks_or_two_subjects_is_named_before_the_first_step(
    icu: ClinicalProblem, small: Small, tmp_path: Path, split: int
) -> None:
    """Training would end in a refusal by the audit, which has no pair of tasks or of subjects."""
    name = ("train", "validation", "test")[split]
    masks = {f"masks__{task.name}": without(icu, task.name, split) for task in icu.tensors.tasks[1:]}
    text = refusal(with_arrays(icu, **masks), small(), tmp_path / "a")
    assert f"before epoch 1: {icu.tensors.folder}: 1 of 4 tasks have {name} labels, too few" in text
    alone = with_arrays(icu, subjects=of_stays(icu, "subjects", name, 7))
    if split == 1:
        assert "validation stays of one subject" in refusal(alone, small(), tmp_path / "b")
    else:
        alone.check(32)


def test_validation_of_one_class_is_named_with_method_and_seed(
    icu: ClinicalProblem, small: Small, tmp_path: Path
) -> None:
    tasks = [task.name for task in icu.tensors.tasks]
    masks = {f"masks__{name}": without(icu, name, 1) for name in tasks if name not in ("mortality", "los")}
    labels = {
        f"labels__{name}": np.where(rows_of(icu, name, 1), 1, icu.tensors.arrays[f"labels/{name}"])
        for name in ("mortality", "los")
    }
    text = refusal(with_arrays(icu, **labels, **masks), small("erm", seed=4), tmp_path)
    assert text.startswith("erm, seed 4, before epoch 1: ")
    assert "every task has validation labels of one class only" in text


def test_a_run_cuts_stays_by_its_own_setting(icu_folder: Path, small: Small, tmp_path: Path) -> None:
    tensors = ClinicalTensors.open(icu_folder)
    settings = small("erm", training={"epochs": 1, "batch_size": 32, "maximum_hours": 50})
    records = [
        run(settings, ClinicalProblem(tensors, maximum_hours=hours), tmp_path / f"{hours}")
        for hours in (None, 50, 55)
    ]
    assert len({record.digest() for record in records}) == 1
    longer = run(
        small("erm", training={"epochs": 1, "batch_size": 32}), ClinicalProblem(tensors), tmp_path / "l"
    )
    assert not np.array_equal(longer.scores()["los"], records[0].scores()["los"])
    assert ClinicalProblem(tensors).for_run(settings, tmp_path).batch(np.arange(150))["inputs"].shape[1] == 50


def test_losses_are_means_over_the_batches_with_a_label(icu: ClinicalProblem, small: Small) -> None:
    """One labelled stay: its loss is the epoch's, whatever the number of batches without a label."""
    mask = of_stays(icu, "masks/mortality", "train", 0)
    chosen = int(icu.tensors.stays_of("train")[7])
    mask[chosen] = 1
    model = {"hidden": 12, "head_width": 8, "dropout": 0.0}
    still = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-30, "weight_decay": 0.0}
    loop = TrainingLoop(small("erm", model=model, training=still), with_arrays(icu, masks__mortality=mask))
    batch = loop.problem.batch(np.array([chosen]))
    with torch.no_grad():
        expected = loop.model.losses(loop.model(batch), batch)
    assert expected.present[0]
    loop.train_epoch()
    assert loop.history["losses"][0][0] == pytest.approx(expected.values[0].item(), rel=1e-5)


def test_a_first_batch_without_labels_does_not_turn_gradnorm(icu: ClinicalProblem, small: Small) -> None:
    loop = TrainingLoop(small("gradnorm"), icu)
    stays = icu.tensors.stays_of("train")
    batch = icu.batch(stays[:40])
    without = {**batch, "mask/mortality": torch.zeros_like(batch["mask/mortality"])}
    report = loop.step(without)
    assert report[:, 0].tolist() == [0, 0]
    assert report[1].tolist() == [0, 1, 1, 1, 1]
    for _ in range(10):
        report = loop.step(batch)
    assert report[1].tolist() == [1] * 5
    # Ten steps of the weights' own Adam move a weight by about ten times its rate, not to the floor.
    assert ((loop.balancer.weights - 1).abs() < 0.5).all()
    assert loop.balancer.initial_losses[0] > 0.1


def test_no_clipping_at_zero(icu: ClinicalProblem, small: Small) -> None:
    batch = icu.batch(icu.tensors.stays_of("train")[:40])
    norms = {}
    for clip in (0.0, 1e9, 1e-3):
        loop = TrainingLoop(small("erm", training={"gradient_clip": clip}), icu)
        loop.step(batch)
        norms[clip] = torch.nn.utils.get_total_norm([p.grad for p in loop.model.parameters()]).item()
    assert norms[0.0] == norms[1e9] > 1e-2
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("method", ["erm", "gradnorm", "fairgrad"])
def test_nan_in_the_data_is_named(icu: ClinicalProblem, small: Small, tmp_path: Path, method: str) -> None:
    values = np.array(icu.tensors.arrays["values"])
    values[icu.tensors.arrays["offsets"][icu.tensors.stays_of("train")[3]]] = np.nan
    with pytest.raises(
        DivergenceError, match=rf"{method}, seed 2, epoch 1: 'inputs' of the training data holds NaN"
    ):
        run(small(method, seed=2), with_arrays(icu, values=values), tmp_path)


@pytest.mark.parametrize("method", ["gradnorm", "pcgrad", "fairgrad_as_released"])
def test_nan_in_the_gram_matrix_is_named(icu: ClinicalProblem, small: Small, method: str) -> None:
    loop = TrainingLoop(small(method, seed=3), icu)
    loop.train_epoch()
    with torch.no_grad():
        next(loop.model.encoder.parameters())[0, 0] = torch.nan
    with pytest.raises(
        DivergenceError, match=rf"{method}, seed 3, epoch 2: the Gram matrix .* is not finite"
    ):
        loop.train_epoch()


@pytest.mark.parametrize("method", ["audit_penalty", "similar_pairs_penalty"])
def test_other_penalties_train_and_resume(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("relif_core.training.loop.CHECKPOINT_SECONDS", 0.0)
    settings = small(method, surrogate={"tolerance": 0.05, "slope": 0.01})
    whole = run(settings, icu, tmp_path / "whole")

    def stop(report: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, icu, tmp_path / "broken", progress=stop)
    resumed = run(settings, icu, tmp_path / "broken")
    assert resumed.content["made"]["resumed"]
    assert resumed.digest() == whole.digest()
    plain = run(small("erm"), icu, tmp_path / "erm")
    assert not np.array_equal(plain.scores()["los"], whole.scores()["los"])
    rates = whole.trace("violation_rate")
    assert ((rates > 0) & (rates < 1)).any()
    assert whole.trace("weight")[-1] > whole.settings.controller.initial


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> DenseProblem:
    folder = prepare(
        None, tmp_path_factory.mktemp("rooms") / "set", frames=24, height=32, width=32, views=1, seed=3
    )
    return DenseProblem(DenseTensors.open(folder))


def test_dense_decoders_start_at_the_constants_of_training(rooms: DenseProblem) -> None:
    frames = rooms.tensors.frames_of("train")
    depth = np.sort(
        rooms.tensors.arrays["depth"][frames].astype(np.float64)[rooms.tensors.arrays["depth"][frames] > 0]
    )
    normals = rooms.tensors.arrays["normals"][frames].astype(np.float64) / NORMAL_SCALE
    mean = normals.sum(axis=(0, 2, 3))
    model = rooms.build_model(dense_settings("erm", model={"encoder": "resnet18"}).model)
    assert model.heads["depth"].output.bias.item() == depth[(len(depth) - 1) // 2]
    np.testing.assert_allclose(
        model.heads["normals"].output.bias.detach(), mean / np.linalg.norm(mean), atol=1e-6
    )
    alone = rooms.build_model(dense_settings("single_depth", model={"encoder": "resnet18"}).model)
    assert alone.heads["depth"].output.bias.item() == depth[(len(depth) - 1) // 2]
    # A model whose outputs are their biases predicts the constants everywhere.
    for task in ("depth", "normals"):
        torch.nn.init.zeros_(model.heads[task].output.weight)
    outputs = model.eval()(rooms.batch(frames[:2]))
    assert outputs.predictions["depth"].unique().tolist() == [depth[(len(depth) - 1) // 2]]


def test_dense_data_that_cannot_carry_a_run(rooms: DenseProblem, tmp_path: Path) -> None:
    settings = dense_settings("erm", model={"encoder": "resnet18"}, training={"epochs": 1, "batch_size": 23})
    with pytest.raises(DataError, match=r"erm, seed 0, before epoch 1: .* fewer than two batches of 23"):
        run(settings, rooms, tmp_path / "a")
    arrays = {**rooms.tensors.arrays, "depth": np.zeros_like(rooms.tensors.arrays["depth"])}
    blind = DenseProblem(replace(rooms.tensors, arrays=arrays))
    with pytest.raises(DataError, match="no train frame has a label of task 'depth'"):
        run(settings, blind, tmp_path / "b")
