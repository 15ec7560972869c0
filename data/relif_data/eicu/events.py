"""Reading the measurement tables of eICU into the hourly grid, counting every value that is not used."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from relif_core.errors import DataError, listed
from relif_data.eicu.channels import CHANNELS, INDEX, STAY, EventTable, Item
from relif_data.eicu.grid import HourlyGrid
from relif_data.tables import FEW, VALUE_SHARE, Table, refuse_lost

REFILL = {
    "normal": 0.0,
    "< 2 seconds": 0.0,
    "<2 seconds": 0.0,
    "> 2 seconds": 1.0,
    ">2 seconds": 1.0,
    "delayed": 1.0,
}
KILOGRAMS_PER_POUND = 0.45359237
LOWEST_FAHRENHEIT = 79.0
REPORT_ROWS = 5_000_000
LOSSES = {
    "no_number": "are no numbers, perhaps for a decimal comma",
    "unknown_unit": "have a unit that is not known",
    "artefacts": "are out of range, perhaps in another unit",
}


@dataclass
class TableCount:
    """What became of a table: rows, then the values (cells of wanted items) of the cohort's stays."""

    table: str
    rows: int = 0
    short: int = 0
    without_time: int = 0
    wanted: int = 0
    lost: int = 0
    other_stays: int = 0
    outside: int = 0
    away: int = 0
    no_number: int = 0
    unknown_unit: int = 0
    artefacts: int = 0
    used: int = 0
    units: Counter[str] = field(default_factory=Counter)
    channels: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, channel: str, **counts: int) -> None:
        """Add values of a channel, and what became of them."""
        of_channel = self.channels.setdefault(channel, {})
        for name, number in counts.items():
            of_channel[name] = of_channel.get(name, 0) + number
            if name != "values":
                setattr(self, name, getattr(self, name) + number)

    def sentence(self) -> str:
        """Return the counts as one line for the manifest."""
        parts = [
            f"{self.table}: {self.rows} rows; {self.used} values used",
            f"left out: {self.other_stays} rows of stays outside the cohort",
            f"{self.outside} rows before admission or after the end",
            f"{self.without_time} rows without readable stay or time",
            f"{self.no_number} values that are no number",
            f"{self.artefacts} out of range",
        ]
        if self.short:
            parts.append(f"{self.short} rows with too few or too many fields")
        if self.units:
            named = listed(f"{unit!r} ({count})" for unit, count in sorted(self.units.items()))
            parts.append(f"{self.unknown_unit} in an unknown unit: {named}")
        return "; ".join(parts) + "."


def read_events(
    table: EventTable, source: Table, grid: HourlyGrid, trust: int, progress: Callable[[str], None]
) -> TableCount:
    """Stream one table into the grid; ``trust`` orders tables that give a value at the same minute.

    Raises:
        DataError: A damaged or truncated file, too many rows without a readable stay or time, or most of a
            monitor's (the tables of vital signs, which no other ward fills) outside their stay, or rows of
            other stays only.
    """
    numbers = dict.fromkeys((STAY, table.time), pl.Int64)
    reader = _Reader(table, grid, trust, TableCount(table.name))
    count, reported, head = reader.count, 0, f"{source.path}:"
    for frame in source.frames({**dict.fromkeys(table.columns, pl.String), **numbers}):
        count.rows += frame.height
        if table.value:
            reader.read_long(frame)
        else:
            reader.read_wide(frame)
        if count.rows - reported >= REPORT_ROWS:
            reported = count.rows
            progress(f"{table.name}: {count.rows:,} rows read")
    progress(f"{table.name}: {count.rows:,} rows, {count.used:,} values")
    refuse_lost(
        head,
        count.lost,
        count.wanted,
        f"rows that may belong to the cohort have a {STAY} or {table.time} that is no whole number; export"
        " the table again",
    )
    refuse_lost(
        head,
        count.away if table.name.startswith("vital") else 0,
        count.wanted,
        f"rows of the cohort have a {table.time} outside their stay; offsets are minutes since unit"
        " admission: export the table again",
        VALUE_SHARE,
    )
    if count.other_stays > FEW and not count.wanted:
        raise DataError(
            f"{head} none of {count.other_stays:,} rows belongs to a stay of the cohort; is the table of"
            " another release than patient? Export both again"
        )
    count.short = source.ragged
    for channel, counts in count.channels.items():
        for cause, words in LOSSES.items():
            rest = f"values of {channel} {words}; export the table again"
            refuse_lost(head, counts.get(cause, 0), counts["values"], rest, VALUE_SHARE)
    return count


@dataclass(frozen=True)
class _Reader:
    """Brings blocks of a table's rows into the grid and counts."""

    table: EventTable
    grid: HourlyGrid
    trust: int
    count: TableCount

    def read_wide(self, frame: pl.DataFrame) -> None:
        frame, row, minute = self._locate(frame)
        for (column,), item in self.table.items.items():
            text = frame[column]
            self._put(item, _numbers(text, "number"), text.is_not_null().to_numpy(), row, minute)

    def read_long(self, frame: pl.DataFrame) -> None:
        table = self.table
        number = {label: index for index, label in enumerate(table.items)}
        present = frame.select(table.labels).unique()
        codes = [
            number.get(tuple((text or "").strip().lower() for text in labels), -1)
            for labels in present.rows()
        ]
        wanted = present.with_columns(pl.Series("item", codes, dtype=pl.Int32)).filter(pl.col("item") >= 0)
        frame = frame.join(wanted, on=list(table.labels), how="inner").drop(*table.labels)
        frame, row, minute = self._locate(frame)
        for index, item in enumerate(table.items.values()):
            chosen = np.flatnonzero(frame["item"].to_numpy() == index)
            if not len(chosen):
                continue
            text = frame[table.value][chosen].str.strip_chars().str.to_lowercase()
            text = text.replace(["", *table.ignored], None)
            value, filled = _numbers(text, item.conversion), text.is_not_null().to_numpy()
            if table.unit and item.units is not None:
                value, filled = self._in_unit(item, frame[table.unit][chosen], value, filled)
            self._put(item, value, filled, row[chosen], minute[chosen])

    def _locate(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
        """Keep the rows inside the cohort's stays; return them with their grid row and minute."""
        count, stay, minute = self.count, frame[STAY], frame[self.table.time]
        readable = (stay.is_not_null() & minute.is_not_null()).to_numpy()
        minutes = minute.fill_null(-1).to_numpy()
        known, row, beyond = self.grid.locate(stay.fill_null(-1).to_numpy(), minutes)
        count.without_time += int((~readable).sum())
        count.wanted += int(known.sum())
        count.lost += int(((known | stay.is_null().to_numpy()) & ~readable).sum())
        count.other_stays += int((readable & ~known).sum())
        count.outside += int((readable & known & (row < 0)).sum())
        count.away += int((readable & known & (beyond > 0)).sum())
        chosen = np.flatnonzero(readable & (row >= 0))
        return frame[chosen], row[chosen], minutes[chosen]

    def _in_unit(
        self, item: Item, unit: pl.Series, value: np.ndarray, filled: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bring values to the channel's unit; those in a unit never seen are counted and left out."""
        text = unit.fill_null("").str.strip_chars().str.to_lowercase()
        factor = text.replace_strict(item.units or {}, default=None, return_dtype=pl.Float64)
        strange = factor.is_null().to_numpy() & filled
        if lost := int(strange.sum()):
            self.count.add(item.channel, values=lost, unknown_unit=lost)
            self.count.units.update(unit.fill_null("")[np.flatnonzero(strange)].to_list())
        return value * factor.fill_null(1.0).to_numpy(), filled & ~strange

    def _put(
        self, item: Item, value: np.ndarray, filled: np.ndarray, row: np.ndarray, minute: np.ndarray
    ) -> None:
        """Convert, sort out what cannot be a measurement, and offer the rest to the grid."""
        channel = CHANNELS[INDEX[item.channel]]
        if item.conversion == "fahrenheit":
            value = np.where(value >= LOWEST_FAHRENHEIT, (value - 32) * 5 / 9, value)
        elif item.conversion == "percent":
            value = np.where(value > 1, value / 100, value)
        elif item.conversion == "pounds":
            value = value * KILOGRAMS_PER_POUND
        number = filled & np.isfinite(value)
        good = number & (value >= channel.low) & (value <= channel.high)
        if channel.whole:
            good &= value == np.round(value)
        no_number, artefacts = int((filled & ~number).sum()), int((number & ~good).sum())
        self.count.add(item.channel, values=int(filled.sum()), no_number=no_number, artefacts=artefacts)
        self.count.used += int(good.sum())
        self.grid.put(item.channel, row[good], minute[good], value[good], self.trust)


def _numbers(text: pl.Series, conversion: str) -> np.ndarray:
    """Return texts as numbers, float64; NaN where a text is none."""
    if conversion == "refill":
        values = text.replace_strict(REFILL, default=None, return_dtype=pl.Float64)
    elif conversion == "score":
        values = text.str.extract(r"^(\d+)", 1).cast(pl.Float64, strict=False)
    else:
        values = text.cast(pl.Float64, strict=False)
        if values.null_count() > text.null_count():
            values = text.str.strip_chars(" %\t").cast(pl.Float64, strict=False)
    numbers: np.ndarray = values.fill_null(float("nan")).to_numpy()
    return numbers
