"""CSV tables as a stream of frames: bounded memory, compressed or not, any case of names, damage named.

A table is read in blocks of whole lines and every cell stays text, so that what is no number can be counted
by the caller.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from relif_core.errors import DataError

BLOCK_BYTES = 32 << 20
LONGEST_RECORD = 1 << 20


@dataclass(frozen=True)
class ReadFile:
    """What the manifest keeps of a source file."""

    name: str
    bytes: int
    sha256: str
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """Return the entry for the manifest's list of sources."""
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256, "rows": self.rows}


def find_tables(*folders: Path) -> dict[str, Path]:
    """Map each table's lower-case name to its ``.csv`` or ``.csv.gz`` file; names may have any case.

    Raises:
        DataError: One table lies there twice.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            name = path.name.lower().removesuffix(".gz")
            if not name.endswith(".csv") or not path.is_file():
                continue
            table = name.removesuffix(".csv")
            if table in found:
                raise DataError(f"table {table!r} lies in two files, {found[table]} and {path}; keep one")
            found[table] = path
    return found


class TableStream:
    """One table, read once from start to end.

    ``columns`` are required, ``optional`` ones are filled with null where the header lacks them; all names
    are compared in lower case. After ``frames`` is exhausted, ``file`` holds size, sha256 and number of rows.

    Raises:
        DataError: An empty file, a missing or repeated column, or a damaged or truncated file.
    """

    def __init__(
        self, table: str, path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> None:
        self.table = table
        self.path = path
        self.columns = columns
        self.optional = optional
        self.rows = 0
        self.file: ReadFile | None = None

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield frames of text columns, named in lower case, in file order."""
        with open(self.path, "rb") as raw:
            hashing = _HashingReader(raw)
            stream = gzip.GzipFile(fileobj=hashing) if _is_gzip(self.path) else hashing
            blocks = _ahead(self._guarded(_whole_lines(stream, self.path)))
            header, rest = self._header(next(blocks, b""))
            self._require_columns(header)
            if rest:
                yield self._frame(rest, header)
            last = rest
            for block in blocks:
                yield self._frame(block, header)
                last = block
            self._check_last_line(last, len(header))
            self.file = ReadFile(
                self.path.name, self.path.stat().st_size, hashing.digest.hexdigest(), self.rows
            )

    def read(self) -> pl.DataFrame:
        """Return the whole table as one frame (for tables that are small)."""
        frames = list(self.frames())
        if not frames:
            return pl.DataFrame(schema=dict.fromkeys((*self.columns, *self.optional), pl.String))
        return pl.concat(frames)

    def _guarded(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from blocks
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{self.path}: the compressed file is truncated or damaged ({error}); download it again"
            ) from error

    def _header(self, block: bytes) -> tuple[list[str], bytes]:
        line, _, rest = block.partition(b"\n")
        text = line.decode("utf-8-sig", errors="replace").strip()
        if not text:
            raise DataError(f"{self.path}: the file is empty; download it again")
        header = [name.strip().lower() for name in next(csv.reader([text]))]
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise DataError(f"{self.path}: table {self.table} names column {repeated[0]!r} twice")
        return header, rest

    def _require_columns(self, header: list[str]) -> None:
        missing = [name for name in self.columns if name not in header]
        if missing:
            raise DataError(
                f"{self.path}: table {self.table} lacks column {', '.join(repr(name) for name in missing)}; "
                f"its header has {', '.join(header)}"
            )

    def _frame(self, block: bytes, header: list[str]) -> pl.DataFrame:
        wanted = [name for name in (*self.columns, *self.optional) if name in header]
        try:
            frame = pl.read_csv(
                ",".join(header).encode() + b"\n" + block,
                glob=False,
                infer_schema_length=0,
                columns=wanted,
                truncate_ragged_lines=True,
                encoding="utf8-lossy",
            )
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"{self.path}: table {self.table} cannot be read as CSV after row {self.rows} "
                f"({str(error).splitlines()[0]})"
            ) from error
        self.rows += frame.height
        absent = [name for name in self.optional if name not in header]
        return frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent).select(
            *self.columns, *self.optional
        )

    def _check_last_line(self, block: bytes, width: int) -> None:
        """A plain file that was cut short ends in the middle of a line."""
        if not block or block.endswith(b"\n"):
            return
        line = block[block.rfind(b"\n") + 1 :].decode("utf-8", errors="replace")
        fields = len(next(csv.reader([line])))
        if fields != width:
            raise DataError(
                f"{self.path}: the last line of table {self.table} has {fields} of {width} fields; "
                "the file is truncated, download it again"
            )


def whole_numbers(text: pl.Series) -> pl.Series:
    """Return texts as whole numbers, also those written as 12.0; null where a text is none."""
    return text.str.strip_chars().str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)


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


def _is_gzip(path: Path) -> bool:
    """By content, since a browser may have unpacked a ``.gz`` file without renaming it."""
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


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
                f"{path}: a line or quoted cell is longer than {LONGEST_RECORD} bytes; "
                "is this a CSV file, and is a quote left open? Download it again"
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
