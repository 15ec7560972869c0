"""Finding and scanning the tables of a MIMIC-III folder: CSV or CSV.gz, names and headers in either case."""

import csv
import gzip
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from relif_core.errors import DataError

TABLES: Mapping[str, tuple[str, ...]] = {
    "icustays": (
        "subject_id",
        "hadm_id",
        "icustay_id",
        "dbsource",
        "first_careunit",
        "last_careunit",
        "first_wardid",
        "last_wardid",
        "intime",
        "outtime",
        "los",
    ),
    "admissions": (
        "subject_id",
        "hadm_id",
        "admittime",
        "dischtime",
        "deathtime",
        "ethnicity",
        "hospital_expire_flag",
    ),
    "patients": ("subject_id", "gender", "dob", "dod"),
    "diagnoses_icd": ("subject_id", "hadm_id", "icd9_code"),
    "d_icd_diagnoses": ("icd9_code",),
    "chartevents": (
        "subject_id",
        "hadm_id",
        "icustay_id",
        "itemid",
        "charttime",
        "value",
        "valueuom",
        "error",
    ),
    "labevents": ("subject_id", "hadm_id", "itemid", "charttime", "value", "valueuom"),
    "outputevents": ("subject_id", "hadm_id", "icustay_id"),
}
"""The tables that are read and the columns that each must have; other tables and columns are ignored."""

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
LEVELS, MOST_FOLDERS = 4, 1000
NULL_TEXTS = ("NULL", "\\N")
"""What mysql, hive and postgres write for a missing cell."""
READ_ERRORS = (pl.exceptions.PolarsError, OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Table:
    """One source table: its name in lower case, its file and its header as written."""

    name: str
    path: Path
    header: tuple[str, ...]

    def has(self, column: str) -> bool:
        """Say whether the table has a column, whatever its case."""
        return column in {name.lower() for name in self.header}


def find_tables(source: Path) -> dict[str, Table]:
    """Return the tables of ``TABLES`` in a folder, or in the one up to four levels below it; headers checked.

    A plain file is preferred to a compressed one of the same table.

    Raises:
        DataError: A missing table or column, with what the folder holds instead, or a plain file of another
            size than its compressed twin's content.
    """
    source = _located(Path(source))
    if not source.is_dir():
        raise DataError(f"{source} is not a folder; name the folder that holds the MIMIC-III CSV files")
    files: dict[str, Path] = {}
    for path in sorted(source.iterdir(), key=lambda entry: entry.suffix.lower() != ".csv"):
        if (stem := _table_name(path)) in TABLES and files.setdefault(stem, path) != path:
            _refuse_half_unpacked(files[stem], path)
    missing = sorted(name.upper() for name in TABLES.keys() - files.keys())
    if missing:
        raise DataError(
            f"{source}: no CSV or CSV.gz file for {', '.join(missing)}; copy the missing MIMIC-III tables"
            " there"
        )
    return {name: _open(name, files[name]) for name in TABLES}


def _table_name(path: Path) -> str:
    return re.sub(r"\.csv(\.gz)?$", "", path.name.lower()) if ".csv" in path.name.lower() else ""


def _located(source: Path) -> Path:
    """Return the folder of the tables: ``source``, or the only one below; ``DataError`` if neither."""
    if not source.is_dir() or any(_table_name(path) in TABLES for path in source.iterdir()):
        return source
    below = [source]
    for folder in below:
        if len(folder.relative_to(source).parts) < LEVELS and len(below) < MOST_FOLDERS:
            below += sorted(
                path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
            )
    holders = [
        folder
        for folder in below
        if len({_table_name(path) for path in folder.iterdir()} & TABLES.keys()) > 5
    ]
    if len(holders) == 1:
        return holders[0]
    around = [
        folder for folder in (source.parent, source.parent.parent) if (folder / "ICUSTAYS.csv.gz").is_file()
    ]
    entries = {path.name.lower() for folder in below[:MOST_FOLDERS] for path in folder.iterdir()}
    stems = {name.split(".")[0] for name in entries}
    if holders or around:
        found = ", ".join(str(folder) for folder in (holders or around)[:5])
        reason = f"MIMIC-III tables lie in {found}; name that folder"
    elif {"hosp", "icu"} <= entries:
        reason = "these are the tables of MIMIC-IV, which is not read; fetch MIMIC-III 1.4"
    elif {"patient", "vitalperiodic"} <= stems or {"patient", "vitalaperiodic"} <= stems:
        reason = "these are the tables of eICU: relif data eicu"
    elif any(name.endswith(".parquet") for name in entries):
        reason = "it holds parquet files; write the tables as CSV or CSV.gz"
    elif any(name.endswith((".db", ".sqlite", ".sqlite3", ".duckdb")) for name in entries):
        reason = "it holds a database file; export its tables as CSV or CSV.gz"
    else:
        return source
    raise DataError(f"{source}: no MIMIC-III table is there: {reason}")


def _refuse_half_unpacked(plain: Path, packed: Path) -> None:
    """Raise where a plain file has another size than its compressed twin's end states."""
    with open(packed, "rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - 4))
        stated = int.from_bytes(stream.read(4), "little")
    if stated != plain.stat().st_size % 2**32:
        raise DataError(
            f"{plain} is not the content of {packed.name} beside it: one of the two is not whole; remove"
            " that one"
        )


def _open(name: str, path: Path) -> Table:
    """Read a table's header and refuse a table without the columns that are needed."""
    try:
        opener = gzip.open if path.name.lower().endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as stream:
            header = tuple(next(csv.reader(stream), ()))
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    lower = [column.lower() for column in header]
    absent = [column.upper() for column in TABLES[name] if column not in lower]
    if absent and "stay_id" in lower:
        raise DataError(f"{path} is a table of MIMIC-IV, which is not read; fetch MIMIC-III 1.4")
    if absent:
        raise DataError(
            f"{path}: column {', '.join(absent)} missing (found {', '.join(header)}); "
            "take the file as PhysioNet delivers it"
        )
    if not path.name.lower().endswith(".gz"):
        _refuse_cut_off(path, len(header))
    return Table(name, path, header)


def _refuse_cut_off(path: Path, columns: int) -> None:
    """Raise where a plain file ends within a row; compressed files carry their own checksum."""
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 65536))
        tail = stream.read()
    if tail.endswith(b"\n"):
        return
    last = tail.rpartition(b"\n")[2].decode(errors="replace")
    if len(next(csv.reader([last]), ())) != columns:
        raise DataError(f"{path} ends in the middle of a row: the copy is cut off; fetch the file again")


def unreadable(path: Path, error: BaseException) -> DataError:
    """Return the ``DataError`` for a file that could not be read through."""
    if found := re.search(r"(?:at|failed in) column '([^']+)'", str(error)):
        return DataError(
            f"{path} cannot be read: a cell of column {found[1].upper()} is no number; mend that row or fetch"
            " the file again"
        )
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return DataError(
        f"{path} cannot be read: {reason}; compare its size and sha256 with the official ones and fetch it"
        " again"
    )


def scan(
    table: Table, columns: Mapping[str, pl.DataType | type[pl.DataType]], *, by_text: bool = False
) -> pl.LazyFrame:
    """Return a lazy scan of some columns of a table, names in lower case, with the given types.

    Args:
        table: The table.
        columns: Type by name in lower case.
        by_text: Read numbers by way of their texts: slower, but padded ones and whole numbers written as
            ``145834.0`` are read.
    """
    written = {column.lower(): column for column in table.header}
    schema = {name: pl.String if by_text else columns.get(name.lower(), pl.String) for name in table.header}
    lazy = pl.scan_csv(
        table.path, glob=False, schema=schema, encoding="utf8-lossy", null_values=[*NULL_TEXTS]
    )
    return lazy.select(
        (_typed(written[column], kind) if by_text and kind != pl.String else pl.col(written[column])).alias(
            column
        )
        for column, kind in columns.items()
    )


def _typed(column: str, kind: pl.DataType | type[pl.DataType]) -> pl.Expr:
    text = pl.col(column).str.strip_chars().replace(["", *NULL_TEXTS], None)
    return (text.str.replace(r"\.0+$", "") if kind != pl.Float64 else text).cast(kind)


def time_of(column: pl.Expr) -> pl.Expr:
    """Return the time that a text states, null where it states none.

    ``YYYY-MM-DD HH:MM:SS``, also with T for the space, a fraction of zeros, and UTC, Z or an offset of zero
    behind it.
    """
    text = column.str.strip_chars()
    plain = text.str.slice(19).str.contains(r"^(\.0+)?( ?UTC|Z|[+-]00(:?00)?)?$")
    head = text.str.slice(0, 19).str.replace("T", " ", literal=True)
    return pl.when(plain).then(head).str.to_datetime(TIME_FORMAT, strict=False, time_unit="us")


def read(table: Table, columns: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
    """Read some columns of a (small) table whole; ``DataError`` where it is damaged."""
    try:
        return (
            scan(table, columns, by_text=True)
            .with_columns(pl.selectors.string().str.strip_chars().replace(["", *NULL_TEXTS], None))
            .collect()
        )
    except READ_ERRORS as error:
        raise unreadable(table.path, error) from error


def parse_times(frame: pl.DataFrame, columns: tuple[str, ...], table: Table, key: str) -> pl.DataFrame:
    """Turn text columns into datetimes, empty text into null; ``DataError`` names any other row."""
    parsed = frame.with_columns(time_of(pl.col(column)).alias(f"{column} parsed") for column in columns)
    for column in columns:
        bad = parsed.filter(
            pl.col(f"{column} parsed").is_null() & (pl.col(column).fill_null("").str.len_bytes() > 0)
        )
        if bad.height:
            raise DataError(
                f"{table.path}: {key} {bad[key][0]} has {column.upper()} {bad[column][0]!r}, "
                "which is no time of the form YYYY-MM-DD HH:MM:SS; mend the row or fetch the file again"
            )
    return parsed.with_columns(pl.col(f"{column} parsed").alias(column) for column in columns).drop(
        f"{column} parsed" for column in columns
    )
