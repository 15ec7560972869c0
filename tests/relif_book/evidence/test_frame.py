"""The tidy frame holds the records' numbers, each once, and nothing but numbers."""

from pathlib import Path

import pandas as pd
import pytest

from relif_book.evidence.audit_table import audit_table
from relif_book.evidence.frame import COLUMNS, epoch_frame, final_frame, tidy_frame, wide_frame
from relif_book.evidence.publishing import read_published
from relif_core.record import Record

PUBLISHED = Path(__file__).resolve().parents[3] / "data" / "records"


@pytest.fixture(scope="module")
def records(small_runs: list[Record]) -> list[Record]:
    return small_runs[::2]


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


def test_epochs_are_those_of_history_and_audits(records: list[Record]) -> None:
    frame = tidy_frame(records, audit_table(records, 0.1))
    assert tuple(frame.columns) == COLUMNS
    assert not frame.duplicated([name for name in COLUMNS if name != "value"]).any()
    for record in records:
        of = frame[frame["method"] == record.method]
        history, arrays = record.result["history"], record.arrays
        for epoch in (1, 2):
            assert (
                one(of, split="validation", quantity="epoch_worst", epoch=epoch)
                == history["worst"][epoch - 1]
            )
            losses = dict(zip(record.tasks, history["losses"][epoch - 1], strict=True))
            assert one(of, quantity="epoch_losses", epoch=epoch, task="los") == losses["los"]
        delta, last = arrays["epoch/tolerances"][3], arrays["epoch/test/epoch"][-1]
        audited = one(of, quantity="epoch_bias", split="test", epoch=last, tolerance=delta)
        assert audited == arrays["epoch/test/bias"][-1, 3]
    alone = epoch_frame(records, ("epoch_worst",))
    assert set(alone["quantity"]) == {"epoch_worst"}


def test_dense_metrics_stand_in_the_frame() -> None:
    found, *_ = read_published(Path(__file__).parents[1] / "nyuv2_revision_1")
    wide = wide_frame(final_frame(found))
    for record in found:
        metrics = record.result["utility"]["test"]["tasks"]["depth"]["metrics"]
        assert wide.loc[(record.method, record.seed), "rmse/depth"] == metrics["rmse"]
        assert wide.loc[(record.method, record.seed), "best_epoch"] == record.result["best_epoch"]


def test_records_of_the_first_revision_have_frames_too() -> None:
    found, _, table = read_published(PUBLISHED / "physionet2012_erm_relif")
    final = final_frame(found, table)
    seeds = final[(final["quantity"] == "bias")].groupby("method")["value"].mean()
    own = table.bias[[table.keys.index(record.key) for record in found if record.method == "erm"]]
    assert seeds["erm"] == pytest.approx(own.mean())
