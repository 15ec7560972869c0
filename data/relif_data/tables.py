r"""Raw tables of a hospital's database: found, checked and read in one way, in bounded memory.

A table is a file ``.csv``, ``.csv.gz`` or ``.parquet``, or several of one kind that are numbered
(``CHARTEVENTS_1.csv.gz``, ``CHARTEVENTS_2.csv.gz``), in either case. What a file is its content says, not its
name. A cell that is empty, ``NULL`` or ``\N`` is missing. Rows with too few or too many fields, and numbers
that cannot be read, are counted; above a ceiling they are an error.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl

from relif_core.errors import DataError, listed
from relif_core.files import sha256_of

BLOCK_BYTES, BLOCK_ROWS = 16 << 20, 200_000
LONGEST_RECORD = 1 << 20
#: Share of a table's rows, and number of them, that may be lost to one cause.
LOST_SHARE, FEW = 0.01, 10
#: The same for the values of a channel in a table.
VALUE_SHARE = 0.5
LEVELS, MOST_FOLDERS = 4, 1000
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
NULL_TEXTS = ("NULL", "\\N")
READ_ERRORS = (pl.exceptions.PolarsError, OSError, EOFError, zlib.error)
Types = Mapping[str, pl.DataType | type[pl.DataType]]
_QUOTED = re.compile(rb'"[^"]*"')
_CONTENT = bytes(set(range(256)) - set(b'",\n'))
_NAMED = re.compile(r"(?P<stem>.+?)(?:[_.-]?(?P<part>\d+))?(?P<kind>\.csv|\.csv\.gz|\.parquet)$")


@dataclass
class Table:
    """A source table: its documented name, its files in order, and its columns in lower case.

    Attributes:
        files: Name, bytes, sha256 and rows of each file, once read to the end.
        ragged: Rows left out for their number of fields, once read to the end.
        unreadable: Cells per column that are no numbers, once read to the end.
    """

    name: str
    paths: tuple[Path, ...]
    header: tuple[str, ...]
    files: list[dict[str, Any]] = field(default_factory=list)
    ragged: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    first_ragged: int = 0
    first_unreadable: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The (first) file, for messages."""
        return self.paths[0]

    def stamp(self) -> list[Any]:
        """Return names, sizes and times of change of the files: other ones mean another table."""
        status = [path.stat() for path in self.paths]
        return [
            [path.name, entry.st_size, entry.st_mtime_ns]
            for path, entry in zip(self.paths, status, strict=True)
        ]

    def frames(self, types: Types) -> Iterator[pl.DataFrame]:
        """Yield the columns ``types`` (lower case) in blocks of rows, in file order.

        Whole numbers may be padded or written as ``145834.0``. Other cells become null and are counted.

        Raises:
            DataError: A file that is damaged or cut off, one that holds a header alone, or rows of another
                number of fields above the ceiling.
        """
        self.files, self.unreadable, self.first_unreadable = [], Counter(), {}
        self.ragged = self.rows = self.first_ragged = 0
        for path in self.paths:
            before = self.rows
            try:
                if _starts(path, b"PAR1"):
                    yield from self._parquet(path, types)
                    digest = sha256_of(path)
                else:
                    digest = yield from self._csv(path, types)
            except READ_ERRORS as error:
                raise unreadable(path, error) from error
            entry = {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
            self.files.append(entry | {"rows": self.rows - before})
        rest = f"rows have not the {len(self.header)} fields of the header (first: line {self.first_ragged})"
        refuse_lost(f"{self.path}:", self.ragged, self.rows, f"{rest}; the file was altered: fetch it again")
        if not self.rows:
            raise DataError(f"{self.path} has no row under its header; fetch the file again")

    def read(self, types: Types) -> pl.DataFrame:
        """Return some columns of a small table whole, texts stripped; a cell that is no number is refused.

        Raises:
            DataError: Such a cell, or one over several lines.
        """
        frame = pl.concat(list(self.frames(types)))
        self.refuse_unreadable(0)
        if frame.select(pl.any_horizontal(pl.selectors.string().str.contains("\n").any(), False)).item():
            raise DataError(
                f"{self.path}: a cell runs over several lines; is a quote left open? Fetch it again"
            )
        text = pl.selectors.string().str.strip_chars()
        return frame.with_columns(text.replace(["", *NULL_TEXTS], None))

    def refuse_unreadable(self, few: int = FEW, share: float = 0.0) -> None:
        """Check that in no column over ``few`` cells, and ``share`` of it, are no numbers; ``DataError``."""
        for column, count in self.unreadable.items():
            if count > max(few, share * self.rows):
                raise DataError(
                    f"{self.path} cannot be read: {count:,} cells of column {column.upper()} are no number"
                    f" (first: data row {self.first_unreadable[column]}); mend them or fetch the file again"
                )

    def refuse_repeats(self, frame: pl.DataFrame, key: str) -> None:
        """Check that every row of the table, read as ``frame``, has its own ``key``, or ``DataError``."""
        if missing := frame[key].null_count():
            raise DataError(f"{self.path}: {missing} rows have no {key.upper()}; fetch the file again")
        repeated = frame[key].is_duplicated()
        if repeated.any():
            raise DataError(
                f"{self.path}: {frame[key].filter(repeated).n_unique()} {key.upper()} stand in more than one"
                f" row (first: data row {first_of(repeated)}); remove the repeated rows"
            )

    def _csv(self, path: Path, types: Types) -> Generator[pl.DataFrame, None, str]:
        """Yield a CSV file's blocks and return the sha256 of the file."""
        with open(path, "rb") as raw:
            hashing = _HashingReader(raw)
            stream = gzip.GzipFile(fileobj=hashing) if _starts(path, b"\x1f\x8b") else hashing
            blocks = _ahead(_whole_lines(stream, path))
            first, place = next(blocks, b"").partition(b"\n")[2], 2
            for block in itertools.chain([first] if first else [], blocks):
                regular, lines = self._regular(path, block, place)
                yield self._frame(regular, types)
                place += lines
            return hashing.digest.hexdigest()

    def _frame(self, block: bytes, types: Types) -> pl.DataFrame:
        """Parse whole lines: numbers directly where they all are plain, else by way of their texts."""
        names = [name if name in types else f"_{place}" for place, name in enumerate(self.header)]
        content = ",".join(names).encode() + b"\n" + block
        common: dict[str, Any] = dict(columns=list(types), encoding="utf8-lossy", null_values=[*NULL_TEXTS])
        try:
            frame = pl.read_csv(content, glob=False, schema_overrides=dict(types), **common)
        except pl.exceptions.ComputeError as error:
            if "could not parse" not in str(error):
                raise
            frame = self._typed(pl.read_csv(content, glob=False, infer_schema=False, **common), types)
        self.rows += frame.height
        return frame.select(*types)

    def _typed(self, texts: pl.DataFrame, types: Types) -> pl.DataFrame:
        """Turn texts into the wanted types; what is no number is counted and null."""
        plain = pl.all().str.strip_chars().replace(["", *NULL_TEXTS], None)
        numbers = texts.select(column for column, kind in types.items() if kind != pl.String).select(plain)
        for column in numbers.columns:
            cells = numbers[column]
            whole = cells if types[column] == pl.Float64 else cells.str.replace(r"\.0*$", "")
            number = whole.cast(types[column], strict=False)
            lost = number.is_null() & cells.is_not_null()
            if lost.any():
                self.unreadable[column] += int(lost.sum())
                self.first_unreadable.setdefault(column, self.rows + int(lost.arg_max() or 0) + 1)
            texts = texts.with_columns(number.alias(column))
        return texts

    def _parquet(self, path: Path, types: Types) -> Iterator[pl.DataFrame]:
        """Yield a parquet file's rows in blocks, every cell by way of its text, as a CSV would state it."""
        lazy = pl.scan_parquet(path, glob=False)
        written = {name.strip().lower(): name for name in lazy.collect_schema()}
        total = lazy.select(pl.len()).collect().item()
        for start in range(0, total, BLOCK_ROWS):
            frame = lazy.slice(start, BLOCK_ROWS).select(
                pl.col(written[column]).alias(column) for column in types
            )
            block = frame.collect().with_columns(
                pl.selectors.boolean().cast(pl.Int8), pl.selectors.date().cast(pl.Datetime("us"))
            )
            texts = self._typed(block.with_columns(pl.all().cast(pl.String)), types)
            self.rows += texts.height
            yield texts

    def _regular(self, path: Path, block: bytes, place: int) -> tuple[bytes, int]:
        """Return a block's rows that have as many fields as the header, and its number of lines."""
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        # What is left of a regular row: no cell, quoted or not, only its separators.
        marks = _QUOTED.sub(b"", block.translate(None, _CONTENT).replace(b'""', b""))
        pattern = b"," * (len(self.header) - 1) + b"\n"
        marks += b"\n" * (not block.endswith(b"\n"))
        if marks == pattern * (len(marks) // len(pattern)):
            return block, lines
        text = np.frombuffer(block, np.uint8)
        outside = ~np.logical_xor.accumulate(text == ord('"'))
        ends = np.flatnonzero((text == ord("\n")) & outside) + 1
        if not block.endswith(b"\n"):
            ends = np.append(ends, len(block))
        starts = np.append(0, ends[:-1])
        separators = np.flatnonzero((text == ord(",")) & outside)
        fields = np.diff(np.searchsorted(separators, np.append(0, ends))) + 1
        blank = (ends - starts <= 2) & (fields == 1) & (len(self.header) > 1)
        wrong = (fields != len(self.header)) & ~blank
        if wrong.any() or blank.any():
            if wrong[-1] and not block.endswith(b"\n"):
                raise DataError(
                    f"{path} ends in the middle of a row ({fields[-1]} of {len(self.header)} fields): the"
                    " copy is cut off; fetch the file again"
                )
            spans = [block.count(b"\n", starts[row], ends[row]) for row in np.flatnonzero(wrong)]
            self.ragged += sum(spans)
            self.rows += sum(spans)
            if wrong.any() and not self.first_ragged:
                self.first_ragged = place + block.count(b"\n", 0, starts[wrong.argmax()])
            kept = ~(wrong | blank)
            block = b"".join(block[start:end] for start, end in zip(starts[kept], ends[kept], strict=True))
        return block, lines


def find_tables(
    source: Path,
    wanted: Mapping[str, Sequence[str]],
    title: str,
    *,
    needed: Collection[str],
    least: int = 1,
) -> dict[str, Table]:
    """Return the wanted tables by lower-case name.

    A plain file is preferred to its packed twin.

    Args:
        source: They lie here, or in the one folder up to four levels below that holds ``least`` of them.
        wanted: Name → columns that it must have.
        title: Of the source, for messages.
        needed: Tables that must all be there.
        least: Number of tables that tell the folder.

    Raises:
        DataError: A table, a part or a column is missing, a table is there twice, a plain file is not the
            content of its packed twin, or the folder holds something else, which is named.
    """
    if not Path(source).is_dir():
        raise DataError(f"{source} is not a folder; name the folder that holds the tables of {title}")
    names = {name.lower(): name for name in wanted}
    folder = _located(Path(source), names.keys(), title, least)
    found: dict[str, dict[str, dict[str, Path]]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (known := _stem(path, names.keys())):
            stem, part, kind = known
            twin = found.setdefault(stem, {}).setdefault(part, {}).setdefault(kind, path)
            if twin != path:
                _refuse_twice(stem, twin, path)
    missing = [name for name in wanted if name in needed and name.lower() not in found]
    if missing:
        raise DataError(f"{folder}: no file for {listed(missing)}; copy the missing {title} tables there")
    return {
        stem: open_table(names[stem], _chosen(stem, found[stem]), wanted[names[stem]])
        for stem in names
        if stem in found
    }


def _stem(path: Path, names: Any) -> tuple[str, str, str] | None:
    """Return table, part ("" where it is whole) and kind of file of a path; None where it is no table."""
    match = _NAMED.fullmatch(path.name.lower())
    if match is None:
        return None
    whole = path.name.lower().removesuffix(match["kind"])
    if whole in names:
        return whole, "", match["kind"]
    if match["stem"] not in names or not match["part"]:
        return None
    return match["stem"], str(int(match["part"])), match["kind"]


def _chosen(stem: str, parts: Mapping[str, Mapping[str, Path]]) -> tuple[Path, ...]:
    """Return the file of a table, or its parts in order."""
    files = {part: _preferred(stem, kinds) for part, kinds in parts.items()}
    if "" in files:
        if len(files) > 1:
            _refuse_twice(stem, files[""], next(path for part, path in files.items() if part))
        return (files[""],)
    numbers = sorted(files, key=int)
    absent = next((place for place in range(1, int(numbers[-1])) if place not in map(int, numbers)), None)
    if absent is not None:
        raise DataError(
            f"{files[numbers[0]].parent}: table {stem} lies there in parts up to {numbers[-1]}, but part"
            f" {absent} is missing; add it"
        )
    return tuple(files[number] for number in numbers)


def _preferred(stem: str, kinds: Mapping[str, Path]) -> Path:
    if len(kinds) == 1:
        return next(iter(kinds.values()))
    if set(kinds) != {".csv", ".csv.gz"}:
        _refuse_twice(stem, *list(kinds.values())[:2])
    plain, packed = kinds[".csv"], kinds[".csv.gz"]
    if not _as_long(packed, plain.stat().st_size):
        raise DataError(
            f"{plain} is not the content of {packed.name} beside it: one of the two is not whole; remove"
            " that one"
        )
    return plain


def _as_long(packed: Path, size: int) -> bool:
    """Say whether a gzip file unpacks to ``size`` bytes: by its last bytes, else by unpacking that many."""
    with open(packed, "rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - 4))
        if int.from_bytes(stream.read(4), "little") == size % 2**32:
            return True
    unpacked = 0
    # A file of several members states the size of the last one only.
    with contextlib.suppress(*READ_ERRORS), gzip.open(packed) as content:
        while unpacked <= size and (block := content.read(BLOCK_BYTES)):
            unpacked += len(block)
        return unpacked == size
    return False


def _refuse_twice(stem: str, one: Path, other: Path) -> NoReturn:
    raise DataError(f"table {stem!r} lies in two files, {one} and {other.name}; keep one")


def _located(source: Path, names: Any, title: str, least: int) -> Path:
    """Return the folder with the tables: ``source``, or the only one below; an error names what is there."""

    def entries(folder: Path) -> list[Path]:
        with contextlib.suppress(PermissionError):  # A disk's lost+found, or a shared folder above.
            return sorted(folder.iterdir())
        return []

    def held(folder: Path) -> int:
        return len({known[0] for path in entries(folder) if (known := _stem(path, names))})

    if held(source):
        return source
    below, seen = [source], {source.resolve()}
    for folder in below:
        if len(folder.relative_to(source).parts) < LEVELS and len(below) < MOST_FOLDERS:
            for path in entries(folder):
                if path.is_dir() and not path.name.startswith(".") and path.resolve() not in seen:
                    below.append(path)
                    seen.add(path.resolve())
    holders = [folder for folder in below if held(folder) >= least]
    if len(holders) == 1:
        return holders[0]
    around = [folder for folder in (source.parent, source.parent.parent) if held(folder) > least > 1]
    files = {path.name.lower() for folder in below[:MOST_FOLDERS] for path in entries(folder)}
    stems = {name.split(".")[0] for name in files}
    if holders or around:
        reason = f"its tables lie in {listed(holders or around)}; name that folder"
    elif (source / "train" / "listfile.csv").is_file():
        reason = f"this is one task folder of the MIMIC-III benchmark; name the folder above, {source.parent}"
    elif {"hosp", "icu"} <= files:
        reason = "these are the tables of MIMIC-IV, which is not read; fetch MIMIC-III 1.4"
    elif "patient" in stems and {"vitalperiodic", "vitalaperiodic"} & stems:
        reason = "these are the tables of eICU: relif data eicu"
    elif {"icustays", "chartevents"} <= stems:
        reason = "these are the tables of MIMIC-III: relif data mimic3"
    elif any(name.endswith((".db", ".sqlite", ".sqlite3", ".duckdb")) for name in files):
        reason = "it holds a database file; export its tables as CSV, CSV.gz or parquet"
    else:
        reason = f"no file there is named after one; give {listed(sorted(names))}"
    raise DataError(f"{source}: no {title} table is there: {reason}")


def open_table(name: str, paths: tuple[Path, ...], columns: Sequence[str]) -> Table:
    """Return a table of some files by their headers; ``DataError`` where a column (lower case) is missing."""
    headers = [_header(path) for path in paths]
    header = headers[0]
    for path, other in zip(paths, headers, strict=True):
        if other != header:
            raise DataError(f"{path} has another header than {paths[0].name}; export the parts in one way")
        absent = [column.upper() for column in columns if column not in header]
        if absent and {"stay_id", "icd_code"} & set(header):
            raise DataError(f"{path} is a table of MIMIC-IV, which is not read; fetch MIMIC-III 1.4")
        if absent:
            # A first line without any wanted name may be a row: its cells are not told.
            found = (
                f"found {listed(map(str.upper, header))}" if set(columns) & set(header) else "nor any other"
            )
            raise DataError(
                f"{path}: column {listed(absent)} missing ({found}); take the file as PhysioNet delivers it,"
                " its first line the names of the columns, separated by commas"
            )
        twice = [column for column in columns if header.count(column) > 1]
        if twice:
            raise DataError(f"{path}: column {twice[0].upper()} stands there twice; remove one")
    return Table(name, paths, header)


def _header(path: Path) -> tuple[str, ...]:
    try:
        if _starts(path, b"PAR1"):
            return tuple(name.strip().lower() for name in pl.scan_parquet(path, glob=False).collect_schema())
        with gzip.open(path) if _starts(path, b"\x1f\x8b") else open(path, "rb") as stream:
            line = stream.readline(LONGEST_RECORD)
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    text = line.decode("utf-8-sig", errors="replace").strip()
    if not text:
        raise DataError(f"{path} is empty; fetch the file again")
    try:
        return tuple(name.strip().lower() for name in next(csv.reader([text]), ()))
    except csv.Error as error:
        raise DataError(f"{path}: its first line is no header of a CSV file; fetch the file again") from error


def unreadable(path: Path, error: BaseException) -> DataError:
    """Return the ``DataError`` for a file that could not be read through."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, pl.exceptions.PolarsError):  # Its text may quote cells.
        reason = "it is no CSV or parquet file that can be parsed"
    return DataError(
        f"{path} cannot be read: {reason}; damaged or truncated? Compare its size and sha256 with"
        " the official ones and fetch it again"
    )


def first_of(rows: pl.Series) -> int:
    """Return the number, from 1, of the first row that is true."""
    return int(rows.arg_max() or 0) + 1


def refuse_lost(head: str, lost: int, rows: int, words: str, share: float = LOST_SHARE) -> None:
    """Check that at most a share of some rows, or ten of them, are lost to one cause, or ``DataError``.

    The message is ``head`` (the place and a colon), both numbers, and ``words`` (what, why, and the mend).
    """
    if lost > max(share * rows, FEW):
        raise DataError(f"{head} {lost:,} of {rows:,} {words}")


def time_of(column: pl.Expr) -> pl.Expr:
    """Return the time that a text states, null where it states none.

    ``YYYY-MM-DD HH:MM:SS``, also with T for the space, a fraction of zeros, and UTC, Z or an offset of zero
    behind it.
    """
    text = column.str.strip_chars()
    plain = text.str.slice(19).str.contains(r"^(\.0+)?( ?UTC|Z|[+-]00(:?00)?)?$")
    head = text.str.slice(0, 19).str.replace("T", " ", literal=True)
    return pl.when(plain).then(head).str.to_datetime(TIME_FORMAT, strict=False, time_unit="us")


def parse_times(frame: pl.DataFrame, columns: Sequence[str], table: Table) -> pl.DataFrame:
    """Turn texts into times; an empty one is null, ``DataError`` names the row of another that is no time."""
    for column in columns:
        times = frame.select(time_of(pl.col(column))).to_series()
        bad = times.is_null() & (frame[column].fill_null("") != "")
        if bad.any():
            raise DataError(
                f"{table.path}: {int(bad.sum()):,} {column.upper()} are no time of the form YYYY-MM-DD"
                f" HH:MM:SS (first: data row {first_of(bad)}); mend the row or fetch the file"
                " again"
            )
        frame = frame.with_columns(times.alias(column))
    return frame


class _HashingReader(io.RawIOBase):
    """A binary file that hashes every byte which passes."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._raw.read(size)
        self.digest.update(data)
        return data


def _starts(path: Path, mark: bytes) -> bool:
    """By content, since a browser may have unpacked a ``.gz`` file without renaming it."""
    with open(path, "rb") as stream:
        return stream.read(len(mark)) == mark


def _whole_lines(stream: Any, path: Path) -> Iterator[bytes]:
    """Cut a byte stream at line ends that lie outside quoted cells."""
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        block = rest + block
        cut = block.rfind(b"\n") + 1
        quotes = block.count(b'"', 0, cut)
        while quotes % 2:
            previous = block.rfind(b"\n", 0, cut - 1) + 1
            quotes -= block.count(b'"', previous, cut)
            cut = previous
        rest = block[cut:]
        if len(rest) > LONGEST_RECORD:
            raise DataError(
                f"{path}: a line or quoted cell is longer than {LONGEST_RECORD} bytes; is this a CSV file,"
                " and is a quote left open? Fetch it again"
            )
        if cut:
            yield block[:cut]
    if rest:
        yield rest


def _ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Fetch (read, hash, decompress) the next block in a thread while the current one is worked on."""
    with ThreadPoolExecutor(1) as pool, contextlib.suppress(StopIteration):
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block
