"""Ceilings on what cannot be read, per table and cause, relative to the wanted rows."""

from collections import Counter
from collections.abc import Callable, Mapping

import polars as pl

from relif_core.errors import DataError
from relif_data.mimic3.channels import channels, items
from relif_data.mimic3.cleaning import meanings
from relif_data.mimic3.cohort import LONGEST_DAYS, Cohort
from relif_data.mimic3.events import EVENT_TABLES, MappedEvents
from relif_data.tables import FEW, LOST_SHARE, VALUE_SHARE, Table, Types, time_of

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


def refuse_losses(
    tables: Mapping[str, Table],
    cohort: Cohort,
    events: MappedEvents,
    repairs: frozenset[str],
    report: Callable[[str], None],
) -> None:
    """Refuse event tables of which too many wanted rows are lost to one cause.

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
    triples = ["itemid", "value", "unit"]
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
        .group_by("table", "channel", *triples)
        .agg(pl.len(), lost=pl.col("time").is_null().sum(), **beyond)
        .collect(engine="streaming")
    )
    for code, name in enumerate(EVENT_TABLES[:2]):
        part, table = rows.filter(pl.col("table") == code), tables[name]
        wanted, lost, day, year = (int(part[column].sum()) for column in ("len", "lost", "day", "year"))
        for span, far, most in (("day", day, VALUE_SHARE), ("year", year, LOST_SHARE)):
            if far > max(most * wanted, FEW) and not (span == "day" and code):
                raise DataError(
                    f"{table.path}: {far:,} of {wanted:,} wanted rows have a CHARTTIME over a {span} away"
                    " from their ICU stay; is the table of another release than ICUSTAYS, or were its dates"
                    " shifted? Export both again"
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
            _refuse_values(table, str(channels()[channel].name), own_rows.select(*triples, "len"), repairs)


def _refuse_values(table: Table, channel: str, triples: pl.DataFrame, repairs: frozenset[str]) -> None:
    """Raise where half of a channel's rows of a table are lost to one cause."""
    counts: Counter[str] = Counter()
    wanted = int(triples["len"].sum())
    if wanted <= FEW:
        return
    kept = meanings(triples, repairs, counts)
    for cause, mend in CAUSES.items():
        if counts[cause] > max(VALUE_SHARE * wanted, FEW):
            lost = triples.join(kept, on=["itemid", "value", "unit"], how="anti", nulls_equal=True)
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
