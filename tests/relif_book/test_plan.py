"""The analysis plan says what the code of its rules says."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from relif_book.evidence import plan
from relif_book.evidence.publishing import read_published, read_reference
from relif_book.evidence.reporting import summarise
from relif_core.studies.grid import STUDIES, named_study

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "data" / "records"
TEXT = (ROOT / "data" / "analysis_plan.md").read_text(encoding="utf-8")


def test_the_tables_of_the_plan_are_those_of_the_code() -> None:
    assert plan.power_table() in TEXT
    assert plan.detectable_table() in TEXT


@pytest.mark.parametrize(
    ("kind", "spread"),
    [("bias", plan.BIAS_SPREAD), ("worst", plan.WORST_SPREAD), ("macro", plan.MACRO_SPREAD)],
)
def test_the_spreads_are_those_of_the_exploratory_records(kind: str, spread: tuple[float, float]) -> None:
    records, _, table = read_published(RECORDS / "physionet2012_methods")
    seen = plan.seen_spreads(summarise(records, table), kind)  # type: ignore[arg-type]
    assert np.round(seen, 3) == pytest.approx(spread)


def planned_rows() -> list[list[str]]:
    """Return the cells of every row of the plan's table of clinical runs."""
    lines = [line for line in TEXT.splitlines() if re.match(r"\| `(table3|power|b3)`", line)]
    return [line.strip("| ").split(" | ") for line in lines if line.count(" | ") == 5]


def test_the_named_studies_are_those_of_the_plan() -> None:
    """Seeds, width, epochs and patience of every block; 15 methods in ``power``, nine in ``b3``."""
    blocks: Counter[str] = Counter()
    for study, _, _, seeds, width, epochs in planned_rows():
        name = study.split("`")[1]
        blocks[name] += 1
        runs = named_study(name, block=blocks[name])
        first, last = map(int, seeds.split("–"))
        assert {run.seed for run in runs} == set(range(first, last + 1))
        assert {run.model.hidden for run in runs} == {int(width)}  # type: ignore[union-attr]
        asked = re.findall(r"\d+", epochs)
        assert {(run.training.epochs, run.training.patience) for run in runs} == {
            (int(asked[0]), int(asked[1]))
        }
    assert blocks == {name: len(STUDIES[name].blocks) for name in ("table3", "power", "b3")}
    assert [len(STUDIES[name].methods) for name in blocks] == [7, 15, 9]


@pytest.mark.parametrize(
    ("name", "study"), [("physionet2012", "physionet2012_methods"), ("eicu_demo", "eicu_demo_methods")]
)
def test_one_tolerance_per_data_set_stands_in_the_plan(name: str, study: str) -> None:
    shared = read_reference(RECORDS / name)
    assert f"δ = {shared.tolerance:.4f}" in TEXT
    assert shared == read_reference(RECORDS / study)


def test_a_margin_that_is_out_of_reach_is_named() -> None:
    """Differences of Worst below the detectable ones need more test subjects, not more seeds."""
    unreachable = [item for item in plan.PLANNED if None in item.needed]
    assert unreachable
    assert all("Worst" in item.text for item in unreachable)
    assert all(item.powers[1] < 0.8 for item in unreachable)


def test_the_detectable_difference_has_the_power_it_is_named_for() -> None:
    found = plan.detectable(0.010, 15, 0.0002)
    assert plan.power("lower", -found, 0.010, 15, 0.0002) == pytest.approx(0.8, abs=0.01)
