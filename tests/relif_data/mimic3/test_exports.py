"""Tables as databases and spreadsheets export them give the tensors of PhysioNet's own tables."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from relif_core.errors import DataError, InputError
from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data.mimic3 import prepare
from relif_data.mimic3.preparation import read_subject_list

TIMED = ("intime", "outtime", "admittime", "dischtime", "deathtime", "dob", "dod", "charttime")
IDS = ("subject_id", "hadm_id", "icustay_id", "itemid", "first_wardid", "last_wardid", "hospital_expire_flag")


def with_events(tables: Any) -> Any:
    """Give two stays numbers, words and laboratory values with a unit."""
    for hour in range(1, 20):
        tables.event(1, 211, hour, str(60 + hour), "bpm")
        tables.event(2, 184, hour, "4 Spontaneously")
        tables.event(2, 50931, hour, f"{90 + hour}", "mg/dL", table="labevents")
    return tables


def changed(tables: Any, columns: tuple[str, ...], change: Callable[[Any], Any], only: str = "") -> None:
    """Change cells of some columns in all tables, or in one."""
    for name, rows in tables.rows.items():
        for row in rows:
            if only in ("", name):
                row.update({key: change(row[key]) for key in columns if key in row})


def tensors(tables: Any, folder: Path, **options: Any) -> ClinicalTensors:
    """Prepare and verify."""
    return check_tensors(prepare(tables.write(folder / "raw"), folder / "tensors", **options))


def same(found: ClinicalTensors, expected: ClinicalTensors) -> None:
    """Every array is equal."""
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)


def written(form: str) -> Callable[[Any], Any]:
    """Turn a time into text of a form."""
    return lambda time: time and time.strftime(form)


EXPORTS = {
    "T": (TIMED, written("%Y-%m-%dT%H:%M:%S")),
    "UTC": (TIMED, written("%Y-%m-%d %H:%M:%S UTC")),
    "fraction": (TIMED, written("%Y-%m-%d %H:%M:%S.000")),
    "offset": (TIMED, written("%Y-%m-%d %H:%M:%S+00:00")),
    "T, fraction and Z": (TIMED, written("%Y-%m-%dT%H:%M:%S.000Z")),
    "floats": (IDS, lambda value: f"{value}.0"),
    "NULL": (
        ("value", "valueuom", "error", "deathtime", "dod"),
        lambda cell: "NULL" if cell is None else cell,
    ),
    "backslash N": (("value", "valueuom", "deathtime", "dod"), lambda cell: "\\N" if cell is None else cell),
    "padded": (
        (*IDS, "value", "valueuom", "gender", "ethnicity", "first_careunit", "last_careunit", "icd9_code"),
        lambda cell: cell if cell is None else f"{cell}".ljust(24),
    ),
    "words for sex": (("gender",), {"F": "Female", "M": "Male"}.get),
    "lower case": (("ethnicity",), str.lower),
    "capitals": (("ethnicity",), str.title),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_read_as_delivered(two_stays: Any, tmp_path: Path, name: str) -> None:
    """Other notations of time, number, missing cell, sex and ethnicity change no array."""
    tables = with_events(two_stays)
    tables.rows["patients"][1]["gender"] = "M"
    expected = tensors(tables, tmp_path / "expected")
    assert expected.arrays["groups/sex"].tolist() == [1, 2]
    assert expected.arrays["groups/ethnicity"].tolist() == [4, 4]
    tables.event(1, 50931, 3.0, None, table="labevents")
    tables.event(1, 211, 3.5, None)
    changed(tables, *EXPORTS[name])
    same(tensors(tables, tmp_path / "found"), expected)


def test_a_time_with_another_offset_is_not_guessed(two_stays: Any, tmp_path: Path) -> None:
    """An hour's shift, a fraction or text behind a time makes it unreadable, not another time."""
    tables = with_events(two_stays)
    for tail in ("+01:00", ".500", " PM"):
        tables.event(1, 211, 2.0, "200", charttime=f"2150-03-01 12:30:00{tail}")
    found = tensors(tables, tmp_path)
    assert found.manifest["options"]["counts"]["unreadable_time"] == 3
    assert found.arrays["values"][:, found.columns.index("Heart Rate")].max() == 80


def test_times_of_one_table_are_judged_by_its_wanted_rows(two_stays: Any, tmp_path: Path) -> None:
    """A small table whose times are all lost is an error, however many rows the others have."""
    tables = with_events(two_stays)
    for minute in range(2000):
        tables.event(1, 211, minute / 60, "80")
    changed(tables, ("charttime",), lambda time: time.strftime("%d.%m.%Y %H:%M"), only="labevents")
    with pytest.raises(
        DataError, match=r"LABEVENTS\.csv: 19 of 19 wanted rows .* \(first: data row 2\); expected YYYY"
    ):
        prepare(tables.write(tmp_path / "raw"), tmp_path / "tensors")


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("value", "7,35", "have .* a value that cannot be read"),
        ("value", None, "have .* no value"),
        ("valueuom", "grains", "have .* a unit that no rule knows"),
    ],
)
def test_a_channel_that_is_lost_is_named(
    two_stays: Any, tmp_path: Path, column: str, cell: str | None, words: str
) -> None:
    """Over half of a channel's wanted rows lost to one cause is a named error; fewer are counted."""
    tables = with_events(two_stays)
    rows = tables.rows["labevents"]
    for row in rows[4:]:
        row[column] = cell
        row["itemid"] = 50931 if column == "value" else 51478
    if column == "valueuom":
        for row in tables.rows["chartevents"]:
            if row["itemid"] == 184:
                row.update(itemid=763, value="70", valueuom=cell)
    with pytest.raises(DataError, match=rf"\.csv: \d+ of \d+ wanted rows of \w+ {words}"):
        prepare(tables.write(tmp_path / "raw"), tmp_path / "tensors")


CODES = ("4019", "0389", "0039", "V3000", "5849", "E8889", "00845", "486", "25000")
NOTATIONS = {
    "floats": lambda code: f"{code}.0" if code.isdigit() else code,
    "points": lambda code: (
        f"{code[:4]}.{code[4:]}" if code[0] == "E" else f"{code[:3]}.{code[3:]}".rstrip(".")
    ),
    "lower case": str.lower,
    "no leading zeros": lambda code: code.lstrip("0"),
    "floats without zeros": lambda code: f"{int(code)}.0" if code.isdigit() else code,
}


def diagnosed(tables: Any) -> Any:
    """Give the first stay one diagnosis of each code, and the dictionary all of them."""
    for code in CODES:
        tables.add("diagnoses_icd", subject_id=1, hadm_id=1001, seq_num=2, icd9_code=code)
        tables.add("d_icd_diagnoses", icd9_code=code)
    return tables


@pytest.mark.parametrize("options", [{}, {"compatibility": "benchmark"}])
@pytest.mark.parametrize("name", NOTATIONS)
def test_notations_of_codes_keep_the_phenotypes(
    two_stays: Any, tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    """Floats, points, lower case and lost zeros give the phenotypes of the codes as delivered."""
    tables = diagnosed(two_stays)
    expected = tensors(tables, tmp_path / "expected", **options)
    assert expected.arrays["labels/phenotypes"].sum(axis=1).tolist() == [5, 1]
    changed(tables, ("icd9_code",), NOTATIONS[name], only="diagnoses_icd")
    same(tensors(tables, tmp_path / "found", **options), expected)


def test_codes_that_cannot_be_known_are_refused(two_stays: Any, tmp_path: Path) -> None:
    """ICD-10, a zero lost from one of two possible codes, and a dictionary without zeros are named errors."""
    tables = diagnosed(two_stays)
    changed(tables, ("icd9_code",), lambda code: code.lstrip("0"), only="diagnoses_icd")
    # 410.1 and 041.01, an infarction and a streptococcus, are both 4101 without the zero.
    tables.add("diagnoses_icd", subject_id=1, hadm_id=1001, seq_num=2, icd9_code="41011")
    tables.add("d_icd_diagnoses", icd9_code="4101")
    tables.add("d_icd_diagnoses", icd9_code="04101")
    prepare(tables.write(tmp_path / "a"), tmp_path / "tensors_a")
    tables.add("diagnoses_icd", subject_id=1, hadm_id=1001, seq_num=2, icd9_code="4101")
    with pytest.raises(
        DataError, match=r"1 of 13 rows could be either of two codes .* \(first: data row 13\)"
    ):
        prepare(tables.write(tmp_path / "b"), tmp_path / "tensors_b")
    changed(tables, ("icd9_code",), lambda code: code.lstrip("0"), only="d_icd_diagnoses")
    tables.add("d_icd_diagnoses", icd9_code="10")
    with pytest.raises(
        DataError, match=r"DIAGNOSES_ICD\.csv, D_ICD.* lost their leading zeros; export them again"
    ):
        prepare(tables.write(tmp_path / "c"), tmp_path / "tensors_c")
    changed(tables, ("icd9_code",), lambda code: "I10" if code == "4019" else code, only="diagnoses_icd")
    tables.rows["d_icd_diagnoses"].clear()
    tables.add("d_icd_diagnoses", icd9_code="0389")
    tables.rows["diagnoses_icd"][-1]["icd9_code"] = "5849"
    with pytest.raises(DataError, match=r"1 of 13 rows is a code of ICD-10 \(first: data row 3\)"):
        prepare(tables.write(tmp_path / "d"), tmp_path / "tensors_d")


def test_lengths_in_another_unit_are_refused(raw_tables: Any, tmp_path: Path) -> None:
    """LOS in minutes contradicts OUTTIME - INTIME and is refused; one wrong stay of twenty is not."""
    tables = raw_tables()
    for stay in range(1, 21):
        tables.stay(stay)
    tables.rows["icustays"][6]["los"] = -0.5
    assert len(tensors(tables, tmp_path / "a").arrays["stays"]) == 19
    changed(tables, ("los",), lambda days: days * 1440, only="icustays")
    with pytest.raises(
        DataError,
        match=r"ICUSTAYS\.csv: LOS of 20 of 20 stays .* the middle ratio is 1440\); give LOS in days",
    ):
        prepare(tables.write(tmp_path / "b"), tmp_path / "tensors")


@pytest.mark.parametrize("days", ["inf", "-inf", "nan", 1e8, 367])
def test_lengths_without_end_are_no_lengths(raw_tables: Any, tmp_path: Path, days: Any) -> None:
    """A LOS that is endless or over a year counts as unknown; more than ten, and 1 % of all, are an error."""
    tables = raw_tables()
    for stay in range(1, 121):
        tables.stay(stay)
    rows = tables.rows["icustays"]
    rows[6]["los"] = days
    found = tensors(tables, tmp_path / "a")
    assert len(found.arrays["stays"]) == 119
    steps = {step["rule"]: step["removed"] for step in found.manifest["cohort"]}
    assert steps["the length of stay is known and above 0"] == 1
    for row in rows[6:17]:
        row["los"] = days
    with pytest.raises(
        DataError, match=r"ICUSTAYS\.csv: LOS of 11 of 120 stays is over 366 days .* \(first: data row 7\)"
    ):
        prepare(tables.write(tmp_path / "b"), tmp_path / "tensors")


OPEN, CLOSED = "# Open Database License (ODbL)\n", "The PhysioNet Credentialed Health Data License\n"


@pytest.mark.parametrize(
    ("files", "policy"),
    [
        ({"LICENSE.md": OPEN}, "person"),
        ({"LICENSE.md": OPEN, "licenses/other.txt": CLOSED}, "person"),
        ({"LICENSE.md": OPEN, "LICENSE.txt": CLOSED}, "aggregate"),
        ({"LICENSE.md": CLOSED, "LICENSE.txt": OPEN}, "aggregate"),
        ({"licenses/LICENSE.md": OPEN}, "aggregate"),
        ({}, "aggregate"),
    ],
)
def test_every_licence_file_must_be_open(
    two_stays: Any, tmp_path: Path, files: dict[str, str], policy: str
) -> None:
    """The output policy follows the licence files beside the tables, the stricter one where they differ."""
    raw = two_stays.write(tmp_path / "raw")
    for name, text in files.items():
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_text(text)
    assert check_tensors(prepare(raw, tmp_path / "tensors")).manifest["output_policy"] == policy


def test_a_licence_that_cannot_be_read_is_named_before_the_tables_are(
    monkeypatch: pytest.MonkeyPatch, two_stays: Any, tmp_path: Path
) -> None:
    """Hours of reading do not come first."""
    raw = two_stays.write(tmp_path / "raw")
    (raw / "LICENSE").write_text(OPEN)
    monkeypatch.setattr("relif_core.files.MOST_JSON", 9)
    said: list[str] = []
    with pytest.raises(InputError, match=r"LICENSE cannot be read"):
        prepare(raw, tmp_path / "tensors", progress=said.append)
    assert said == []


def test_tables_below_the_named_folder_are_found(two_stays: Any, tmp_path: Path) -> None:
    """A download's top folder is enough if one folder below holds the tables; two such are named."""
    expected = tensors(two_stays, tmp_path / "expected")
    top = tmp_path / "top"
    two_stays.write(top / "physionet.org" / "files" / "mimiciii" / "1.4")
    same(check_tensors(prepare(top, tmp_path / "found")), expected)
    two_stays.write(top / "copy")
    with pytest.raises(DataError, match=r"tables lie in .*copy, .*1\.4; name that folder"):
        prepare(top, tmp_path / "two")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("hosp/patients.csv.gz", "icu/icustays.csv.gz"), "MIMIC-IV"),
        (("patient.csv.gz", "vitalPeriodic.csv.gz"), "eICU: relif data eicu"),
        (("train/listfile.csv",), "one task folder of the MIMIC-III benchmark; name the folder above"),
        (("mimic3.db",), "database file; export"),
    ],
)
def test_other_sources_are_recognised(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    """A folder without the tables is called what it is."""
    for file in files:
        (tmp_path / "raw" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / file).write_bytes(b"")
    with pytest.raises(DataError, match=words):
        prepare(tmp_path / "raw", tmp_path / "tensors")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_half_unpacked_table_beside_the_whole_one(two_stays: Any, tmp_path: Path, share: float) -> None:
    """A plain file cut at a line's end, or its header alone, is refused beside its whole .gz."""
    tables = with_events(two_stays)
    raw = tables.write(tmp_path / "raw")
    plain = raw / "CHARTEVENTS.csv"
    content = plain.read_bytes()
    (raw / "CHARTEVENTS.csv.gz").write_bytes(gzip.compress(content, 1))
    check_tensors(prepare(raw, tmp_path / "whole"))
    lines = content.splitlines(keepends=True)
    plain.write_bytes(b"".join(lines[: 1 + int(share * len(lines))]))
    with pytest.raises(DataError, match=r"CHARTEVENTS\.csv is not the content of CHARTEVENTS\.csv\.gz"):
        prepare(raw, tmp_path / "tensors")


@pytest.mark.parametrize("end", [b"", gzip.compress(b"", mtime=0)])
def test_a_packed_file_of_several_members_beside_its_content(
    two_stays: Any, tmp_path: Path, end: bytes
) -> None:
    """Members behind one another, also the empty last one of bgzip, are one file; a part is not whole."""
    raw = with_events(two_stays).write(tmp_path / "raw")
    content = (raw / "CHARTEVENTS.csv").read_bytes()
    packed = raw / "CHARTEVENTS.csv.gz"
    packed.write_bytes(gzip.compress(content[:300]) + gzip.compress(content[300:]) + end)
    check_tensors(prepare(raw, tmp_path / "whole"))
    for damaged in (packed.read_bytes()[:-9], gzip.compress(content) + gzip.compress(b"9")):
        packed.write_bytes(damaged)
        with pytest.raises(DataError, match=r"CHARTEVENTS\.csv is not the content of CHARTEVENTS\.csv\.gz"):
            prepare(raw, tmp_path / "tensors")


def test_parquet_tables_are_read(two_stays: Any, tmp_path: Path) -> None:
    """Typed parquet tables (numbers, times, texts) give the arrays of the CSV files."""
    raw = with_events(two_stays).write(tmp_path / "raw")
    (tmp_path / "parquet").mkdir()
    for path in raw.iterdir():
        frame = pl.read_csv(path, try_parse_dates=True)
        frame.write_parquet(tmp_path / "parquet" / f"{path.stem.lower()}.parquet")
    for mode in ("benchmark", "repaired"):
        expected = check_tensors(prepare(raw, tmp_path / f"a{mode}", compatibility=mode))
        same(
            check_tensors(prepare(tmp_path / "parquet", tmp_path / f"b{mode}", compatibility=mode)), expected
        )


def test_numbered_parts_are_one_table(two_stays: Any, tmp_path: Path) -> None:
    """CHARTEVENTS in parts gives the arrays of the whole; a missing part, or both forms, are refused."""
    raw = with_events(two_stays).write(tmp_path / "raw")
    expected = check_tensors(prepare(raw, tmp_path / "expected"))
    header, *rows = (raw / "CHARTEVENTS.csv").read_bytes().splitlines(keepends=True)
    whole = (raw / "CHARTEVENTS.csv").rename(tmp_path / "whole.csv")
    for part in (1, 2, 3):
        content = gzip.compress(header + b"".join(rows[part - 1 :: 3]))
        (raw / f"CHARTEVENTS_{part}.csv.gz").write_bytes(content)
    found = check_tensors(prepare(raw, tmp_path / "found"))
    same(found, expected)
    assert [file["name"] for file in found.manifest["sources"] if "CHART" in file["name"]] == [
        f"CHARTEVENTS_{part}.csv.gz" for part in (1, 2, 3)
    ]
    shutil.copy(whole, raw / "CHARTEVENTS.csv")
    with pytest.raises(DataError, match="'chartevents' lies in two files"):
        prepare(raw, tmp_path / "both")
    (raw / "CHARTEVENTS.csv").unlink()
    twice = shutil.copy(raw / "CHARTEVENTS_2.csv.gz", raw / "CHARTEVENTS_02.csv.gz")
    with pytest.raises(DataError, match="'chartevents' lies in two files"):
        prepare(raw, tmp_path / "twice")
    twice.unlink()
    (raw / "CHARTEVENTS_2.csv.gz").unlink()
    with pytest.raises(DataError, match="in parts up to 3, but part 2 is missing"):
        prepare(raw, tmp_path / "gap")


def test_tables_that_give_no_value_may_be_missing(two_stays: Any, tmp_path: Path) -> None:
    """Without OUTPUTEVENTS and the dictionary the repaired tensors are the same; the benchmark's need it."""
    raw = with_events(two_stays).write(tmp_path / "raw")
    expected = check_tensors(prepare(raw, tmp_path / "expected"))
    (raw / "OUTPUTEVENTS.csv").unlink()
    (raw / "D_ICD_DIAGNOSES.csv").unlink()
    same(check_tensors(prepare(raw, tmp_path / "found")), expected)
    with pytest.raises(DataError, match="no file for D_ICD_DIAGNOSES; copy"):
        prepare(raw, tmp_path / "benchmark", compatibility="benchmark")


def test_a_packed_name_with_plain_content_is_read(two_stays: Any, tmp_path: Path) -> None:
    """A browser may unpack a .gz without renaming it."""
    raw = with_events(two_stays).write(tmp_path / "raw")
    expected = check_tensors(prepare(raw, tmp_path / "expected"))
    (raw / "CHARTEVENTS.csv").rename(raw / "CHARTEVENTS.csv.gz")
    same(check_tensors(prepare(raw, tmp_path / "found")), expected)


def test_rows_with_other_numbers_of_fields_are_counted(two_stays: Any, tmp_path: Path) -> None:
    """Short and long rows are left out and counted; above ten, and 1 %, they are an error."""
    tables = with_events(two_stays)
    tables.event(1, 211, 30.0, 'said "90",\nthen, 91')
    raw = tables.write(tmp_path / "raw")
    expected = check_tensors(prepare(raw, tmp_path / "expected"))
    path = raw / "CHARTEVENTS.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:20] + b"\n", b"1,2,3,4,5,6,7,8,9,10\n", *lines[2:]]))
    found = check_tensors(prepare(raw, tmp_path / "found"))
    same(found, expected)
    assert found.manifest["options"]["counts"]["short_row"] == 2
    path.write_bytes(b"".join([*lines, *[b"7,8\n"] * 11]))
    with pytest.raises(
        DataError, match=rf"11 of \d+ rows have not the 9 .* \(first: line {len(lines) + 1}\)"
    ):
        prepare(raw, tmp_path / "many")


@pytest.mark.parametrize(
    ("table", "column", "cell"), [("patients", "gender", "w"), ("admissions", "ethnicity", "4")]
)
def test_levels_that_are_none_are_refused(
    raw_tables: Any, tmp_path: Path, table: str, column: str, cell: str
) -> None:
    """Groups that would collapse to "other" are an error, an empty column is none."""
    tables = raw_tables()
    for stay in range(1, 21):
        tables.stay(stay)
    changed(tables, (column,), lambda old: None, only=table)
    check_tensors(prepare(tables.write(tmp_path / "empty"), tmp_path / "a"))
    changed(tables, (column,), lambda old: cell, only=table)
    with pytest.raises(DataError, match=rf"{column.upper()} of 20 of 20 rows is none of"):
        prepare(tables.write(tmp_path / "raw"), tmp_path / "tensors")


@pytest.mark.parametrize("start", [b"\x00\r", b'"', b"<html>\n"])
def test_a_broken_header_is_named(two_stays: Any, tmp_path: Path, start: bytes) -> None:
    """Bytes before the header are an error with the file's name, whatever they are."""
    raw = with_events(two_stays).write(tmp_path / "raw")
    path = raw / "ADMISSIONS.csv"
    path.write_bytes(start + path.read_bytes())
    with pytest.raises(DataError, match=r"ADMISSIONS\.csv"):
        prepare(raw, tmp_path / "tensors")


def test_a_table_with_a_header_alone_is_refused(two_stays: Any, tmp_path: Path) -> None:
    """An empty table is a copy that broke off, whichever it is."""
    for name in ("labevents", "diagnoses_icd", "patients"):
        raw = with_events(two_stays).write(tmp_path / name)
        path = raw / f"{name.upper()}.csv"
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
        with pytest.raises(DataError, match=rf"{name.upper()}\.csv has no row under its header"):
            prepare(raw, tmp_path / "tensors")


def test_a_first_line_that_is_a_row_is_not_told(two_stays: Any, tmp_path: Path) -> None:
    """Of a table without its header the message shows no cell of a person."""
    raw = two_stays.write(tmp_path / "raw")
    path = raw / "PATIENTS.csv"
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    with pytest.raises(DataError, match=r"SUBJECT_ID, GENDER, DOB, DOD missing \(nor any other\)"):
        prepare(raw, tmp_path / "tensors")


@pytest.fixture
def ward(raw_tables: Any) -> Any:
    """Tables of 24 stays, half of which end in death."""
    tables = raw_tables()
    for stay in range(1, 25):
        tables.stay(stay, hours=54.0, died_at=50.0 if stay % 2 else None)
    return tables


@pytest.mark.parametrize(
    ("table", "column", "change", "words"),
    [
        ("admissions", "hospital_expire_flag", lambda cell: None, r"12 of 24 rows have a DEATHTIME"),
        ("admissions", "hospital_expire_flag", lambda cell: cell + 1, r"24 of 24 rows have a DEATHTIME"),
        ("admissions", "deathtime", lambda cell: None, r"HOSPITAL_EXPIRE_FLAG.*\(first: data row 1\)"),
        ("patients", "dob", lambda cell: None, "DOB of 24 of 24 stays is missing or after INTIME"),
        ("patients", "dob", lambda cell: "2200-01-01 00:00:00", "DOB of 24 of 24 stays is missing"),
        ("icustays", "last_careunit", lambda cell: "Medical", "no stay is left after the cohort rule"),
        ("chartevents", "hadm_id", lambda cell: cell + 9000, r"none of the 24 rows of wanted items"),
    ],
)
def test_columns_that_lost_their_meaning_are_refused(
    ward: Any, tmp_path: Path, table: str, column: str, change: Callable[[Any], Any], words: str
) -> None:
    """A death, an age or an admission that many rows do not state, or contradict, is no label and no loss."""
    changed(ward, (column,), change, only=table)
    with pytest.raises(DataError, match=words):
        prepare(ward.write(tmp_path / "raw"), tmp_path / "tensors")


def test_care_units_and_error_marks_have_several_notations(ward: Any, tmp_path: Path) -> None:
    """Units in lower case are the same group; True marks an error as 1 does; other units are refused."""
    ward.event(1, 211, 20.0, "200", error="1")
    expected = tensors(ward, tmp_path / "expected")
    ward.rows["chartevents"][-1]["error"] = "True"
    changed(ward, ("first_careunit", "last_careunit"), str.lower)
    same(tensors(ward, tmp_path / "found"), expected)
    changed(ward, ("first_careunit", "last_careunit"), lambda cell: "Medical")
    with pytest.raises(DataError, match="LAST_CAREUNIT of 24 of 24 rows is none of"):
        prepare(ward.write(tmp_path / "raw"), tmp_path / "tensors")


def test_a_folder_that_may_not_be_read_hides_no_tables(
    monkeypatch: pytest.MonkeyPatch, two_stays: Any, tmp_path: Path
) -> None:
    """Beside the tables, as lost+found on a disk, or above them; one is no reason to fail."""
    two_stays.write(tmp_path / "disk" / "raw")
    closed = (tmp_path, tmp_path / "disk" / "lost+found")
    closed[1].mkdir()
    listed = Path.iterdir

    def entries(folder: Path) -> Any:
        if folder in closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", entries)
    check_tensors(prepare(tmp_path / "disk", tmp_path / "tensors"))
    with pytest.raises(DataError, match="no MIMIC-III table is there"):
        prepare(tmp_path / "disk" / "lost+found", tmp_path / "other")


def test_a_link_back_is_no_second_folder(two_stays: Any, tmp_path: Path) -> None:
    """A symbolic link to the folder itself does not double the tables below it."""
    two_stays.write(tmp_path / "top" / "raw")
    (tmp_path / "top" / "loop").symlink_to(".")
    check_tensors(prepare(tmp_path / "top", tmp_path / "tensors"))


@pytest.mark.parametrize(
    "text", ["\ufeff7\n8\n", "id,listed\n7,1\n9,0\n8,1.0\n", '"7","1"\n"8","1"\n', "7, 1\r\n8, 1\r\n\r\n"]
)
def test_lists_of_subjects_are_read_as_meant(tmp_path: Path, text: str) -> None:
    """A byte order mark, quotes, floats and a header cost no subject."""
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    assert read_subject_list(tmp_path / "list.csv").tolist() == [7, 8]


@pytest.mark.parametrize(
    "text", ["8 0\n", "8\t1\n", "8,2\n", "8;1\n", "8.5\n", "8,inf\n", "9" * 400, "8,0,1\n", "٣\n"]
)
def test_lists_of_subjects_that_could_mean_another_thing_are_refused(tmp_path: Path, text: str) -> None:
    """The line is named, its content not."""
    (tmp_path / "list.csv").write_text(f"subject\n7\n{text}", encoding="utf-8")
    with pytest.raises(DataError, match=r"list\.csv is no subject list \(line 3\); write one"):
        read_subject_list(tmp_path / "list.csv")
