"""Every fault ends in a named error or a counted exclusion, and nothing partial is ever taken for whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relif_core.errors import DataError
from relif_core.tensors.clinical import check_tensors
from relif_data.mimic3 import prepare
from relif_data.resume import STATE, work_folder


def counts_of(tables: Any, folder: Path, **options: Any) -> dict[str, int]:
    """Prepare the tables and return the counts in the manifest."""
    made = check_tensors(prepare(tables.write(folder / "raw"), folder / "tensors", **options))
    return made.manifest["options"]["counts"]


@pytest.mark.parametrize("table", ["ICUSTAYS", "CHARTEVENTS"])
@pytest.mark.parametrize("damage", ["cut", "checksum"])
def test_damaged_gzip(two_stays: Any, tmp_path: Path, table: str, damage: str) -> None:
    """A truncated or altered gzip file is named, and no tensors appear."""
    for minute in range(500):
        two_stays.event(1, 211, minute / 60, str(60 + minute % 37))
    raw = two_stays.write(tmp_path / "raw", compress=True)
    path = raw / f"{table}.csv.gz"
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-20], "checksum": content[:-8] + bytes(4) + content[-4:]}[damage])
    with pytest.raises(DataError, match=rf"{table}\.csv\.gz cannot be read.*fetch it again"):
        prepare(raw, tmp_path / "tensors")
    assert not (tmp_path / "tensors").exists()


def test_cut_off_plain_file(two_stays: Any, tmp_path: Path) -> None:
    """A plain file that ends within a row is refused; a missing last line break alone is not."""
    raw = two_stays.write(tmp_path / "raw")
    path = raw / "CHARTEVENTS.csv"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    check_tensors(prepare(raw, tmp_path / "whole"))
    path.write_bytes(content[:-12])
    with pytest.raises(DataError, match="middle of a row"):
        prepare(raw, tmp_path / "tensors")


def test_missing_table_and_column(two_stays: Any, tmp_path: Path) -> None:
    """Missing tables and columns are named together."""
    two_stays.columns["chartevents"].remove("valueuom")
    two_stays.columns["chartevents"].remove("error")
    raw = two_stays.write(tmp_path / "raw")
    with pytest.raises(DataError, match=r"CHARTEVENTS\.csv: column VALUEUOM, ERROR missing"):
        prepare(raw, tmp_path / "tensors")
    (raw / "LABEVENTS.csv").unlink()
    (raw / "PATIENTS.csv").unlink()
    with pytest.raises(DataError, match="no file for PATIENTS, LABEVENTS"):
        prepare(raw, tmp_path / "tensors")
    with pytest.raises(DataError, match="is not a folder"):
        prepare(raw / "nowhere", tmp_path / "tensors")


def test_mixed_case_and_mark(two_stays: Any, tmp_path: Path) -> None:
    """Headers in any case, a byte order mark and a bad byte in a text are read."""
    raw = two_stays.write(tmp_path / "raw")
    path = raw / "CHARTEVENTS.csv"
    text = path.read_bytes().replace(b"SUBJECT_ID", b"Subject_Id").replace(b"bpm", b"bp\xb0")
    path.write_bytes(b"\xef\xbb\xbf" + text)
    found = check_tensors(prepare(raw, tmp_path / "tensors"))
    plain = check_tensors(prepare(two_stays.write(tmp_path / "plain"), tmp_path / "expected"))
    for name, array in plain.arrays.items():
        assert np.array_equal(found.arrays[name], array), name


def test_repeated_row_ids(two_stays: Any, tmp_path: Path) -> None:
    """An exact repeat is counted and left out; one ROW_ID for two different events is an error."""
    row = two_stays.event(1, 211, 2.0, "90")
    two_stays.rows["chartevents"].append(dict(row))
    assert counts_of(two_stays, tmp_path / "a")["repeated_row"] == 1
    two_stays.rows["chartevents"].append({**row, "value": "91"})
    with pytest.raises(DataError, match="1 ROW_ID stand for different events"):
        prepare(two_stays.write(tmp_path / "b"), tmp_path / "tensors")


def test_repeated_keys(two_stays: Any, tmp_path: Path) -> None:
    """Stays, admissions and patients have one row each."""
    for table, key in (("icustays", "ICUSTAY_ID"), ("admissions", "HADM_ID"), ("patients", "SUBJECT_ID")):
        rows = two_stays.rows[table]
        rows.append({**rows[0], "row_id": 99})
        with pytest.raises(DataError, match=rf"1 {key} stand in more than one row \(first: data row 1\)"):
            prepare(two_stays.write(tmp_path / table), tmp_path / "tensors")
        rows.pop()


def test_unreadable_times(two_stays: Any, tmp_path: Path) -> None:
    """Bad times of events are counted, of stays an error; many bad events are an error too."""
    for minute in range(300):
        two_stays.event(1, 211, minute / 60, "80")
    two_stays.event(1, 211, 1.0, "80", charttime="2150-03-01")
    assert counts_of(two_stays, tmp_path / "a")["unreadable_time"] == 1
    for _ in range(10):
        two_stays.event(1, 211, 1.0, "80", charttime="yesterday")
    with pytest.raises(
        DataError, match=r"CHARTEVENTS\.csv: 11 of 313 wanted rows .* \(first: data row 303\)"
    ):
        prepare(two_stays.write(tmp_path / "b"), tmp_path / "tensors")
    two_stays.rows["icustays"][1]["intime"] = "2150-13-01 00:00:00"
    with pytest.raises(DataError, match=r"ICUSTAYS\.csv: 1 INTIME are no time .* \(first: data row 2\)"):
        prepare(two_stays.write(tmp_path / "c"), tmp_path / "tensors")


def test_times_of_another_year(two_stays: Any, tmp_path: Path) -> None:
    """Times a year away from their stay are said, and an error where many are; other hospital days not."""
    for minute in range(300):
        two_stays.event(1, 211, minute / 60, "80")
    for hours in (-9_000.0, 9_000.0):
        two_stays.event(1, 211, hours, "80")
    said: list[str] = []
    prepare(two_stays.write(tmp_path / "a"), tmp_path / "few", progress=said.append)
    assert [line for line in said if "away" in line] == [
        "chartevents: 2 wanted rows left out, a year or more away from their ICU stay"
    ]
    for _ in range(9):
        two_stays.event(1, 211, 9_000.0, "80")
    with pytest.raises(
        DataError, match=r"CHARTEVENTS\.csv: 11 of 313 wanted rows have a CHARTTIME over a year"
    ):
        prepare(two_stays.write(tmp_path / "b"), tmp_path / "many")


def test_a_chart_of_other_days(two_stays: Any, tmp_path: Path) -> None:
    """Half of CHARTEVENTS may be charted elsewhere in the hospital, not more."""
    for hours in (1.0, -50.0):
        for _ in range(11):
            two_stays.event(1, 211, hours, "80")
    prepare(two_stays.write(tmp_path / "a"), tmp_path / "half")
    for _ in range(20):
        two_stays.event(1, 211, -50.0, "80")
    with pytest.raises(
        DataError, match=r"CHARTEVENTS\.csv: 31 of \d+ wanted rows have a CHARTTIME over a day"
    ):
        prepare(two_stays.write(tmp_path / "b"), tmp_path / "most")


def test_unknown_units_are_counted(two_stays: Any, tmp_path: Path) -> None:
    """A unit text never seen is counted by channel and text, and left out when repaired."""
    two_stays.event(1, 763, 1.0, "12", "stone")
    counts = counts_of(two_stays, tmp_path / "a")
    assert counts["unknown unit: Weight, 'stone'"] == counts["unknown_units"] == 1
    published = counts_of(two_stays, tmp_path / "b", compatibility="benchmark")
    assert published["unknown unit: Weight, 'stone'"] == 1
    assert "unknown_units" not in published


def test_ids_that_are_no_numbers(two_stays: Any, tmp_path: Path) -> None:
    """Text where an id must stand is counted, above ten rows an error, and in a small table at once."""
    two_stays.event(1, 211, 1.0, "80", hadm_id="A17")
    assert counts_of(two_stays, tmp_path / "a")["unreadable_id"] == 1
    for _ in range(10):
        two_stays.event(1, 211, 1.0, "80", hadm_id="A17")
    with pytest.raises(
        DataError, match=r"CHARTEVENTS\.csv .* 11 cells of column HADM_ID are no number \(first: data row 3\)"
    ):
        prepare(two_stays.write(tmp_path / "b"), tmp_path / "tensors")
    two_stays.rows["admissions"][1]["hadm_id"] = "A17"
    with pytest.raises(DataError, match=r"ADMISSIONS\.csv .* 1 cells of column HADM_ID are no number"):
        prepare(two_stays.write(tmp_path / "c"), tmp_path / "tensors")


def test_no_stay_is_left(two_stays: Any, tmp_path: Path) -> None:
    """An empty cohort and a cohort without events are errors, not empty tensors."""
    for row in two_stays.rows["chartevents"]:
        row["itemid"] = 1
    with pytest.raises(DataError, match="no stay is left after the cohort rule 'an event lies"):
        prepare(two_stays.write(tmp_path / "a"), tmp_path / "tensors")
    two_stays.rows["chartevents"].clear()
    with pytest.raises(DataError, match=r"CHARTEVENTS\.csv has no row under its header"):
        prepare(two_stays.write(tmp_path / "header"), tmp_path / "tensors")
    for row in two_stays.rows["admissions"]:
        row["hadm_id"] += 5000
    with pytest.raises(DataError, match="no stay is left after the cohort rule"):
        prepare(two_stays.write(tmp_path / "b"), tmp_path / "tensors")


def test_another_sources_tensors_are_kept(two_stays: Any, tmp_path: Path) -> None:
    """A target made from other files is refused and stays as it was; the same files replace it."""
    raw = two_stays.write(tmp_path / "raw")
    target = prepare(raw, tmp_path / "tensors")
    before = check_tensors(target).fingerprint
    prepare(raw, target, seed=0)
    two_stays.event(1, 211, 1.0, "99")
    with pytest.raises(DataError, match="made from other source files"):
        prepare(two_stays.write(tmp_path / "other"), target)
    assert check_tensors(target).fingerprint == before
    assert not work_folder(target).exists()


KILLED = """
import os, resource, signal, sys
from relif_data.mimic3 import prepare
from relif_core.errors import DataError
source, target, moment, limit = sys.argv[1:]
if int(limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
def progress(message):
    print(message, flush=True)
    if moment and message.startswith(moment):
        os.kill(os.getpid(), signal.SIGKILL)
try:
    prepare(source, target, progress=progress)
except DataError as error:
    print("DataError:", error)
"""


def in_process(
    source: Path, target: Path, moment: str = "", limit: int = 0
) -> subprocess.CompletedProcess[str]:
    """Prepare in a process killed at a progress message, or unable to write files above a limit."""
    arguments = [sys.executable, "-c", KILLED, str(source), str(target), moment, str(limit)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("moment", ["chartevents", "hourly grid"])
def test_killed_and_resumed(two_stays: Any, tmp_path: Path, moment: str) -> None:
    """After kill -9 there are no tensors; the same command goes on from finished tables to the same ones."""
    raw = two_stays.write(tmp_path / "raw")
    target = tmp_path / "tensors"
    killed = in_process(raw, target, moment)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    assert work_folder(target).is_dir()
    messages: list[str] = []
    prepare(raw, target, progress=messages.append)
    assert "chartevents: kept from the interrupted run" in messages
    assert check_tensors(target).fingerprint == check_tensors(prepare(raw, tmp_path / "whole")).fingerprint
    assert not work_folder(target).exists()


def test_a_changed_source_is_read_again(two_stays: Any, tmp_path: Path) -> None:
    """After an interruption neither a changed table nor a broken remainder is taken from the work folder."""
    raw = two_stays.write(tmp_path / "raw")
    target = tmp_path / "tensors"
    in_process(raw, target, "labevents")
    (work_folder(target) / STATE).write_text('{"version": ')
    two_stays.event(1, 211, 1.0, "99")
    two_stays.write(tmp_path / "raw")
    os.utime(raw / "CHARTEVENTS.csv", ns=(1, 1))
    messages: list[str] = []
    prepare(raw, target, progress=messages.append)
    assert not any("interrupted" in message for message in messages)
    heart = check_tensors(target).columns.index("Heart Rate")
    assert check_tensors(target).arrays["values"][0, heart] == 99.0


@pytest.mark.parametrize("limit", [300, 9_000, 30_000])
def test_full_disk(two_stays: Any, tmp_path: Path, limit: int) -> None:
    """Where files cannot grow (a full disk) the error says so and no tensors appear, whichever file it is."""
    for minute in range(3000):
        two_stays.event(1, 211, minute / 60, str(minute % 301))
    raw = two_stays.write(tmp_path / "raw")
    ended = in_process(raw, tmp_path / "tensors", limit=limit)
    assert ended.returncode == 0, ended.stderr
    assert "DataError:" in ended.stdout
    assert "cannot be written" in ended.stdout
    assert not (tmp_path / "tensors").exists()
