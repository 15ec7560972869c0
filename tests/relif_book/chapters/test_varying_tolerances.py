"""Rulers that follow groups and hours: what a prefix may see, theorem B.1 on every row, refusals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relif_book.chapters.varying_tolerances import varying_tolerances
from relif_book.evidence.reporting import ReferenceTolerance, choose_reference_tolerance
from relif_core.errors import InputError, RecordError
from relif_core.problems.clinical import ClinicalProblem
from relif_core.record import Record
from relif_core.settings import RunSettings
from relif_core.tensors.clinical import ClinicalTensors
from relif_core.training.loop import WEIGHTS, run

HOURS = (24, 48)
Found = tuple[dict[str, Any], ClinicalTensors, list[Path], ReferenceTolerance]


@pytest.fixture(scope="module")
def made(icu_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    from relif_core.settings import method_settings
    from tests.conftest import SMALL

    tensors = ClinicalTensors.open(icu_folder)
    problem, place = ClinicalProblem(tensors), tmp_path_factory.mktemp("runs")
    folders = [place / name for name in ("erm", "relif")]
    for folder in folders:
        run(method_settings(folder.name, **SMALL), problem, folder)
    reference = choose_reference_tolerance(Record.load(folders[0]))
    reference = replace(reference, alpha=0.3, tolerance=0.2)
    return varying_tolerances(folders, tensors, reference, hours=HOURS), tensors, folders, reference


def test_theorem_b1_holds_in_every_row(made: Found) -> None:
    found, _, _, reference = made
    schedule = {item["hour"]: item["tolerance"] for item in found["schedule"]}
    assert found["group_audits"]
    assert len(found["hour_audits"]) == 4
    for row in found["group_audits"]:
        assert row["budget"] == pytest.approx(abs(row["own_tolerance"] - reference.tolerance), abs=1e-5)
        assert abs(row["own_bias"] - row["bias"]) <= row["budget"] + 1e-5
    for row in found["hour_audits"]:
        moved = schedule[row["hour"]] - reference.tolerance
        assert abs(row["schedule_bias"] - row["bias"]) <= abs(moved) + 1e-5
        assert (row["schedule_bias"] - row["bias"]) * moved <= 1e-9
        assert 0 < row["bias_se"] < row["bias"]


def test_the_schedule_is_the_own_ruler_of_the_run_that_set_it(made: Found) -> None:
    found, *_ = made
    for item in found["schedule"]:
        row = next(
            row
            for row in found["hour_audits"]
            if (row["method"], row["seed"], row["hour"]) == ("erm", 0, item["hour"])
        )
        assert row["own_tolerance"] == item["tolerance"]
        assert row["own_bias"] == row["schedule_bias"]


def test_contrasts_are_the_differences_of_the_rows(made: Found) -> None:
    found, *_ = made
    assert {(item["ruler"], item["hour"]) for item in found["hour_contrasts"]} == {
        (ruler, hour) for ruler in ("fixed", "schedule") for hour in HOURS
    }
    for item in found["hour_contrasts"]:
        name = "bias" if item["ruler"] == "fixed" else "schedule_bias"
        erm, other = (
            next(
                row for row in found["hour_audits"] if (row["method"], row["hour"]) == (method, item["hour"])
            )
            for method in ("erm", item["method"])
        )
        assert item["bias"] == pytest.approx([other[name] - erm[name]], abs=1e-5)
        assert item["interval"][0] <= item["bias"][0] <= item["interval"][1]


def test_a_prefix_sees_nothing_of_later_hours(made: Found) -> None:
    found, tensors, folders, reference = made
    offsets = tensors.arrays["offsets"]
    hour = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    values = np.array(tensors.arrays["values"])
    values[hour >= HOURS[0]] = 77.0
    scrambled = replace(tensors, arrays={**tensors.arrays, "values": values})
    again = varying_tolerances(folders, scrambled, reference, hours=HOURS)
    for before, after in zip(found["hour_audits"], again["hour_audits"], strict=True):
        assert (before == after) == (before["hour"] == HOURS[0])


def test_levels_without_enough_pairs_are_named_not_dropped(made: Found) -> None:
    _, tensors, folders, reference = made
    strict = varying_tolerances(folders, tensors, replace(reference, alpha=0.07), hours=HOURS)
    levels = [level for group in strict["groups"] for level in group["levels"]]
    kept = {(row["group"], row["level"]) for row in strict["group_audits"]}
    assert any(level["left_out"] for level in levels)
    for group in strict["groups"]:
        for level in group["levels"]:
            few = level["validation"] // 2 < 14
            assert bool(level["left_out"]) == few
            assert ((group["name"], level["level"]) in kept) == (not few)
            if few:
                assert level["left_out"] == f"{level['validation'] // 2} validation pairs, α = 0.07 needs 14"


def test_what_cannot_be_measured_is_refused(
    made: Found, icu: ClinicalProblem, tmp_path: Path, small: Callable[..., RunSettings]
) -> None:
    _, tensors, folders, reference = made
    with pytest.raises(InputError, match="in ascending order"):
        varying_tolerances(folders, tensors, reference, hours=(48, 24))
    with pytest.raises(InputError, match="no ERM run"):
        varying_tolerances(folders[1:], tensors, reference, hours=HOURS)
    run(small(seed=1), icu, tmp_path / "other")
    with pytest.raises(InputError, match=r"relif has seeds \[0, 1\], erm \[0\]"):
        varying_tolerances([*folders, tmp_path / "other"], tensors, reference, hours=HOURS)
    (tmp_path / "other" / WEIGHTS).unlink()
    with pytest.raises(RecordError, match="name the folder of the run"):
        varying_tolerances([tmp_path / "other"], tensors, reference, hours=HOURS)
    stranger = replace(tensors, manifest={**tensors.manifest, "fingerprint": "another"})
    with pytest.raises(RecordError, match="trained on other data"):
        varying_tolerances(folders, stranger, reference, hours=HOURS)
