"""Mutated sources: each ends in whole tensors or a named error, and what is lost is said or refused."""

import gzip
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relif_core.errors import DataError, ReliFError
from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data import prepare
from tests.relif_data.handmade import RawTables, lab, nurse, small_tables, write_tables

Files = dict[str, bytes]
NORMAL, SLOW = 50, 700
NO_TIME = "2150-13-01 00:00:00"
ODD = ("", "NULL", "\\N", "nan", "1e309", "-1", "9" * 25, "7,5", '"', "x\0y", "٣", NO_TIME, " 5555 ", "N/A")
FAULTS = ("cell", "column", "drop", "repeat", "short", "header", "empty", "gone", "half")
#: What an item is called decides whether it is wanted at all: another name is no loss that can be told.
NAMES = {"itemid", "labname", "nursingchartcelltypevallabel", "nursingchartcelltypevalname", "parameter"}
#: A row number is no value; -1 is PhysioNet's mark of a missing one.
FREE = ({("row_id", "-1"), ("row_id", "9" * 25)}, {("value", "-1")})
SETTINGS = dict(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def files_of(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@cache
def base(name: str) -> Files:
    """A small whole source, one file a table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if name == "mimic3":
            tables = RawTables()
            for stay in range(1, 9):
                tables.stay(stay, died_at=50.0 if stay == 2 else None)
                for hour in range(1, 20):
                    tables.event(stay, 211, hour, str(60 + hour), "bpm")
                    tables.event(stay, 50931, hour, f"{90 + hour}", "mg/dL", table="labevents")
            return files_of(tables.write(folder))
        if name == "eicu":
            small = small_tables()
            hours = [(stay, hour) for stay in range(1, 9) for hour in range(20)]
            rate = "Heart Rate"
            small["nurseCharting"] = [nurse(stay, 60 * hour, rate, rate, 60 + hour) for stay, hour in hours]
            small["lab"] = [lab(stay, 60 * hour, "glucose", 90 + hour, "mg/dL") for stay, hour in hours]
            return files_of(write_tables(folder, small, packed=False))
    found: Files = {}
    for part, stays in (("a", range(1, 13)), ("b", range(21, 25))):
        for stay in stays:
            readings = "".join(f"{hour:02}:30,HR,{60 + hour}\n{hour:02}:31,Temp,36.5\n" for hour in range(12))
            general = (
                f"00:00,RecordID,{stay}\n00:00,Age,60\n00:00,Gender,1\n00:00,Height,-1\n00:00,ICUType,2\n"
            )
            found[f"set-{part}/{stay}.txt"] = f"Time,Parameter,Value\n{general}{readings}".encode()
        rows = "".join(f"{stay},10,3,7,-1,{stay % 2}\n" for stay in stays)
        header = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"
        found[f"Outcomes-{part}.txt"] = (header + rows).encode()
    return found


def made(name: str, files: Files) -> ClinicalTensors | str:
    """Prepare a source; the tensors (in memory), or the text of the named error."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        for file, content in files.items():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_bytes(content)
        try:
            tensors = check_tensors(prepare(name, source, Path(scratch) / "tensors"))
        except ReliFError as error:
            assert not (Path(scratch) / "tensors").exists()
            return str(error)
        arrays = {key: np.array(array) for key, array in tensors.arrays.items()}
        return ClinicalTensors(**{**vars(tensors), "arrays": arrays})


def cells_of(tensors: ClinicalTensors) -> set[tuple[int, int, str]]:
    """Every measured (stay, hour, channel)."""
    row, channel = np.nonzero(tensors.arrays["observed"])
    owner = np.searchsorted(tensors.arrays["offsets"], row, side="right") - 1
    hour = row - tensors.arrays["offsets"][owner]
    names = [item.name for item in tensors.channels]
    return {
        (int(tensors.arrays["stays"][stay]), int(at), names[code])
        for stay, at, code in zip(owner, hour, channel, strict=True)
    }


@cache
def expected(name: str) -> tuple[set[tuple[int, int, str]], str]:
    tensors = made(name, base(name))
    assert isinstance(tensors, ClinicalTensors)
    return cells_of(tensors), said(tensors)


def said(tensors: ClinicalTensors) -> str:
    """Everything that the manifest says of rows, drops and cohort."""
    told = {key: tensors.manifest[key] for key in ("cohort", "notes")}
    counted = {key: tensors.manifest["options"].get(key) for key in ("counts", "event_rows", "validation")}
    return json.dumps([told, counted])


def lines_of(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def with_cells(content: bytes, column: int, odd: str, rows: Callable[[int], bool]) -> bytes:
    text = [line.rstrip(b"\n").split(b",") for line in lines_of(content)]
    cell = (f'"{odd}"' if "," in odd else odd).encode()
    for number, line in enumerate(text[1:]):
        if rows(number):
            line[column] = cell
    return b"".join(b",".join(line) + b"\n" for line in text)


@st.composite
def told_mutations(draw: Any, name: str) -> tuple[Files, bool, bool]:
    """A source with one fault; whether it may pass unsaid, and whether it hits a whole table or column."""
    files = dict(base(name))
    file = draw(st.sampled_from(sorted(files)))
    lines = lines_of(files[file])
    header = lines[0].decode().strip().lower().split(",")
    kind = draw(st.sampled_from(FAULTS))
    row = draw(st.integers(1, len(lines) - 1))
    free, whole = False, kind in ("column", "header", "empty", "half")
    if kind in ("cell", "column"):
        column, odd = draw(st.integers(0, len(header) - 1)), draw(st.sampled_from(ODD))
        free = header[column] in NAMES or (header[column], odd) in FREE[name == "physionet2012"]
        everywhere = kind == "column"
        files[file] = with_cells(files[file], column, odd, lambda at: everywhere or at + 1 == row)
    elif kind == "drop":
        free = name == "physionet2012"  # A file's lines are all there is: nothing tells how many there were.
        files[file] = b"".join(lines[:row] + lines[row + 1 :])
    elif kind == "repeat":
        files[file] = b"".join([*lines, lines[row]])
    elif kind == "short":
        files[file] = b"".join([*lines[:row], lines[row][: len(lines[row]) // 2] + b"\n", *lines[row + 1 :]])
    elif kind == "header":
        free = name == "physionet2012" and file.startswith("set")  # A stay may have no reading at all.
        files[file] = lines[0]
    elif kind == "empty":
        files[file] = b""
    elif kind == "gone":
        del files[file]
    else:
        files[file] = b"".join(lines)[: len(b"".join(lines)) // 2]
        free = True  # Half a plain file may end at a row's end; only a twin or a checksum tells.
    return files, free, whole


def judge(name: str, files: Files, free: bool, whole: bool) -> None:
    """The end is a named error, or tensors of which every loss is said."""
    found = made(name, files)
    if isinstance(found, str):
        assert found
        assert len(found) < 1500
        return
    before, told = expected(name)
    lost = before - cells_of(found)
    if lost and not free:
        assert said(found) != told, f"{len(lost)} cells lost in silence"
        if whole:
            assert len(lost) <= len(before) / 2, "a table or column lost below no ceiling"


@st.composite
def raw_mutations(draw: Any, name: str) -> Files:
    """A source with bytes changed, put in, cut off or packed at random places of some files."""
    files = dict(base(name))
    for file in draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=3)):
        content = files[file]
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(("flip", "insert", "cut", "pack", "swap", "rename", "double")))
        if kind == "flip":
            content = content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
        elif kind == "insert":
            content = content[:place] + draw(st.binary(min_size=1, max_size=40)) + content[place:]
        elif kind == "cut":
            content = content[:place]
        elif kind == "pack":
            content = gzip.compress(content)[: draw(st.integers(1, 10_000))]
        elif kind == "swap":
            content = content.replace(b",", draw(st.sampled_from((b";", b"\t", b"|", b", "))))
        elif kind == "rename":
            content = content.replace(content.split(b",")[0], draw(st.binary(min_size=1, max_size=9)), 1)
        else:
            content += content
        files[file] = content
    return files


SOURCES = ("mimic3", "eicu", "physionet2012")


def fuzzed(name: str, examples: int) -> None:
    """Judge mutated inputs: half of them of the kinds that can be told, half of any bytes."""

    @settings(max_examples=examples // 2, **SETTINGS)
    @given(told_mutations(name))
    def tell(drawn: tuple[Files, bool, bool]) -> None:
        judge(name, *drawn)

    @settings(max_examples=examples // 2, **SETTINGS)
    @given(raw_mutations(name))
    def endure(files: Files) -> None:
        made(name, files)

    tell()
    endure()


@pytest.mark.parametrize("name", SOURCES)
def test_mutated_sources_end_whole_or_by_name(name: str) -> None:
    """No raw traceback, and no loss in silence or above the ceilings."""
    fuzzed(name, NORMAL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_thousands_of_mutated_sources_end_whole_or_by_name(name: str) -> None:
    """The same at length: 2,100 inputs in all."""
    fuzzed(name, SLOW)


def test_the_judge_sees_a_silent_loss() -> None:
    """The oracle itself: tensors of fewer rows that say nothing are a failure, and an error is not."""
    rows = lines_of(base("mimic3")["LABEVENTS.csv"])
    late = [row.replace(b"2150-03-01", b"2150-01-01").replace(b"2150-03-02", b"2150-01-02") for row in rows]
    with pytest.raises(AssertionError, match="lost in silence"):
        judge("mimic3", base("mimic3") | {"LABEVENTS.csv": b"".join(late)}, free=False, whole=True)
    assert isinstance(made("mimic3", {"LABEVENTS.csv": b"".join(rows)}), str)
    with pytest.raises(DataError):
        prepare("mimic3", Path(__file__).parent, "/nowhere/tensors")
