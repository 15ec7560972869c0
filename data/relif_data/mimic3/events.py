"""One streaming pass over the event tables: counts for every row, the cohort's mapped rows on disk.

Validation follows the MIMIC-III benchmark: an event without admission id is dropped, then one whose admission
is not in the cohort, then one whose stay id is not that of the admission's cohort stay; a missing stay id is
filled in. Time is not checked here.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relif_core.errors import DataError
from relif_data.mimic3.channels import items
from relif_data.mimic3.cohort import Cohort
from relif_data.mimic3.sources import READ_ERRORS, Table, scan, time_of, unreadable

EVENT_TABLES = ("chartevents", "labevents", "outputevents")
PASS_VERSION = 2
_KEYS = ("subject_id", "hadm_id", "icustay_id")
_COMPACT_ROWS = 2_000_000
_REPORT_ROWS = 5_000_000


@dataclass(frozen=True)
class MappedEvents:
    """What the pass leaves: parquet files of the cohort's mapped rows, and counts per subject.

    The files have columns table, row_id, stay, recovered (no admission id, but a cohort stay id), itemid,
    time (seconds since 1970, null where unreadable), value, unit, flagged (marked as an error by the staff).
    """

    files: tuple[Path, ...]
    validation: pl.DataFrame
    rows: Mapping[str, int]


def scan_events(
    tables: Mapping[str, Table], cohort: Cohort, work: Path, report: Callable[[str], None]
) -> MappedEvents:
    """Read CHARTEVENTS, LABEVENTS and OUTPUTEVENTS once each, except tables that ``work`` already holds.

    Memory does not grow with the number of rows.

    Raises:
        DataError: A damaged file, an id that is no number, or a work folder that cannot be written.
    """
    files, counts, rows = [], [], {}
    for number, name in enumerate(EVENT_TABLES):
        target, groups = work / f"{name}.parquet", work / f"{name}.groups.parquet"
        key = _key(tables[name], cohort)
        started = time.perf_counter()
        stamp = work / f"{name}.json"
        if _finished(stamp, key, (target, groups)):
            report(f"{name}: kept from the interrupted run")
        else:
            stamp.unlink(missing_ok=True)
            _scan_table(tables[name], number, cohort, target, groups, report)
            _stamp(stamp, key, (target, groups))
        group = pl.read_parquet(groups, glob=False)
        rows[name] = int(group["len"].sum())
        report(f"{name}: {rows[name]:,} rows in {time.perf_counter() - started:.1f} s")
        files.append(target)
        counts.append(group)
    return MappedEvents(tuple(files), _validation_counts(pl.concat(counts), cohort), rows)


def _scan_table(
    table: Table,
    number: int,
    cohort: Cohort,
    target: Path,
    groups: Path,
    report: Callable[[str], None],
) -> None:
    types: dict[str, pl.DataType | type[pl.DataType]] = {
        name: pl.Int64 for name in ("row_id", *_KEYS) if table.has(name)
    }
    mapped = table.has("itemid") and table.name != "outputevents"
    if mapped:
        types |= {"itemid": pl.Int32, **dict.fromkeys(("charttime", "value", "valueuom"), pl.String)}
        types |= {"error": pl.String} if table.name == "chartevents" else {}
    partial = target.with_suffix(".partial")
    try:
        with open(table.path, "rb"):
            pass
    except OSError as error:
        raise unreadable(table.path, error) from error
    for by_text in (False, True):
        counter = _GroupCounter(table.name, items()["itemid"].to_list() if mapped else None, report)
        lazy = scan(table, types, by_text=by_text)
        if "icustay_id" not in types:
            lazy = lazy.with_columns(pl.lit(None, dtype=pl.Int64).alias("icustay_id"))
        kept = _mapped_rows(lazy.map_batches(counter, streamable=True), types, number, cohort)
        try:
            kept.sink_parquet(partial, compression="lz4", engine="streaming")
            counter.total().write_parquet(groups)
            os.replace(partial, target)
            return
        except READ_ERRORS as error:
            # Padded numbers and 145834.0 are read the second time, by way of their texts.
            if by_text or "could not parse" not in str(error):
                raise _failure(table, partial, error) from error


def _failure(table: Table, target: Path, error: BaseException) -> DataError:
    """Tell a full disk or file size limit apart from a damaged source."""
    text = str(error).lower()
    if any(
        sign in text
        for sign in ("no space", "file too large", "quota", "os error 28", "os error 27", "os error 122")
    ):
        return full_disk(target.parent, error)
    return unreadable(table.path, error)


def full_disk(place: Path, error: BaseException) -> DataError:
    """Return the ``DataError`` for a place that could not be written."""
    return DataError(
        f"{place} cannot be written ({str(error).strip()}); free space on that disk or choose another target,"
        " then run the same command again"
    )


class _GroupCounter:
    """Counts rows by (subject, admission, stay) as batches stream by; only wanted items pass through."""

    def __init__(self, name: str, wanted: list[int] | None, report: Callable[[str], None]) -> None:
        self.name, self.wanted, self.report = name, wanted, report
        self.groups: list[pl.DataFrame] = []
        self.pending, self.seen, self.announced = 0, 0, _REPORT_ROWS
        self.lock = threading.Lock()

    def __call__(self, batch: pl.DataFrame) -> pl.DataFrame:
        group = batch.group_by(_KEYS).len().cast({"len": pl.Int64})
        with self.lock:
            self.groups.append(group)
            self.pending += group.height
            self.seen += batch.height
            if self.pending > _COMPACT_ROWS:
                self.groups = [self._sum()]
                self.pending = 0
            if self.seen >= self.announced:
                self.announced = self.seen + _REPORT_ROWS
                self.report(f"{self.name}: {self.seen:,} rows read")
        return batch.clear() if self.wanted is None else batch.filter(pl.col("itemid").is_in(self.wanted))

    def _sum(self) -> pl.DataFrame:
        return pl.concat(self.groups).group_by(_KEYS).agg(pl.col("len").sum())

    def total(self) -> pl.DataFrame:
        """Return one row per (subject, admission, stay) with its number of rows."""
        if not self.groups:
            return pl.DataFrame(schema={**dict.fromkeys(_KEYS, pl.Int64), "len": pl.Int64})
        return self._sum()


def _mapped_rows(lazy: pl.LazyFrame, types: Mapping[str, Any], number: int, cohort: Cohort) -> pl.LazyFrame:
    """Attach each row's cohort stay, drop rows that fail validation, keep what cleaning needs."""

    def column(name: str, kind: type[pl.DataType]) -> pl.Expr:
        return pl.col(name) if name in types else pl.lit(None, dtype=kind)

    by_admission = cohort.stays.lazy().select(
        "subject_id", "hadm_id", pl.col("icustay_id").alias("own"), pl.col("stay").alias("admission_stay")
    )
    by_stay = cohort.stays.lazy().select("subject_id", "icustay_id", pl.col("stay").alias("own_stay"))
    valid = pl.col("admission_stay").is_not_null() & (
        pl.col("icustay_id").is_null() | (pl.col("icustay_id") == pl.col("own"))
    )
    recovered = pl.col("hadm_id").is_null() & pl.col("own_stay").is_not_null()
    return (
        lazy.join(by_admission, on=["subject_id", "hadm_id"], how="left")
        .join(by_stay, on=["subject_id", "icustay_id"], how="left")
        .filter(valid | recovered)
        .select(
            pl.lit(number, dtype=pl.UInt8).alias("table"),
            column("row_id", pl.Int64).alias("row_id"),
            pl.coalesce("admission_stay", "own_stay").alias("stay"),
            recovered.alias("recovered"),
            column("itemid", pl.Int32).alias("itemid"),
            time_of(column("charttime", pl.String)).dt.epoch("s").alias("time"),
            column("value", pl.String).alias("value"),
            column("valueuom", pl.String).fill_null("").str.strip_chars().str.to_lowercase().alias("unit"),
            column("error", pl.String).str.contains(r"^\s*1(\.0+)?\s*$").fill_null(False).alias("flagged"),
        )
    )


def _validation_counts(groups: pl.DataFrame, cohort: Cohort) -> pl.DataFrame:
    """Return, per cohort subject, the number of rows at each step of validation."""
    own = cohort.stays.select("subject_id", "hadm_id", pl.col("icustay_id").alias("own"))
    subjects = cohort.stays.select("subject_id").unique()
    rows = groups.join(subjects, on="subject_id", how="semi").join(
        own, on=["subject_id", "hadm_id"], how="left"
    )
    no_admission = pl.col("hadm_id").is_null()
    known = pl.col("own").is_not_null()
    no_stay = pl.col("icustay_id").is_null()
    other = known & (pl.col("icustay_id") != pl.col("own")).fill_null(False)

    def total(condition: pl.Expr, name: str) -> pl.Expr:
        return pl.col("len").filter(condition).sum().alias(name)

    counted = rows.group_by("subject_id").agg(
        pl.col("len").sum().alias("n_events"),
        total(no_admission, "empty_hadm"),
        total(~no_admission & ~known, "no_hadm_in_stay"),
        total(known & no_stay, "no_icustay_recovered"),
        total(other, "icustay_missing_in_stays"),
        total(known & ~other, "kept"),
    )
    return subjects.join(counted, on="subject_id", how="left").fill_null(0).sort("subject_id")


def _key(table: Table, cohort: Cohort) -> dict[str, Any]:
    """What determines the outcome of a table's pass: an interrupted one is resumed only if unchanged."""
    status = table.path.stat()
    chosen = cohort.stays.select("subject_id", "hadm_id", "icustay_id", "stay").to_numpy()
    return {
        "version": PASS_VERSION,
        "polars": pl.__version__,
        "file": table.path.name,
        "bytes": status.st_size,
        "modified": status.st_mtime_ns,
        "items": hashlib.sha256(items()["itemid"].to_numpy().tobytes()).hexdigest(),
        "cohort": hashlib.sha256(np.ascontiguousarray(chosen).tobytes()).hexdigest(),
    }


def _stamp(path: Path, key: dict[str, Any], files: tuple[Path, ...]) -> None:
    """Mark a table's files as finished: what they were made from, and their sizes."""
    partial = path.with_suffix(".stamp")
    try:
        partial.write_text(
            json.dumps({"key": key, "bytes": [file.stat().st_size for file in files]}), encoding="utf-8"
        )
        os.replace(partial, path)
    except OSError as error:
        raise full_disk(path.parent, error) from error


def _finished(path: Path, key: dict[str, Any], files: tuple[Path, ...]) -> bool:
    """Say whether an interrupted run left these files whole, made from the same source and cohort."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
        return stamp == {"key": key, "bytes": [file.stat().st_size for file in files]}
    except (OSError, ValueError):
        return False
