"""Which rows a label is read with: the causal reading, and those that see later hours."""

from pathlib import Path

import numpy as np
import pytest
import torch

from relif_book.chapters.leakage import leakage_study
from relif_core.errors import InputError
from relif_core.problems.clinical import ClinicalProblem
from relif_core.settings import ModelSettings
from relif_core.tensors.clinical import ClinicalTensors
from relif_data import prepare
from relif_data.label_reading import READINGS, read_labels_at

HOUR = 12


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> ClinicalTensors:
    """Return 90 simulated stays, enough for both classes of every task."""
    target = tmp_path_factory.mktemp("icu") / "tensors"
    return ClinicalTensors.open(prepare("synthetic_icu", None, target, stays=90, seed=3))


def test_hourly_labels_are_those_of_the_hour(tensors: ClinicalTensors) -> None:
    """Every stay that reaches the hour keeps its label there, whatever the reading; the others carry none."""
    offsets = tensors.arrays["offsets"]
    reached = np.diff(offsets) >= HOUR
    for reading in READINGS:
        view = read_labels_at(tensors, HOUR, reading)
        for task in ("decompensation", "los"):
            hourly = tensors.arrays[f"labels/{task}"]
            mask = view.arrays[f"masks/{task}"].astype(bool)
            rows = (offsets[:-1] + HOUR - 1)[reached]
            held = view.stays_of("test") if reading == "released" else np.arange(len(reached))
            assert np.array_equal(mask[held], reached[held])
            assert (
                np.array_equal(view.arrays[f"labels/{task}"][reached], hourly[rows]) or reading == "released"
            )
            kept = np.flatnonzero(reached & np.isin(np.arange(len(reached)), held))
            assert np.array_equal(view.arrays[f"labels/{task}"][kept], hourly[offsets[kept] + HOUR - 1])


def test_drawn_training_labels_stand_at_labelled_hours(tensors: ClinicalTensors) -> None:
    """A drawn label is one of the stay's own; the draw is repeatable and depends on the seed."""
    view = read_labels_at(tensors, HOUR, "released", seed=1)
    again = read_labels_at(tensors, HOUR, "released", seed=1)
    other = read_labels_at(tensors, HOUR, "released", seed=2)
    labels, offsets = tensors.arrays["labels/los"], tensors.arrays["offsets"]
    held = tensors.arrays["masks/los"].astype(bool)
    for stay in view.stays_of("train"):
        own = slice(offsets[stay], offsets[stay + 1])
        carries = view.arrays["masks/los"][stay]
        assert carries == held[own].any()
        assert not carries or view.arrays["labels/los"][stay] in labels[own][held[own]]
    assert np.array_equal(view.arrays["labels/los"], again.arrays["labels/los"])
    assert not np.array_equal(view.arrays["labels/los"], other.arrays["labels/los"])


@pytest.mark.parametrize("reading", sorted(READINGS))
def test_only_the_causal_reading_is_blind_to_later_hours(tensors: ClinicalTensors, reading: str) -> None:
    """Scrambled input from the label's hour on changes predictions just where the reading sees it."""
    view = read_labels_at(tensors, HOUR, reading)
    problem = ClinicalProblem(view)
    torch.manual_seed(0)
    model = problem.build_model(ModelSettings(hidden=8, head_width=8)).eval()
    stays = np.flatnonzero(np.diff(tensors.arrays["offsets"]) > HOUR)[:8]
    batch = problem.batch(stays)
    scrambled = dict(batch)
    scrambled["inputs"] = batch["inputs"].clone()
    scrambled["inputs"][:, HOUR:] = torch.randn_like(scrambled["inputs"][:, HOUR:])
    with torch.no_grad():
        before, after = model(batch).logits, model(scrambled).logits
    for task in ("decompensation", "los"):
        assert torch.equal(before[task], after[task]) == (reading == "causal")


def test_stay_level_tasks_move_only_when_asked(tensors: ClinicalTensors) -> None:
    """A task with a horizon is read at the hour causally, else at its horizon; labels stay."""
    causal = read_labels_at(tensors, HOUR, tasks=["mortality"])
    later = read_labels_at(tensors, HOUR, "later_hours", tasks=["mortality"])
    assert causal.tasks[0].horizon_hours == HOUR
    assert later.tasks[0].horizon_hours == tensors.tasks[0].horizon_hours == 48
    assert causal.arrays["labels/mortality"] is tensors.arrays["labels/mortality"]
    assert causal.tasks[1:] == tensors.tasks[1:]


def test_readings_never_share_a_fingerprint(tensors: ClinicalTensors) -> None:
    """The fingerprint tells readings, hours and tasks apart, and the source is left as it was."""
    fingerprint = tensors.fingerprint
    found = {read_labels_at(tensors, hour, reading).fingerprint for hour in (6, 12) for reading in READINGS}
    assert len(found) == 6
    assert read_labels_at(tensors, np.int64(6)).fingerprint in found
    assert fingerprint not in found
    assert ClinicalTensors.open(tensors.folder).fingerprint == fingerprint == tensors.fingerprint


def test_unknown_requests_are_refused(tensors: ClinicalTensors) -> None:
    """An unknown reading or task, and an hour that no label can have, are named."""
    with pytest.raises(InputError, match="choose among causal"):
        read_labels_at(tensors, HOUR, "leaky")
    with pytest.raises(InputError, match="no task saps"):
        read_labels_at(tensors, HOUR, tasks=["saps"])
    for hour in (0, 2.5):
        with pytest.raises(InputError, match="give an integer of at least 1"):
            read_labels_at(tensors, hour)
    with pytest.raises(InputError, match="read at hour 48 and cannot be read at hour 49"):
        read_labels_at(tensors, 49, tasks=["mortality"])
    with pytest.raises(InputError, match="read at the end of the stay and cannot be read at hour 12"):
        read_labels_at(tensors, 12, tasks=["phenotypes"])
    with pytest.raises(InputError, match="set the tolerance"):
        leakage_study(tensors, HOUR, Path("unused"), readings=("released",))


def test_study_compares_the_same_test_stays(tensors: ClinicalTensors, tmp_path: Path) -> None:
    """One tolerance for all readings, a contrast per method and reading, runs kept, nobody's row."""
    settings = {
        "model": {"hidden": 8, "head_width": 8, "layers": 1},
        "training": {"epochs": 1, "batch_size": 16},
    }
    options = {
        "readings": ("causal", "later_hours"),
        "methods": ("erm",),
        "seeds": (0,),
        "settings": settings,
    }
    found = leakage_study(tensors, HOUR, tmp_path / "runs", **options)
    assert [run["reading"] for run in found["runs"]] == ["causal", "later_hours"]
    (contrast,) = found["contrasts"]
    before, after = found["runs"]
    assert contrast["bias"][0] == pytest.approx(after["bias"] - before["bias"], abs=1e-5)
    low, high = contrast["bias_interval"]
    assert low <= contrast["bias"][0] <= high
    again = leakage_study(tensors, HOUR, tmp_path / "runs", **options)
    assert [run["key"] for run in again["runs"]] == [run["key"] for run in found["runs"]]
    longest = max(len(value) for value in found.values() if isinstance(value, list))
    assert longest < len(tensors.stays_of("test"))
