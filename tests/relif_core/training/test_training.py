"""One run: repeatable, resumable, selected on validation, and exact in what it hands to the optimiser."""

import errno
import fcntl
import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from relif_core.errors import DivergenceError, RecordError, RunPaused, StorageError
from relif_core.methods import balancer_keys
from relif_core.problems.clinical import ClinicalProblem
from relif_core.record import Record
from relif_core.settings import RunSettings
from relif_core.training import loop as training
from relif_core.training.device_controller import DeviceController
from relif_core.training.loop import CHECKPOINT, EpochReport, TrainingLoop, run

Small = Callable[..., RunSettings]


def interrupt_after(epochs: int) -> Callable[[EpochReport], None]:
    def stop(report: EpochReport) -> None:
        if report.epoch == epochs:
            raise KeyboardInterrupt

    return stop


def test_same_seed_same_record(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    first = run(small(), icu, tmp_path / "first")
    second = run(small(), icu, tmp_path / "second")
    assert first.digest() == second.digest()
    other = run(small(seed=1), icu, tmp_path / "other")
    assert other.key != first.key
    assert not np.array_equal(other.scores()["mortality"], first.scores()["mortality"])


@pytest.mark.parametrize(
    "method", ["relif", "gradnorm", "pcgrad+relif", "uncertainty", "relif_proportional_integral"]
)
def test_interrupted_equals_uninterrupted(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    whole = run(small(method), icu, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(small(method), icu, tmp_path / "broken", progress=interrupt_after(1))
    with pytest.raises(KeyboardInterrupt):
        run(small(method), icu, tmp_path / "broken", progress=interrupt_after(2))
    resumed = run(small(method), icu, tmp_path / "broken")
    assert resumed.content["made"]["resumed"]
    assert resumed.digest() == whole.digest()
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == [
        ".lock", "arrays.npz", "model.safetensors", "record.json",
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["relif", "pcgrad+relif"])
def test_stopped_within_an_epoch_equals_uninterrupted(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Stopped at any step, a run leaves a checkpoint from which it ends in the same record, byte for byte."""
    whole = run(small(method), icu, tmp_path / "whole")
    step, steps = TrainingLoop.step, []
    monkeypatch.setattr(training, "STOP", threading.Event())

    def stopping(loop: TrainingLoop, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        steps.append(loop.epoch)
        if len(steps) in (2, 3, 7):
            training.STOP.set()
        return step(loop, batch)

    monkeypatch.setattr(TrainingLoop, "step", stopping)
    for _ in range(3):
        with pytest.raises(RunPaused, match="asked to stop"):
            run(small(method), icu, tmp_path / "stopped")
        training.STOP.clear()
    resumed = run(small(method), icu, tmp_path / "stopped")
    assert resumed.digest() == whole.digest()
    assert len(steps) == len(whole.trace("violation_rate"))  # no step was made twice


def test_weight_kept_on_the_device_gives_the_same_record(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = run(small(), icu, tmp_path / "host")
    monkeypatch.setattr(
        TrainingLoop, "_steering", lambda loop: DeviceController(loop.controller, torch.device("cpu"))
    )
    assert run(small(), icu, tmp_path / "device").digest() == host.digest()


def test_checkpoints_wait_for_their_age(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between epochs only when the last one is old enough, but always at the end of training."""
    for age, expected in ((math.inf, 1), (0.0, 2)):
        saved: list[int] = []
        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", age)
        monkeypatch.setattr(training, "_save", lambda loop, path, key, to=saved: to.append(loop.epoch))
        for place, own in (("usual", {}), ("own", {"checkpoint_seconds": age})):
            if own:  # What is given counts, whatever the usual age is.
                monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0 if age else math.inf)
            saved.clear()
            run(small(training={"epochs": 2}), icu, tmp_path / place / str(expected), **own)
            assert len(saved) == expected
            assert saved[-1] == 2


def test_a_finished_run_is_not_made_again(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    made = run(small(), icu, tmp_path)
    reports: list[EpochReport] = []
    assert run(small(), icu, tmp_path, progress=reports.append).content == made.content
    assert not reports
    with pytest.raises(RecordError, match="another run"):
        run(small(seed=5), icu, tmp_path)


def test_the_deadline_pauses_after_an_epoch(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    with pytest.raises(RunPaused, match="after epoch 1"):
        run(small(), icu, tmp_path, deadline=time.time() - 1)
    assert (tmp_path / CHECKPOINT).is_file()
    assert not Record.finished(tmp_path)


def test_foreign_and_broken_checkpoints_are_named(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    with pytest.raises(RunPaused):
        run(small(), icu, tmp_path, deadline=0)
    with pytest.raises(RecordError, match="belongs to another run"):
        run(small(seed=3), icu, tmp_path)
    whole = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:100])
    with pytest.raises(RecordError, match="cannot be read"):
        run(small(), icu, tmp_path)
    del whole["state"]["history"]
    for other in ({}, whole):
        torch.save(other, tmp_path / CHECKPOINT)
        with pytest.raises(RecordError, match=r"cannot be read .*remove it and the run starts over"):
            run(small(), icu, tmp_path)


def test_a_folder_in_use_is_refused(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    def meddle(report: EpochReport) -> None:
        with pytest.raises(RecordError, match="another process"):
            run(small(), icu, tmp_path)

    run(small(training={"epochs": 1}), icu, tmp_path, progress=meddle)


def test_the_record_tells_the_run(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    record = run(small(), icu, tmp_path)
    again = Record.load(tmp_path)
    assert again.digest() == record.digest()
    assert again.settings == small()
    result = again.result
    worst = result["history"]["worst"]
    assert result["best_epoch"] - 1 in [i for i, value in enumerate(worst) if value >= max(worst) - 5e-4]
    assert result["utility"]["validation"]["worst"] == pytest.approx(worst[result["best_epoch"] - 1])
    assert set(again.scores("test")) == {"mortality", "decompensation", "los", "phenotypes"}
    for split in ("validation", "test"):
        stays = icu.tensors.stays_of(split)
        for task, scores in again.scores(split).items():
            assert scores.dtype == np.float32
            assert ((scores >= 0) & (scores <= 1)).all()
            assert len(again.subjects(split)[task]) == len(scores)
            assert np.isin(again.arrays[f"sample/{split}/{task}"], stays).all()
        assert len(again.induced_tolerances(split)) == 6
    steps = len(icu.tensors.stays_of("train")) // 32 + (len(icu.tensors.stays_of("train")) % 32 > 1)
    assert len(again.trace("weight")) == 3 * steps
    validation_subjects = len(np.unique(icu.tensors.arrays["subjects"][icu.tensors.stays_of("validation")]))
    assert len(again.arrays["calibration/distances"]) == validation_subjects // 2
    assert result["history"]["weight"][-1] != small().controller.initial


def test_erm_ignores_the_penalty_settings(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    plain = run(small("erm"), icu, tmp_path / "a")
    other = run(small("erm", surrogate={"prototypes": 2}), icu, tmp_path / "b")
    np.testing.assert_array_equal(plain.scores()["los"], other.scores()["los"])
    assert len(plain.trace("weight")) == 0


def test_zero_weight_relif_is_erm(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    still = {"kind": "constant", "initial": 1e-30}
    plain = run(small("erm"), icu, tmp_path / "a")
    penalised = run(small("relif", controller=still), icu, tmp_path / "b")
    for task in plain.tasks:
        np.testing.assert_allclose(plain.scores()[task], penalised.scores()[task], atol=1e-5)


def test_divergence_is_an_error(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="erm, seed 0, epoch 1: losses are not finite"):
        run(small("erm", training={"learning_rate": 1e30, "gradient_clip": 1e30}), icu, tmp_path)
    noted = json.loads((tmp_path / "failed.json").read_text())
    assert (noted["method"], noted["seed"]) == ("erm", 0)
    assert "not finite" in noted["error"]


def test_a_made_run_counts_as_failed_at_no_moment(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It diverged once, was started again, and is killed as soon as its record stands."""
    save = Record.save

    def killed(record: Record, folder: Path) -> Path:
        save(record, folder)
        raise KeyboardInterrupt

    (tmp_path / "failed.json").write_text("{}")
    monkeypatch.setattr(Record, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(small("erm"), icu, tmp_path)
    assert Record.finished(tmp_path)
    assert not (tmp_path / "failed.json").exists()


def test_a_place_without_locks_is_not_another_process(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="its file system lacks what is needed, such as locks"):
        run(small("erm"), icu, tmp_path)


def test_divergence_that_evaluation_sees_counts_against_the_method(
    icu: ClinicalProblem, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = TrainingLoop.train_epoch

    def spoiled(loop: TrainingLoop) -> bool:
        whole = train(loop)
        with torch.no_grad():
            next(loop.model.parameters()).fill_(math.nan)
        return whole

    monkeypatch.setattr(TrainingLoop, "train_epoch", spoiled)
    message = (
        "erm, seed 0, epoch 1: .*predictions hold NaN or infinity; the model has diverged; lower the learning"
    )
    with pytest.raises(DivergenceError, match=message):
        run(small("erm"), icu, tmp_path)
    assert "diverged" in json.loads((tmp_path / "failed.json").read_text())["error"]


def gradients(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    return {
        name: value.grad.clone() for name, value in loop.model.named_parameters() if value.grad is not None
    }


@pytest.mark.parametrize("balancer", sorted(balancer_keys()))
def test_balanced_gradients_equal_their_definition(icu: ClinicalProblem, small: Small, balancer: str) -> None:
    """The gradient is Σ w_i ∇L_i on the encoder, (w_i or 1) ∇L_i on head i, plus the penalty's."""
    settings = small(balancer + "+relif", model={"hidden": 12, "head_width": 8, "dropout": 0.0})
    loop = TrainingLoop(settings, icu)
    batch = icu.batch(icu.tensors.stays_of("train")[:40])
    losses = loop.model.losses(loop.model(batch), batch).values
    weights: list[torch.Tensor] = []
    loop.balancer.register_forward_hook(lambda module, args, output: weights.append(output.detach().clone()))
    passed = loop.batch_pass(batch)
    loop._backward(passed, 0.3 * passed.penalty)
    found = gradients(loop)

    w = weights[0].to(losses.dtype)
    names = dict(loop.model.named_parameters())
    loop.model.zero_grad(set_to_none=True)
    outputs = loop.model(batch)
    (0.3 * loop.surrogate.eval()(outputs.embedding, loop.model.scores(outputs, batch)).loss).backward()
    expected = gradients(loop)
    for index in range(len(icu.task_names)):
        loop.model.zero_grad(set_to_none=True)
        loop.model.losses(loop.model(batch), batch).values[index].backward()
        for name, gradient in gradients(loop).items():
            of_head = name.startswith("heads.")
            factor = (
                w[index]
                if not of_head or loop.balancer.weighted_heads or not loop.balancer.needs_gradients
                else 1.0
            )
            expected[name] = expected.get(name, torch.zeros_like(names[name])) + factor * gradient
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-6)


def test_the_model_learns_what_the_simulator_hides(tmp_path: Path) -> None:
    """AUROC above 0.80 on mortality where the generating process itself reaches at least 0.85."""
    from sklearn.metrics import roc_auc_score

    from relif_core.settings import method_settings
    from relif_core.tensors.clinical import ClinicalTensors
    from relif_data import prepare
    from relif_data.synthetic_icu import mortality_oracle, simulate

    tensors = ClinicalTensors.open(prepare("synthetic_icu", None, tmp_path / "icu", stays=800, seed=0))
    cohort = simulate(stays=800, seed=0)
    oracle = mortality_oracle(cohort)
    test = tensors.stays_of("test")
    labelled = test[tensors.arrays["masks/mortality"][test] == 1]
    truth = tensors.arrays["labels/mortality"][labelled]
    assert roc_auc_score(truth, oracle[labelled]) >= 0.85
    settings = method_settings(
        "relif",
        model={"hidden": 48, "head_width": 32},
        training={"epochs": 10, "batch_size": 32, "learning_rate": 3e-3},
    )
    record = run(settings, ClinicalProblem(tensors), tmp_path / "run")
    assert record.result["utility"]["test"]["tasks"]["mortality"]["score"] > 0.80


def test_undefined_rates_stay_undefined(icu: ClinicalProblem, small: Small, tmp_path: Path) -> None:
    reports: list[EpochReport] = []
    run(small("erm", training={"epochs": 1}), icu, tmp_path, progress=reports.append)
    assert math.isnan(reports[0].smoothed_rate)
