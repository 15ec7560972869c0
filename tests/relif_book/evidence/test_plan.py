"""The analysis plan says what the code of its rules says."""

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from relif_book.evidence.judging import power
from relif_book.evidence.plan import MACRO_SUBJECTS, WORST_SUBJECTS, power_table
from relif_book.evidence.publishing import read_published, read_reference
from relif_book.evidence.result_set import result_set
from relif_core.studies.grid import STUDIES, named_study

ROOT = Path(__file__).resolve().parents[3]
RECORDS = ROOT / "data" / "records"
TEXT = (ROOT / "data" / "analysis_plan.md").read_text(encoding="utf-8")
#: Methods whose paired spread against ReLiF as released stands for that of a planned contrast.
SPREAD_FROM = (
    "erm",
    "gradnorm",
    "fairgrad",
    "cats_as_released",
    "relif_static_1",
    "relif_no_alignment",
    "relif_step_size_1",
)


def test_the_powers_of_the_plan_are_those_of_its_rows() -> None:
    printed = TEXT[TEXT.index("\n| primary 1 |") : TEXT.index("\n\nThe smallest true difference")]
    assert power_table(TEXT) == printed.strip()


def test_powers_that_do_not_follow_from_their_row_are_mended() -> None:
    right = "| 0.0060–0.0110 | 0.99–0.68 | 4–10 |"
    assert power_table(TEXT.replace(right, "| 0.0060–0.0110 | 1.00 | 3 |")) == power_table(TEXT)
    assert power_table(TEXT).count(right) == 2


def stated_spreads() -> dict[str, tuple[float, float]]:
    """The paired deviations between seeds that the plan states, by endpoint."""
    stated = re.findall(r"(0\.\d{3})–(0\.\d{3}) for (Bias|Worst|Macro)", TEXT)
    return {endpoint.lower(): (float(least), float(most)) for least, most, endpoint in stated}


@pytest.mark.parametrize("endpoint", ["bias", "worst", "macro"])
def test_the_spreads_are_those_of_the_exploratory_records(endpoint: str) -> None:
    """Of the difference to ReLiF as released, over the seeds that a method shares with it."""
    kept = result_set("kept", *read_published(RECORDS / "physionet2012_methods"))
    found = [np.std(kept.differences(method, "relif", endpoint), ddof=1) for method in SPREAD_FROM]
    assert np.round([min(found), max(found)], 3) == pytest.approx(stated_spreads()[endpoint])


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
    unreachable = [line for line in power_table(TEXT).splitlines() if "out of reach" in line]
    assert len(unreachable) == 4
    assert all("in Worst" in line for line in unreachable)


def test_a_detectable_difference_has_the_power_it_is_named_for() -> None:
    errors = {"bias": 0.0002, "worst": WORST_SUBJECTS, "macro": MACRO_SUBJECTS}
    rows = re.findall(r"^\| (\d+) ((?:\| 0\.\d{4}–0\.\d{4} ){3})\|$", TEXT, re.MULTILINE)
    assert [int(seeds) for seeds, _ in rows] == [3, 7, 10, 15, 30]
    for (seeds, cells), (endpoint, subjects) in itertools.product(rows, errors.items()):
        cell = cells.strip("| ").split(" | ")[list(errors).index(endpoint)]
        for smallest, spread in zip(map(float, cell.split("–")), stated_spreads()[endpoint], strict=True):
            below, there = (
                power("lower", -effect, spread, int(seeds), subjects)
                for effect in (smallest - 1e-4, smallest + 5e-5)
            )
            assert below < 0.8 <= there
