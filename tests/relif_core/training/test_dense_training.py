"""Dense prediction in the training loop: shared calibration, resumed runs, protocols, ERM first."""

import fcntl
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from relif_book.evidence.audit_table import audit_record
from relif_book.evidence.publishing import publish, read_published, read_single_task
from relif_core.audit import bias_curve
from relif_core.errors import DataError, InputError, RecordError
from relif_core.files import LOCK
from relif_core.problems import open_problem
from relif_core.problems.dense import TEMPERATURES, DenseProblem, find_reference, is_reference
from relif_core.record import Record, load_records, run_key
from relif_core.settings import (
    DENSE_DEFAULTS,
    DenseModelSettings,
    RunSettings,
    as_json,
    dense_changes,
    dense_settings,
    method_settings,
    settings_from,
)
from relif_core.studies.grid import run_study
from relif_core.studies.jobs import Ending, Job, Schedule
from relif_core.tensors.dense import DenseTensors
from relif_core.training.epochs import LEVELS, TOLERANCES
from relif_core.training.loop import CHECKPOINT, EpochReport, TrainingLoop, run
from relif_data.synthetic_rooms import prepare

SMALL: dict[str, Any] = {
    "model": {"encoder": "resnet18", "augmentation": "flip"},
    "training": {"epochs": 2, "batch_size": 6, "learning_rate": 1e-3},
}


def small(method: str, **changes: Any) -> RunSettings:
    return dense_settings(method, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("rooms") / "set"
    return prepare(None, target, frames=36, height=32, width=32, views=1, seed=2)


@pytest.fixture(scope="module")
def problem(rooms: Path) -> DenseProblem:
    return DenseProblem(DenseTensors.open(rooms))


@pytest.fixture(scope="module")
def records(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose ERM run is listed last."""
    target = tmp_path_factory.mktemp("study")
    torch.set_num_threads(1)
    summary = run_study([small("relif"), small("pcgrad"), small("erm")], rooms, target)
    assert not summary.failed
    assert [record.method for record in summary.records] == ["relif", "pcgrad", "erm"]
    return target


def of(records: Path, method: str) -> Record:
    return Record.load(next(records.glob(f"{method}-seed0-*")))


def test_one_calibration_serves_every_method(records: Path) -> None:
    erm, others = of(records, "erm"), [of(records, name) for name in ("relif", "pcgrad")]
    own = erm.result["score_calibration"]
    assert own["reference"] is None
    for record in others:
        assert record.result["score_calibration"]["quantiles"] == own["quantiles"]
        assert record.result["score_calibration"]["reference"] == erm.key
    # By definition a tenth of the reference's validation scores lies beyond either quantile.
    for task in ("depth", "normals"):
        scores = erm.scores("validation")[task]
        assert (scores == 0).mean() == pytest.approx(0.1, abs=0.5 / len(scores) + 0.1)
        assert scores.max() == 1


@pytest.mark.parametrize("method", ["erm", "relif"])
def test_scores_follow_from_raw_scores(records: Path, method: str) -> None:
    """The calibration's scale and clip, segmentation at temperature 1; a higher one is less confident."""
    record = of(records, method)
    quantiles = record.result["score_calibration"]["quantiles"]
    for split in ("validation", "test"):
        for task, scores in record.scores(split).items():
            raw = record.arrays[f"raw/{split}/{task}"]
            if task == "segmentation":
                assert raw.shape == (len(scores), len(TEMPERATURES))
                assert (np.diff(raw, axis=1) < 0).all()
                np.testing.assert_allclose(raw[:, TEMPERATURES.index(1.0)], scores, atol=1e-6)
            else:
                low, high = quantiles[task]
                np.testing.assert_allclose(np.clip((raw - low) / (high - low), 0, 1), scores, atol=1e-4)


def test_losses_by_temperature_are_cross_entropies(problem: DenseProblem) -> None:
    """Per image the mean over its labelled pixels, at every temperature."""
    torch.manual_seed(1)
    model = problem.build_model(small("erm").model).eval()
    frames = problem.tensors.frames_of("validation")
    batch = problem.batch(frames)
    with torch.no_grad():
        logits, labels = model(batch).predictions["segmentation"], batch["labels"].long()
        expected = [
            [functional.cross_entropy(own[None] / t, label[None], ignore_index=255) for t in TEMPERATURES]
            for own, label in zip(logits, labels, strict=True)
        ]
    found = problem.raw_scores(model, "validation")["segmentation_nll"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_curves_follow_when_the_scale_is_known(records: Path) -> None:
    """ERM knows its scale only at its end; 64 quantiles of every epoch's raw scores give the curves."""
    erm = of(records, "erm")
    quantiles = erm.result["score_calibration"]["quantiles"]
    for split in ("validation", "test"):
        row = erm.arrays[f"epoch/{split}/epoch"].tolist().index(erm.result["best_epoch"])
        for task in quantiles:
            kept = erm.arrays[f"epoch/{split}/raw/{task}"][row]
            np.testing.assert_allclose(
                kept,
                np.quantile(erm.arrays[f"raw/{split}/{task}"], LEVELS, method="inverted_cdf"),
                rtol=1e-4,
            )
        exact = bias_curve(erm.scores(split), TOLERANCES)
        for kind in ("bias", "violation_rate"):
            assert np.isfinite(erm.arrays[f"epoch/{split}/{kind}"]).all()
        np.testing.assert_allclose(erm.arrays[f"epoch/{split}/bias"][row], exact.bias, atol=1 / 64)


def test_epochs_may_be_evaluated_now_and_then(problem: DenseProblem, tmp_path: Path) -> None:
    """Training is the same; what is not evaluated has no utility and is never selected."""
    every = {**SMALL["training"], "epochs": 3}
    found = [
        run(small("erm", training={**every, "evaluate_every": step}), problem, tmp_path / str(step))
        for step in (1, 2)
    ]
    first, second = (record.result["history"] for record in found)
    assert first["losses"] == second["losses"]
    assert second["worst"] == [None, *first["worst"][1:]]
    assert found[1].arrays["epoch/validation/epoch"].tolist() == [2, 3]
    assert found[1].result["best_epoch"] in (2, 3)
    assert found[0].key != found[1].key
    assert "evaluate_every" not in found[0].content["settings"]["training"]


def test_the_record_tells_a_dense_run(records: Path, problem: DenseProblem) -> None:
    record = of(records, "relif")
    assert record.settings == small("relif")
    assert record.tasks == ("segmentation", "depth", "normals")
    for split in ("validation", "test"):
        frames = problem.tensors.frames_of(split)
        for task, scores in record.scores(split).items():
            assert ((scores >= 0) & (scores <= 1)).all()
            assert len(scores) == len(record.subjects(split)[task]) == len(frames)
        assert len(record.induced_tolerances(split)) == 3
    metrics = record.result["utility"]["test"]["tasks"]
    assert {"miou", "pixel_accuracy"} <= set(metrics["segmentation"]["metrics"])
    assert {"rmse", "absolute_error", "relative_error"} <= set(metrics["depth"]["metrics"])
    assert len(record.trace("weight")) == 2 * -(-len(problem.tensors.frames_of("train")) // 6)
    assert len(record.arrays["calibration/distances"]) == len(problem.tensors.frames_of("validation")) // 2


def test_interrupted_equals_uninterrupted(
    records: Path, problem: DenseProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relif_core.training.loop.CHECKPOINT_SECONDS", 0.0)

    def stop(report: EpochReport) -> None:
        raise KeyboardInterrupt

    reference = of(records, "erm")
    reference.save(tmp_path / "erm")
    with pytest.raises(KeyboardInterrupt):
        run(small("relif"), problem, tmp_path / "relif", progress=stop)
    resumed = run(small("relif"), problem, tmp_path / "relif")
    assert resumed.content["made"]["resumed"]
    assert resumed.digest() == of(records, "relif").digest()


def test_the_saved_weights_carry_the_calibration(records: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(next(records.glob("erm-seed0-*")) / "model.safetensors")
    low, high = of(records, "erm").result["score_calibration"]["quantiles"]["depth"]
    assert weights["score_low"][1] == pytest.approx(low)
    assert weights["score_high"][1] == pytest.approx(high)


def test_what_needs_its_scale_only_at_the_end_does_not_wait(
    records: Path, problem: DenseProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is trained while its ERM run is under way and leaves the record that it would leave after it."""
    reference = next(records.glob("erm-seed0-*"))
    place = tmp_path / reference.name
    place.mkdir()
    looks = []

    def erm_ends(seconds: float) -> None:
        looks.append(seconds)
        of(records, "erm").save(place)

    monkeypatch.setattr("relif_core.training.loop.time.sleep", erm_ends)
    with open(place / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RecordError, match="run method erm with seed 0 there first"):
            run(small("relif"), problem, tmp_path / "relif")
        found = run(small("pcgrad"), problem, tmp_path / "pcgrad")
    assert len(looks) == 1
    assert found.digest() == of(records, "pcgrad").digest()

    # An ERM run that nobody makes any more begins nothing; one that is given up leaves what is trained.
    other = tmp_path / "other"
    (other / reference.name).mkdir(parents=True)
    (other / reference.name / LOCK).touch()
    with pytest.raises(RecordError, match="run method erm with seed 0 there first"):
        run(small("pcgrad"), problem, other / "pcgrad")
    assert not (other / "pcgrad" / CHECKPOINT).exists()
    with open(other / reference.name / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RecordError, match="run method erm with seed 0 there first"):
            run(small("pcgrad"), problem, other / "pcgrad", progress=lambda report: lock.close())
    of(records, "erm").save(other / reference.name)
    again = run(small("pcgrad"), problem, other / "pcgrad")
    assert again.content["made"]["resumed"]
    assert again.digest() == found.digest()


def test_a_schedule_begins_what_needs_no_scale_beside_the_erm_run(tmp_path: Path) -> None:
    jobs = [Job(small(name), tmp_path / name) for name in ("relif", "pcgrad", "erm")]
    schedule = Schedule(jobs, math.inf, [])
    assert schedule.next() is jobs[2]
    assert schedule.next() is None
    jobs[2].folder.mkdir()
    (jobs[2].folder / LOCK).touch()  # Left by an earlier attempt.
    assert schedule.next() is None
    with open(jobs[2].folder / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert schedule.next() is jobs[1]
        assert schedule.next() is None
    schedule.ended(jobs[2], Ending("failed"))
    assert schedule.next() is jobs[0]


def test_a_run_without_its_erm_run_is_refused(problem: DenseProblem, records: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="run method erm with seed 0 there first"):
        run(small("relif"), problem, tmp_path / "relif")
    other = small("relif", training={**SMALL["training"], "epochs": 3})
    for settings in (other, small("relif", seed=1)):
        with pytest.raises(RecordError, match="calibrated by the ERM run"):
            find_reference(settings, problem.data_fingerprint, records)
    with pytest.raises(RecordError, match="calibrated by the ERM run"):
        find_reference(small("relif"), "other data", records)
    changed_penalty = small("relif", controller={"target": 0.3})
    assert find_reference(changed_penalty, problem.data_fingerprint, records).method == "erm"
    damaged = tmp_path / "with a damaged one"
    for name, content in (("a", "{}"), ("b", of(records, "erm"))):
        if isinstance(content, Record):
            content.save(damaged / name)
        else:
            (damaged / name).mkdir(parents=True)
            (damaged / name / "record.json").write_text(content)
    assert find_reference(small("relif"), problem.data_fingerprint, damaged).method == "erm"


@pytest.mark.parametrize("balancer", ["uncertainty", "gradnorm", "fairgrad", "cats_as_released"])
def test_every_balancer_takes_a_step_with_the_penalty(problem: DenseProblem, balancer: str) -> None:
    loop = TrainingLoop(small(balancer + "+relif"), problem)
    before = {name: value.clone() for name, value in loop.model.named_parameters()}
    losses = loop.step(problem.batch(problem.tensors.frames_of("train")[:6]))
    assert losses.isfinite().all()
    for name, value in loop.model.named_parameters():
        assert value.isfinite().all()
        assert not torch.equal(value, before[name]), name
    # The gradient keeps the layout of its parameter: optimisers are slow where it does not.
    convolution = loop.model.encoder.backbone.layer2[0].conv1.weight
    assert convolution.grad.stride() == convolution.stride()


def test_as_released_selects_and_reports_on_the_test_images(problem: DenseProblem) -> None:
    settings = small("erm", model={"encoder": "resnet18", "protocol": "as_released"})
    released = problem.for_run(settings, Path("nowhere"))
    model = released.build_model(settings.model)
    test = problem.tensors.frames_of("test")
    np.testing.assert_array_equal(released.evaluate(model, "validation").order, test)
    np.testing.assert_array_equal(released.evaluate(model, "test").order, test)
    images = sum(len(batch["images"]) for batch in released.training_batches(6, 0, 0))
    assert images >= len(problem.tensors.arrays["ids"]) - len(test) - 1
    assert not problem.as_released


def test_weights_are_named_by_their_checksum(rooms: Path, tmp_path: Path) -> None:
    digest = "a" * 64
    settings = small("erm", model={"encoder": "resnet18", "weights": digest})
    assert run_key(settings, "d", "cpu") != run_key(small("erm", model={"encoder": "resnet18"}), "d", "cpu")
    with pytest.raises(InputError, match="give their file too"):
        open_problem(rooms, "cpu", settings).build_model(settings.model)
    wrong = tmp_path / "weights.safetensors"
    wrong.write_bytes(b"something else")
    with pytest.raises(InputError, match="the settings name aaaaaaaaaaaa"):
        open_problem(rooms, "cpu", settings, wrong).build_model(settings.model)
    with pytest.raises(DataError, match="no such weights file"):
        open_problem(rooms, "cpu", settings, tmp_path / "none").build_model(settings.model)


def test_pretrained_weights_reach_the_model(rooms: Path, tmp_path: Path) -> None:
    from relif_core.models.vision import Encoder
    from relif_core.problems.dense import weights_identity

    file = tmp_path / "encoder.pt"
    source = Encoder("resnet18").backbone.state_dict()
    torch.save(source, file)
    settings = small("erm", model={"encoder": "resnet18", "weights": weights_identity(file)})
    model = open_problem(rooms, "cpu", settings, file).build_model(settings.model)
    assert torch.equal(model.encoder.backbone.conv1.weight, source["conv1.weight"])


def test_settings_and_data_must_fit(rooms: Path, icu_folder: Path, tmp_path: Path) -> None:
    dense, clinical = small("erm"), method_settings("erm")
    with pytest.raises(InputError, match="is dense: start from"):
        run(clinical, open_problem(rooms, "cpu", clinical), tmp_path / "a")
    with pytest.raises(InputError, match="is clinical"):
        run(dense, open_problem(icu_folder, "cpu", dense), tmp_path / "b")


@pytest.fixture(scope="module")
def single(problem: DenseProblem, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A run of depth alone, in a folder without any ERM run."""
    torch.set_num_threads(1)
    return run(small("single_depth"), problem, tmp_path_factory.mktemp("single") / "run")


def test_a_single_task_is_trained_and_evaluated_alone(single: Record, problem: DenseProblem) -> None:
    assert single.tasks == problem.for_run(single.settings, Path("nowhere")).task_names == ("depth",)
    assert set(single.result["utility"]["test"]["tasks"]) == set(single.scores("test")) == {"depth"}
    assert single.result["induced_tolerances"] == {"validation": [], "test": []}
    assert not is_reference(single.settings)
    history = single.result["history"]
    assert all(len(losses) == 1 for losses in history["losses"])
    # The one task decides which epoch is kept.
    assert history["worst"] == [scores[0] for scores in history["scores"]]
    model = problem.build_model(single.settings.model)
    assert list(model.heads) == ["depth"]
    assert problem.task_names != model.task_names
    with pytest.raises(InputError, match="needs at least two"):
        audit_record(single, 0.1)


def test_a_single_task_learns_from_its_own_loss(problem: DenseProblem) -> None:
    """The encoder's gradient is that of the named task's loss and of nothing else."""
    settings = small("single_depth", training={"epochs": 1, "gradient_clip": 1e9})
    loop = TrainingLoop(settings, problem.for_run(settings, Path("nowhere")))
    batch = problem.batch(problem.tensors.frames_of("train")[:6])
    loop.model.train()
    outputs = loop.model(batch)
    error = (outputs.predictions["depth"] - batch["depth"].float()).abs()[batch["depth"] > 0].mean()
    weight = loop.model.encoder.backbone.conv1.weight
    (expected,) = torch.autograd.grad(error, [weight])
    assert loop.step(batch)[0, 0].item() == pytest.approx(error.item())
    torch.testing.assert_close(weight.grad, expected)


def test_single_tasks_are_published_aside(single: Record, records: Path, tmp_path: Path) -> None:
    methods = load_records(records)
    table = publish([*methods, single], tmp_path, exploratory=True)
    back, _, audits = read_published(tmp_path)
    assert [record.key for record in back] == [record.key for record in methods] == table.keys == audits.keys
    (aside,) = read_single_task(tmp_path)
    assert aside.key == single.key
    assert aside.result == single.result
    assert read_single_task(records) == []


def test_protocols_and_studies_are_not_mixed(records: Path, tmp_path: Path) -> None:
    methods = load_records(records)
    content = methods[0].content
    model = {**content["settings"]["model"], "protocol": "as_released"}
    released = Record({**content, "settings": {**content["settings"], "model": model}}, methods[0].arrays)
    with pytest.raises(RecordError, match="protocols as_released, held_out"):
        publish([*methods, released], tmp_path, exploratory=True)
    with pytest.raises(RecordError, match="several runs of erm seed 0"):
        publish([*methods, methods[0]], tmp_path, exploratory=True)
    assert not list(tmp_path.iterdir())


def test_published_dense_records_keep_their_keys() -> None:
    """Settings that were added since are at their default in these records, and leave their keys alone."""
    project = Path(__file__).resolve().parents[3]
    folders = [project / "tests" / "relif_book" / "nyuv2_revision_1", project / "data" / "records" / "nyuv2"]
    found = [record for folder in folders for record in read_single_task(folder)]
    for folder in folders:
        kept = read_published(folder)[0]
        assert kept
        found += kept
    for record in found:
        assert run_key(record.settings, record.content["dataset"]["fingerprint"], "cpu") == record.key
        assert as_json(record.settings) == record.content["settings"]
    assert "task" not in as_json(small("erm"))["model"]
    assert as_json(small("single_depth"))["model"]["task"] == "depth"


def test_dense_settings_go_to_json_and_back() -> None:
    settings = dense_settings("relif", model={"encoder": "resnet18"}, training={"epochs": 3})
    assert (settings.training.learning_rate, settings.training.batch_size) == (1e-4, 8)
    assert settings_from(RunSettings, as_json(settings)) == settings
    alone = dense_settings("single_normals", model={"encoder": "resnet18"})
    assert settings_from(RunSettings, as_json(alone)) == alone
    changes = dense_changes(training={"epochs": 3}, controller={"target": 0.2})
    assert method_settings("relif", **changes).model == DENSE_DEFAULTS["model"] == DenseModelSettings()
    with pytest.raises(InputError, match="has no setting 'hidden'"):
        dense_settings("relif", model={"hidden": 3})


def test_clinical_keys_stay_what_they_were() -> None:
    """Records made before dense prediction was added keep their keys."""
    settings = method_settings("relif", seed=2, training={"epochs": 40}, revision=1)
    known = "1f031671733f9f6020b4c83d862044d6394192aafd2fcfb2ddaa69120f9cbb17"
    assert run_key(settings, "x", "cpu") == known


def test_the_shell_starts_from_dense_settings(rooms: Path, icu_folder: Path, tmp_path: Path) -> None:
    from relif_core.problems import changes_for
    from relif_core.problems.dense import weights_identity

    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    changes = changes_for(rooms, {"model": {"encoder": "resnet18"}, "training": {"epochs": 2}}, file)
    settings = method_settings("relif", **changes)
    assert (settings.training.epochs, settings.training.batch_size) == (2, 8)
    assert settings.model == DenseModelSettings(encoder="resnet18", weights=weights_identity(file))
    assert changes_for(icu_folder, {"training": {"epochs": 2}}) == {"training": {"epochs": 2}}
    with pytest.raises(InputError, match="--weights is for dense models"):
        changes_for(icu_folder, {}, file)
