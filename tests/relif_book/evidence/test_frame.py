"""The tidy frame holds the records' numbers, each once, and nothing but numbers."""

from pathlib import Path

import pandas as pd
import pytest

from relif_book.evidence.audit_table import audit_table
from relif_book.evidence.frame import COLUMNS, final_frame
from relif_book.evidence.publishing import read_published
from relif_core.record import Record
from relif_core.studies.grid import grid, run_study

PUBLISHED = Path(__file__).resolve().parents[3] / "data" / "records"


@pytest.fixture(scope="module")
def records(icu_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    runs = grid(
        ["erm", "relif"], [0], model={"hidden": 12, "head_width": 8},
        training={"epochs": 2, "batch_size": 32, "learning_rate": 3e-3},
    )  # fmt: skip
    return run_study(runs, icu_folder, tmp_path_factory.mktemp("runs")).records


def one(frame: pd.DataFrame, **wanted: object) -> float:
    """The value of the one row that fits."""
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, wanted
    return float(frame["value"].iloc[0])


def test_final_numbers_are_those_of_record_and_table(records: list[Record]) -> None:
    table = audit_table(records, 0.1)
    frame = final_frame(records, table)
    assert tuple(frame.columns) == COLUMNS
    assert not frame.duplicated([name for name in COLUMNS if name != "value"]).any()
    for row, record in enumerate(records):
        of = frame[frame["method"] == record.method]
        utility = record.result["utility"]["validation"]
        assert one(of, split="validation", quantity="macro") == utility["macro"]
        assert (
            one(of, split="test", quantity="last_worst") == record.result["last"]["utility"]["test"]["worst"]
        )
        for kind in ("bias", "calibrated_bias", "last_bias"):
            assert one(of, quantity=kind, tolerance=0.1) == getattr(table, kind)[row]
        induced = record.induced_tolerances("test")[("mortality", "los")]
        assert one(of, split="test", quantity="induced_tolerance", task="mortality – los") == induced
        assert one(of, quantity="temperature", task="los") == record.result["temperatures"]["los"]


def test_records_of_the_first_revision_have_frames_too() -> None:
    found, _, table = read_published(PUBLISHED / "physionet2012_erm_relif")
    final = final_frame(found, table)
    seeds = final[(final["quantity"] == "bias")].groupby("method")["value"].mean()
    own = table.bias[[table.keys.index(record.key) for record in found if record.method == "erm"]]
    assert seeds["erm"] == pytest.approx(own.mean())
