"""One pass over the event tables: validation counts of every row, mapped rows of cohort stays on disk.

Validation follows the MIMIC-III benchmark: an event without admission id is dropped, then one whose admission
is not in the cohort, then one whose stay id is not that of the admission's cohort stay; a missing stay id is
filled in. Then ceilings on what cannot be read, per table and cause, relative to the wanted rows.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relif_core.errors import DataError
from relif_data.mimic3.channels import channels, items
from relif_data.mimic3.cleaning import TRIPLE, meanings
from relif_data.mimic3.cohort import IDS, LONGEST_DAYS, Cohort
from relif_data.resume import Work, full_disk
from relif_data.tables import FEW, LOST_SHARE, VALUE_SHARE, Table, Types, refuse_lost, time_of

EVENT_TABLES = ("chartevents", "labevents", "outputevents")
PART_ROWS = 500_000
"""Rows of a file of mapped events, sorted by stay: a run of stays is found in it without reading the rest."""
_COMPACT_ROWS = 2_000_000
_REPORT_ROWS = 5_000_000
CAUSES = {
    "empty_value": "no value; export the table again with its VALUE column",
    "unreadable_value": (
        "a value that cannot be read; export the table again, with a point for the decimal comma"
    ),
    "impossible_values": "a value that is physically impossible; is it in another unit?",
    "unknown_units": "a unit that no rule knows; export the table again with its VALUEUOM column",
}
#: Seconds from a stay: most of a chart lies less than a day away, and no hospital admission lasts a year.
DAY, YEAR = 86_400, LONGEST_DAYS * 86_400


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
    chosen = cohort.stays.select(*IDS, "stay").to_numpy()
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
    ids = [column for column in ("row_id", *IDS) if table.has(column)]
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
        groups.append(frame.group_by(IDS).len().cast({"len": pl.Int64}))
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
    return pl.concat(groups).group_by(IDS).agg(pl.col("len").sum())


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


def refuse_losses(
    tables: Mapping[str, Table],
    cohort: Cohort,
    events: MappedEvents,
    repairs: frozenset[str],
    report: Callable[[str], None],
) -> None:
    """Check that of no event table too many wanted rows are lost to one cause.

    Wanted are the rows of mapped items that belong to stays of the cohort. Times may be unreadable, or a year
    away from the stay, in 1 % of a table's, and a day away in half of CHARTEVENTS (laboratories serve the
    whole hospital); a value, or its unit, in half of a channel's rows of a table. Ten rows or fewer never
    refuse.

    Args:
        tables: As opened.
        cohort: The selected stays.
        events: Of ``scan_events`` over both.
        repairs: In force.
        report: Hears of times a year away that are too few to refuse.

    Raises:
        DataError: A ceiling is exceeded.
    """
    ends = cohort.stays.select("stay", pl.col("intime", "outtime").dt.epoch("s"))
    beyond = {
        name: (~pl.col("time").is_between(pl.col("intime") - reach, pl.col("outtime") + reach)).sum()
        for name, reach in (("day", DAY), ("year", YEAR))
    }
    # Rows with an admission id that the cohort lacks never come here, so these are the wanted ones.
    rows = (
        pl.scan_parquet(list(events.files), glob=False)
        .join(items().lazy().select("itemid", "channel"), on="itemid")
        .join(ends.lazy(), on="stay")
        .group_by("table", "channel", *TRIPLE)
        .agg(pl.len(), lost=pl.col("time").is_null().sum(), **beyond)
        .collect(engine="streaming")
    )
    for code, name in enumerate(EVENT_TABLES[:2]):
        part, table = rows.filter(pl.col("table") == code), tables[name]
        wanted, lost, day, year = (int(part[column].sum()) for column in ("len", "lost", "day", "year"))
        for span, far, most in (("day", 0 if code else day, VALUE_SHARE), ("year", year, LOST_SHARE)):
            refuse_lost(
                f"{table.path}:",
                far,
                wanted,
                f"wanted rows have a CHARTTIME over a {span} away from their ICU stay; is the table of"
                " another release than ICUSTAYS, or were its dates shifted? Export both again",
                most,
            )
        if year:
            report(f"{name}: {year:,} wanted rows left out, a year or more away from their ICU stay")
        if lost > max(LOST_SHARE * wanted, FEW):
            own = pl.col("subject_id").is_in(cohort.stays["subject_id"].unique().implode())
            first = _first(
                table,
                {"subject_id": pl.Int64, "itemid": pl.Int32, "charttime": pl.String},
                own
                & pl.col("itemid").is_in(items()["itemid"].implode())
                & time_of(pl.col("charttime")).is_null(),
            )
            raise DataError(
                f"{table.path}: {lost:,} of {wanted:,} wanted rows have a CHARTTIME that cannot be read"
                f" (first: data row {first}); expected YYYY-MM-DD HH:MM:SS; export the table again"
            )
        for (channel,), own_rows in part.group_by("channel"):
            _refuse_values(table, str(channels()[channel].name), own_rows.select(*TRIPLE, "len"), repairs)


def _refuse_values(table: Table, channel: str, triples: pl.DataFrame, repairs: frozenset[str]) -> None:
    """Check that less than half of a channel's rows of a table are lost to any one cause."""
    counts: Counter[str] = Counter()
    wanted = int(triples["len"].sum())
    if wanted <= FEW:
        return
    kept = meanings(triples, repairs, counts)
    for cause, mend in CAUSES.items():
        if counts[cause] > max(VALUE_SHARE * wanted, FEW):
            lost = triples.join(kept, on=TRIPLE, how="anti", nulls_equal=True)
            place = _first(
                table,
                {"itemid": pl.Int32, "value": pl.String},
                pl.struct("itemid", "value").is_in(lost.select("itemid", "value").to_struct().implode()),
            )
            raise DataError(
                f"{table.path}: {counts[cause]:,} of {wanted:,} wanted rows of {channel} have (first: data"
                f" row {place}) {mend}"
            )


def _first(table: Table, types: Types, condition: pl.Expr) -> int:
    """The number of the first data row that meets a condition, counted from 1."""
    before = 0
    for frame in table.frames(types):
        found = frame.select(condition.fill_null(False).arg_max(), any=condition.any())
        if found["any"][0]:
            return before + int(found.to_series(0)[0]) + 1
        before += frame.height
    return 0
