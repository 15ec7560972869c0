"""One pass over the event tables: validation counts of every row, mapped rows of cohort stays on disk.

Validation follows the MIMIC-III benchmark: an event without admission id is dropped, then one whose admission
is not in the cohort, then one whose stay id is not that of the admission's cohort stay; a missing stay id is
filled in. Time is not checked here.
"""

import hashlib
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
from relif_data.resume import Work, full_disk
from relif_data.tables import FEW, LOST_SHARE, Table, time_of

EVENT_TABLES = ("chartevents", "labevents", "outputevents")
PART_ROWS = 500_000
"""Rows of a file of mapped events, sorted by stay: a run of stays is found in it without reading the rest."""
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


def events_key(cohort: Cohort) -> dict[str, str]:
    """Return what determines the pass over a table besides the table: cohort and items."""
    chosen = cohort.stays.select("subject_id", "hadm_id", "icustay_id", "stay").to_numpy()
    return {
        "items": hashlib.sha256(items()["itemid"].to_numpy().tobytes()).hexdigest(),
        "cohort": hashlib.sha256(np.ascontiguousarray(chosen).tobytes()).hexdigest(),
    }


def scan_events(
    tables: Mapping[str, Table], cohort: Cohort, work: Work, report: Callable[[str], None]
) -> MappedEvents:
    """Read CHARTEVENTS, LABEVENTS and OUTPUTEVENTS once each, except tables that ``work`` already holds.

    Memory does not grow with the number of rows.

    Raises:
        DataError: A damaged file, ids that are no numbers above the ceiling, a table of which no wanted row
            belongs to the cohort, or a full disk.
    """
    files, counts, rows = [], [], {}
    for number, name in enumerate(EVENT_TABLES):
        if name not in tables:
            report(f"{name.upper()} is missing: its rows are not counted; no value is lost")
            continue
        started = time.perf_counter()
        kept = work.kept(name)
        paths = {} if kept is None else {work.folder / file: size for file, size in kept["sizes"].items()}
        if paths and all(path.is_file() and path.stat().st_size == size for path, size in paths.items()):
            report(f"{name}: kept from the interrupted run")
        else:
            work.begin(name)
            try:
                made = _scan_table(tables[name], number, cohort, work.folder, report)
            except OSError as error:
                raise full_disk(work.folder, error) from error
            paths = {path: path.stat().st_size for path in made}
            work.finish(name, {"sizes": {path.name: size for path, size in paths.items()}})
        groups, *parts = paths
        counts.append(pl.read_parquet(groups, glob=False))
        rows[name] = int(counts[-1]["len"].sum())
        report(f"{name}: {rows[name]:,} rows in {time.perf_counter() - started:.1f} s")
        files += parts
    return MappedEvents(tuple(files), _validation_counts(pl.concat(counts), cohort), rows)


def _scan_table(
    table: Table, number: int, cohort: Cohort, folder: Path, report: Callable[[str], None]
) -> list[Path]:
    """Write a table's counts by (subject, admission, stay), and its mapped rows in parts sorted by stay."""
    name = table.name.lower()
    ids = [column for column in ("row_id", *_KEYS) if table.has(column)]
    types: dict[str, Any] = dict.fromkeys(ids, pl.Int64)
    mapped = name != "outputevents"
    if mapped:
        types |= {"itemid": pl.Int32, **dict.fromkeys(("charttime", "value", "valueuom"), pl.String)}
        types |= {"error": pl.String} if name == "chartevents" else {}
    wanted = items()["itemid"].implode()
    groups: list[pl.DataFrame] = []
    pending: list[pl.DataFrame] = []
    parts, seen, announced = [folder / f"{name}.groups.parquet"], 0, _REPORT_ROWS
    wanted_rows = kept_rows = 0

    def write() -> None:
        path = folder / f"{name}.{len(parts)}.parquet"
        _parquet(pl.concat(pending).sort("stay"), path, row_group_size=1 << 14)
        parts.append(path)
        pending.clear()

    for frame in table.frames(types):
        if "icustay_id" not in types:
            frame = frame.with_columns(pl.lit(None, dtype=pl.Int64).alias("icustay_id"))
        groups.append(frame.group_by(_KEYS).len().cast({"len": pl.Int64}))
        if sum(group.height for group in groups) > _COMPACT_ROWS:
            groups = [_summed(groups)]
        seen += frame.height
        if seen >= announced:
            announced = seen + _REPORT_ROWS
            report(f"{name}: {seen:,} rows read")
        if mapped:
            rows = frame.filter(pl.col("itemid").is_in(wanted))
            pending.append(_mapped_rows(rows.lazy(), types, number, cohort).collect())
            wanted_rows, kept_rows = wanted_rows + rows.height, kept_rows + pending[-1].height
            if sum(part.height for part in pending) > PART_ROWS:
                write()
    table.refuse_unreadable(share=LOST_SHARE)
    if wanted_rows > FEW and not kept_rows:
        raise DataError(
            f"{table.path}: by SUBJECT_ID and HADM_ID none of the {wanted_rows:,} rows of wanted items"
            " belongs to a stay of the cohort; is the table of another release than ICUSTAYS, or are its"
            " columns misnamed? Export both again"
        )
    if pending:
        write()
    _parquet(_summed(groups), parts[0])
    return parts


def _parquet(frame: pl.DataFrame, path: Path, **options: Any) -> None:
    try:
        frame.write_parquet(path, compression="lz4", **options)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise full_disk(path.parent, error) from error


def _summed(groups: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(groups).group_by(_KEYS).agg(pl.col("len").sum())


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
            column("error", pl.String)
            .str.contains(r"(?i)^\s*(1(\.0+)?|t|true)\s*$")
            .fill_null(False)
            .alias("flagged"),
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
