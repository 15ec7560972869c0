"""What a record says beyond its result: revision, making, every epoch's audit, four views."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relif_core import provenance
from relif_core.audit import bias_curve
from relif_core.calibration import LabelledLogits
from relif_core.errors import InputError
from relif_core.problems.clinical import ClinicalProblem
from relif_core.record import Record
from relif_core.settings import REVISION, RunSettings, as_json, settings_from
from relif_core.training.epochs import TOLERANCES, EpochAudits
from relif_core.training.loop import TrainingLoop, run
from relif_core.training.outcome import _outputs

Small = Callable[..., RunSettings]


@pytest.fixture(scope="module")
def record(icu: ClinicalProblem, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Six epochs that end after the selected one."""
    settings = settings_from(
        RunSettings,
        {
            "seed": 3,
            "revision": REVISION,
            "model": {"hidden": 12, "head_width": 8},
            "training": {"epochs": 6, "batch_size": 32, "learning_rate": 3e-3},
            "controller": {"warmup": 4, "step_size": 0.05},
        },
    )
    return run(settings, icu, tmp_path_factory.mktemp("record"))


def test_a_revision_that_this_version_does_not_compute_is_refused(
    icu: ClinicalProblem, small: Small, tmp_path: Path
) -> None:
    assert small().revision == REVISION
    assert as_json(small())["revision"] == REVISION
    with pytest.raises(InputError, match="revision 1, this version computes"):
        run(replace(small(), revision=1), icu, tmp_path)


def test_the_trace_is_replayed_to_the_last_bit(icu: ClinicalProblem, small: Small, record: Record) -> None:
    loop = TrainingLoop(record.settings, icu)
    while loop.epoch < 2:
        loop.train_epoch()
        loop.select()
    for name, values in loop.trace.items():
        np.testing.assert_array_equal(record.trace(name)[: len(values)], values)
    assert record.trace("weight")[-1] == record.result["history"]["weight"][-1]


def test_every_epoch_is_audited(record: Record) -> None:
    arrays, result = record.arrays, record.result
    assert arrays["epoch/validation/epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert arrays["epoch/test/epoch"].tolist() == sorted({5, 6, result["best_epoch"]})
    np.testing.assert_allclose(arrays["epoch/validation/worst"], result["history"]["worst"], rtol=1e-6)
    for view, quantity, epoch in (
        ("", "bias", result["best_epoch"]),
        ("calibrated", "calibrated_bias", result["best_epoch"]),
        ("last", "bias", 6),
        ("last_calibrated", "calibrated_bias", 6),
    ):
        row = arrays["epoch/test/epoch"].tolist().index(epoch)
        curve = bias_curve(record.scores("test", view), TOLERANCES)
        np.testing.assert_allclose(arrays[f"epoch/test/{quantity}"][row], curve.bias, rtol=1e-5, atol=1e-7)
    best = result["best_epoch"] - 1
    np.testing.assert_allclose(
        arrays["epoch/validation/temperature"][best], list(result["temperatures"].values()), rtol=1e-6
    )
    means = [record.scores("validation")[task].mean() for task in record.tasks]
    np.testing.assert_allclose(arrays["epoch/validation/mean"][best], means, rtol=1e-5)


def test_scores_follow_from_kept_logits(record: Record) -> None:
    """Half-precision logits and a temperature give the scores back, also hourly and at the last epoch."""
    bare = Record(
        record.content,
        {
            name: array
            for name, array in record.arrays.items()
            if not name.startswith(("score/", "calibrated/", "last/", "last_calibrated/"))
        },
    )
    for view in ("", "calibrated", "last", "last_calibrated"):
        for task, scores in record.scores("test", view).items():
            np.testing.assert_allclose(bare.scores("test", view)[task], scores, atol=5e-4)
    assert any(len(own.rows) < len(own.logits) for own in record.logits("test").values())


def test_made_names_code_and_machine_but_no_place(record: Record, tmp_path: Path) -> None:
    made = record.content["made"]
    assert set(made) >= {
        "commit",
        "modified",
        "source",
        "device",
        "instructions",
        "threads",
        "precision",
        "command",
    }
    assert "/" not in made["command"].split()[0]
    arguments = ["/usr/bin/relif", "study", "--data", "/home/a/icu", "--set", "x=/home/a/w.pt", "--seed=3"]
    assert provenance.command(arguments) == "relif study --data icu --set x=w.pt --seed=3"
    odd = ["relif", "run", "--target=/home/a/x=y", "/home/a=b/icu", "~/a=b", "--set", "training.epochs=3"]
    assert provenance.command(odd) == "relif run --target=x=y icu a=b --set training.epochs=3"
    assert provenance.command(["/x/default_worker.py", "--node-ip-address=1.2.3.4"]) is None


def test_a_stamp_stands_in_for_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    monkeypatch.setattr(provenance, "_from_git", lambda: None)
    digest = provenance.package_digest()

    def states() -> tuple[str | None, bool | None]:
        provenance.sources.cache_clear()
        found = provenance.sources()
        return found["commit"], found["modified"]

    try:
        assert states() == (None, None)
        for stamped, modified in ((digest, False), ("other", True)):
            stamp = {"commit": "abc", "modified": False, "source": stamped}
            (tmp_path / provenance.STAMP).write_text(json.dumps(stamp))
            assert states() == ("abc", modified)
    finally:
        provenance.sources.cache_clear()


def test_logits_beyond_half_precision_keep_their_scores() -> None:
    logits, one = np.array([[70_000.0, 3.0], [-1e6, 2.0]]), np.ones(2, dtype=np.int32)
    whole = LabelledLogits("binned", logits, one - 1, one)
    evaluation = SimpleNamespace(logits={"los": whole})
    kept = _outputs("", "test", evaluation, {"los": 1.0})["logit/test/los"]  # type: ignore[arg-type]
    np.testing.assert_array_equal(LabelledLogits("binned", kept, one - 1, one).scores(), whole.scores())


def test_labels_beyond_a_byte_are_kept_as_they_are() -> None:
    labels = np.array([0, 255, 300], dtype=np.int16)
    for own in (labels[:2], labels):
        kept = LabelledLogits("binned", np.zeros((len(own), 301)), own, np.ones(len(own), dtype=np.int32))
        evaluation = SimpleNamespace(logits={"los": kept})
        found = _outputs("", "test", evaluation, {"los": 1.0})["label/test/los"]  # type: ignore[arg-type]
        assert found.tolist() == own.tolist()
        assert found.dtype == (np.uint8 if len(own) == 2 else np.int16)


def test_curves_that_come_late_keep_their_epoch() -> None:
    """The scale of a dense ERM run's scores is set when training ends: earlier epochs have no curve."""
    scores = {"depth": np.array([0.1, 0.9], dtype=np.float32), "normals": np.array([0.5], dtype=np.float32)}
    audits = EpochAudits(("depth", "normals"))
    for epoch, on_scale in ((5, False), (8, True), (7, True)):
        utility = SimpleNamespace(
            worst=0.5, macro=0.5, tasks={task: SimpleNamespace(score=0.5) for task in scores}
        )
        audits.add(
            "test",
            epoch,
            SimpleNamespace(scores=scores, logits={}, raw={}, utility=utility, on_scale=on_scale),  # type: ignore[arg-type]
        )
    arrays = audits.arrays()
    assert arrays["epoch/test/epoch"].tolist() == [5, 7, 8]
    assert np.isnan(arrays["epoch/test/bias"][0]).all()
    np.testing.assert_allclose(
        arrays["epoch/test/bias"][1:], [bias_curve(scores, TOLERANCES).bias] * 2, rtol=1e-6
    )


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=200),
    st.lists(st.floats(0, 3), min_size=1, max_size=200),
    st.floats(0.5, 2),
)
def test_kept_quantiles_give_bias_to_a_64th(first: list[float], second: list[float], high: float) -> None:
    """Raw scores kept as 64 quantiles, put on a scale that came later, against the pools themselves."""
    raw = {"depth": np.array(first), "normals": np.array(second)}
    utility = SimpleNamespace(worst=0.5, macro=0.5, tasks={task: SimpleNamespace(score=0.5) for task in raw})
    audits = EpochAudits(tuple(raw))
    reading = SimpleNamespace(scores=raw, logits={}, raw=raw, utility=utility, on_scale=False)
    audits.add("test", 1, reading)  # type: ignore[arg-type]
    scale = dict.fromkeys(raw, (0.25, 0.25 + high))
    found = audits.arrays(scale)["epoch/test/bias"][0]
    pools = {task: np.clip((own - 0.25) / high, 0, 1) for task, own in raw.items()}
    np.testing.assert_allclose(found, bias_curve(pools, TOLERANCES).bias, atol=1 / 64 + 1e-6)
