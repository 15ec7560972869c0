"""No input of a label depends on anything charted after the label's time."""

import dataclasses
import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data.mimic3 import prepare

ITEMS = (211, 618, 52, 51, 8368, 678, 646, 198, 184, 763)
TEXTS = ("9", "15", "80", "105", "120/80", "98.6", "0.5", "3 To speech", "None", "ERROR")
MINUTES = st.one_of(st.integers(0, 29), st.integers(0, 60 * 60))
MOMENTS = st.tuples(
    MINUTES, st.sampled_from(ITEMS), st.sampled_from(TEXTS), st.booleans()
)  # minutes after admission, item, text, and whether the row lacks its stay id


def _tensors(tables: Any, mode: str) -> ClinicalTensors:
    with tempfile.TemporaryDirectory() as folder:
        raw = tables.write(Path(folder) / "raw")
        made = check_tensors(prepare(raw, Path(folder) / "tensors", compatibility=mode))
        arrays = {name: np.array(array) for name, array in made.arrays.items()}
    return dataclasses.replace(made, arrays=arrays)


@pytest.mark.parametrize("mode", ["benchmark", "repaired"])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    past=st.lists(MOMENTS, max_size=25),
    future=st.lists(MOMENTS, min_size=5, max_size=25),
    hour=st.integers(5, 59),
    delay=st.integers(1, 30),
)
def test_the_future_does_not_reach_the_inputs(
    raw_tables: Callable[[], Any], mode: str, past: list[Any], future: list[Any], hour: int, delay: int
) -> None:
    """Replace events after hour t, move end and death, change diagnoses: rows 0..t-1 stay."""
    before, after = raw_tables(), raw_tables()
    for tables in (before, after):
        tables.stay(1, hours=60.0)
        tables.stay(2, hours=60.0)
        for minute, item, text, homeless in past:
            changes = {"icustay_id": None} if homeless else {}
            if minute / 60 <= hour or tables is before:
                tables.event(1, item, minute / 60, text, **changes)
    for minute, item, text, homeless in future:
        changes = {"icustay_id": None} if homeless else {}
        later = hour + 1 / 3600 + minute / 60
        after.event(1, item, later, text, **changes)
    stay, admission = after.rows["icustays"][0], after.rows["admissions"][0]
    stay["outtime"] += datetime.timedelta(hours=delay)
    stay["los"] = round((60 + delay) / 24, 4)
    admission["deathtime"] = admission["dischtime"] = stay["outtime"]
    admission["hospital_expire_flag"] = 1
    after.rows["diagnoses_icd"][0]["icd9_code"] = "V3000"
    first, second = _tensors(before, mode), _tensors(after, mode)
    for name in ("values", "observed"):
        np.testing.assert_array_equal(first.arrays[name][:hour], second.arrays[name][:hour])
        # The other patient's inputs do not change at all.
        np.testing.assert_array_equal(first.arrays[name][-60:], second.arrays[name][-60:])
    assert (first.arrays["labels/mortality"] != second.arrays["labels/mortality"]).any()


def test_an_event_one_second_after_the_hour_is_the_next_rows(two_stays: Any, tmp_path: Path) -> None:
    """The boundary itself: hour 5 belongs to the input of the label at hour 5, a second later does not."""
    two_stays.event(1, 211, 5.0, "105")
    two_stays.event(1, 211, 5.0 + 1 / 3600, "40")
    made = check_tensors(prepare(two_stays.write(tmp_path / "raw"), tmp_path / "tensors"))
    heart = made.columns.index("Heart Rate")
    assert made.arrays["values"][[3, 4, 5], heart].tolist() == [80.0, 105.0, 40.0]
    assert np.flatnonzero(made.arrays["masks/los"])[0] == 4
