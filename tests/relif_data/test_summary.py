"""What a public summary of clinical data says and what it hides."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from relif_book.chapters.cohorts import channel_rows, draw_cohort_flow, group_rows, label_rows, size_rows
from relif_book.figures.style import new_figure
from relif_core.errors import InputError
from relif_core.tensors.clinical import ClinicalTensors
from relif_data import prepare
from relif_data.summary import (
    SMALL_CELL,
    closing_lines,
    guarded_effects,
    least_count,
    merged_steps,
    summarise_tensors,
)
from tests.relif_data.handmade import lab, small_tables, write_tables

RECORDS = Path(__file__).parents[2] / "data" / "records" / "clinical_data"


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> ClinicalTensors:
    """Return 80 simulated stays."""
    target = tmp_path_factory.mktemp("icu") / "tensors"
    return ClinicalTensors.open(prepare("synthetic_icu", None, target, stays=80, seed=1))


def test_counts_are_those_of_the_arrays(tensors: ClinicalTensors) -> None:
    """Nothing is hidden of simulated stays, and every count agrees with the arrays."""
    found = summarise_tensors(tensors)
    arrays = tensors.arrays
    assert found["least_count"] == 1
    assert (found["stays"], found["stay_hours"]) == (80, len(arrays["values"]))
    assert sum(part["stays"] for part in found["splits"].values()) == 80
    hours = [channel["observed_hours"] for channel in found["channels"]]
    assert hours == arrays["observed"].sum(axis=0).tolist()
    for task in found["tasks"]:
        mask = arrays[f"masks/{task['name']}"]
        assert sum(part["labels"] for part in task["splits"].values()) == mask.sum()
        if task["kind"] != "multilabel":
            assert all(sum(part["counts"]) == part["labels"] for part in task["splits"].values())
    for group in found["groups"]:
        assert sum(group["stays"]) == 80
    json.dumps(found, allow_nan=False)


def test_small_counts_are_hidden_and_cannot_be_computed(tensors: ClinicalTensors) -> None:
    """With a least count no shown number lies below it, and no partition hides exactly one level."""
    found = summarise_tensors(tensors, least=SMALL_CELL)
    for group in found["groups"]:
        shown = [count for count in group["stays"] if count is not None]
        assert all(count == 0 or count >= SMALL_CELL for count in shown)
        assert len(group["stays"]) - len(shown) != 1
    for task in found["tasks"]:
        for part in task["splits"].values():
            shown = [count for count in part["counts"] if count is not None]
            assert all(count == 0 or count >= SMALL_CELL for count in shown)
            if task["kind"] != "multilabel":
                assert len(part["counts"]) - len(shown) != 1
    for channel in found["channels"]:
        stays = channel["observed_stays"]
        assert stays is None or stays in (0, 80) or SMALL_CELL <= stays <= 80 - SMALL_CELL


def test_rules_that_removed_few_join_a_neighbour() -> None:
    """The flow keeps its ends, its sum and its order; no shown rule removed 1 to 9 stays."""

    def step(rule: str, removed: int, stays: int) -> dict[str, object]:
        return {"rule": rule, "removed": removed, "stays": stays, "subjects": stays}

    steps = [step("all", 0, 100), step("a", 3, 97), step("b", 0, 97), step("c", 20, 77), step("d", 2, 75)]
    merged = merged_steps(steps, 10)
    assert [item["removed"] for item in merged] == [0, 25]
    assert merged[-1] == {"rule": "a; b; c; d", "removed": 25, "stays": 75, "subjects": 75}
    assert merged_steps(steps, 1) == steps
    only_small = merged_steps([step("all", 0, 20), step("a", 4, 16)], 10)
    assert only_small[0]["stays"] is None
    assert only_small[1]["removed"] is None


@pytest.mark.parametrize(
    ("note", "shown"),
    [
        (
            "lab: 12 rows; 7 values used; 3 values that are no number; 1 in an unknown unit: 'x' (1).",
            "lab: 12 rows; ? values used; ? values that are no number; ? in an unknown unit: 'x' (?).",
        ),
        (
            "patient: 3 admission heights used as measured at minute 0, 0 out of range, 2 unknown.",
            "patient: ? admission heights used as measured at minute 0, 0 out of range, ? unknown.",
        ),
        ("of the published labels 5 of 9 equal", "of the published labels ? of ? equal"),
        ("Set: 4 stays, 1 deaths.", "Set: ? stays, ? deaths."),
        *(
            (same, same)
            for same in (
                "Death, predicted at hour 5 from rows 0 to 4; whole hours from 5 on; the classes from 7 days",
                "Scientific Data 6:96, 2019; ICD-9; License 1.5.0; ERROR = 1; 11,647 mmHg; 0.5 becomes 0.005",
                "oxygen above 1 is a percentage; ranges: Oxygen 0.2 to 1; Refill 0 to 1; Coma scale 3 to 15",
            )
        ),
    ],
)
def test_small_counts_in_notes_are_hidden(tensors: ClinicalTensors, note: str, shown: str) -> None:
    """Whatever a note counts, a count below the least one is not told; hours, bounds and versions are."""
    noted = dataclasses.replace(tensors, manifest={**tensors.manifest, "notes": [note]})
    for least in (SMALL_CELL, 1):
        hidden = shown.replace("?", f"fewer than {least}") if least > 1 else note
        assert summarise_tensors(noted, least=least)["notes"] == [hidden]
    assert summarise_tensors(noted, least=15)["notes"][0].count("12 rows") == 0


def test_every_count_in_the_notes_of_a_small_cohort_is_hidden(tmp_path: Path) -> None:
    """Notes that the readers write for a handful of real stays tell none of its counts."""
    tables = small_tables()
    tables["lab"] = [lab(1, 60, "glucose", 90, "stone"), lab(2, 60, "glucose", "x", "mg/dL")]
    folder = prepare("eicu", write_tables(tmp_path / "raw", tables), tmp_path / "out", diagnosis_groups="no")
    notes = summarise_tensors(ClinicalTensors.open(folder))["notes"]
    told = [note for note in notes if note.startswith(("lab:", "vitalAperiodic:", "patient:"))]
    assert len(told) == 4
    assert not [note for note in told if re.search(r"\b[1-9]\b", note.replace("fewer than 10", ""))]


def test_guarded_data_have_a_least_count(tensors: ClinicalTensors) -> None:
    """Real MIMIC-III and eICU stays, the demos too, show no count below ten; other open data do."""

    def least_of(**changes: object) -> int:
        return least_count(dataclasses.replace(tensors, manifest={**tensors.manifest, **changes}))

    assert least_of(synthetic=False, dataset="mimic3") == SMALL_CELL
    assert least_of(synthetic=False, dataset="physionet2012") == 1
    assert least_of(synthetic=False, dataset="other", output_policy="aggregate") == SMALL_CELL
    assert least_of(dataset="mimic3") == 1
    with pytest.raises(InputError, match="at least 1"):
        summarise_tensors(tensors, least=0)


def test_tables_and_flow_of_a_summary(tensors: ClinicalTensors) -> None:
    """Every summary, full or with hidden counts, can be printed and drawn."""
    for least in (1, SMALL_CELL):
        found = summarise_tensors(tensors, least=least)
        assert size_rows([found])[0]["Stays"] == 80
        assert len(channel_rows(found)) == 17
        assert label_rows(found)[0]["Read at"] == "hour 48"
        assert len(group_rows(found)) == 3
        axes = new_figure()[1]
        draw_cohort_flow(axes, found)
        assert "80 stays of" in " ".join(text.get_text() for text in axes.texts)


@pytest.mark.parametrize("name", ["physionet2012", "eicu_demo", "mimic3_demo"])
def test_committed_summaries_hold_aggregates_only(name: str) -> None:
    """The committed files show no small count of guarded data and no list as long as the cohort."""
    found = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    assert found["least_count"] == (1 if name == "physionet2012" else SMALL_CELL)
    removed = [step["removed"] for step in found["cohort"]]
    assert all(count == 0 or count >= found["least_count"] for count in removed)
    for group in found["groups"]:
        shown = np.array([count for count in group["stays"] or [] if count], dtype=int)
        assert (shown >= found["least_count"]).all()
    assert max(len(found[key]) for key in ("channels", "tasks", "groups", "notes", "cohort")) < 60


def test_repair_effects_hide_few_stays_and_labels() -> None:
    """Cells go with the stays that hold them, and a few changed labels are not shown; zeros stay zeros."""
    row = {"repair": "a", "events": 3, "value_cells": 40, "mask_cells": 2, "all_cells": 900, "stays": 4}
    (found,) = guarded_effects([row | {"los_labels": 0, "mortality_labels": 3}], SMALL_CELL)
    assert (found["value_cells"], found["mask_cells"], found["stays"]) == (None, None, None)
    assert (found["los_labels"], found["mortality_labels"], found["all_cells"]) == (0, None, 900)
    (kept,) = guarded_effects([row | {"stays": 12, "los_labels": 30}], SMALL_CELL)
    assert (kept["value_cells"], kept["los_labels"]) == (40, 30)


def test_the_closing_summary_names_cohort_and_classes(tensors: ClinicalTensors) -> None:
    """``relif data`` ends with the cohort's flow, the groups and the classes of each task and split."""
    lines = closing_lines(tensors.folder)
    found = summarise_tensors(tensors)
    assert lines[0] == f"cohort: {found['cohort'][0]['rule']}: 80 stays left, 0 removed"
    task = next(task for task in found["tasks"] if task["kind"] == "binary")
    train = task["splits"]["train"]
    no, yes = train["counts"]
    assert f"{task['title']}, train: {train['labels']:,} labels; no {no:,}, yes {yes:,}" in lines
