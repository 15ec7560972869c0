"""From the text of an event's value to a channel's number, by the benchmark's rules or their repaired form.

Rules act on the few distinct (item, value, unit) triples and are joined back to the rows.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from relif_core.errors import DataError, InputError, listed
from relif_data.mimic3.channels import FIO2_SET_ITEM, channel_codes, channels, items
from relif_data.sources import own_table

(CAPILLARY, SYSTOLIC, DIASTOLIC, FIO2, GLUCOSE, PH, SATURATION, TEMPERATURE, WEIGHT, HEIGHT) = channel_codes(
    "Capillary refill rate",
    "Systolic blood pressure",
    "Diastolic blood pressure",
    "Fraction inspired oxygen",
    "Glucose",
    "pH",
    "Oxygen saturation",
    "Temperature",
    "Weight",
    "Height",
)
TRIPLE = ("itemid", "value", "unit")
"""What decides an event's number."""
UNCLEANED = channel_codes("Heart Rate", "Respiratory rate", "Mean blood pressure")
COMA = tuple(code for code, channel in enumerate(channels()) if channel.name.startswith("Glascow"))
CAPILLARY_TEXTS = {"Normal <3 secs": 0.0, "Brisk": 0.0, "Abnormal >3 secs": 1.0, "Delayed": 1.0}
MISSING_TEXTS = frozenset(
    (
        "",
        *("#N/A", "#N/A N/A", "#NA", "N/A", "NA", "<NA>", "n/a"),
        *("-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
        *("-NaN", "-nan", "NaN", "nan", "NULL", "null"),
    )
)
"""Value texts that the benchmark's CSV reader takes for missing; the coma scale's "None" is none of them."""


@dataclass(frozen=True)
class Repair:
    """What the benchmark does, what is done instead, and whether ``compatibility="repaired"`` has it."""

    name: str
    quirk: str
    repair: str
    default: bool


REPAIRS = {
    row["name"]: Repair(**row | {"default": row["default"] == "yes"})  # type: ignore[arg-type]
    for row in own_table("mimic3/tables/repairs.csv")
}
"""Every repair by name."""


def chosen_repairs(compatibility: str, repairs: Iterable[str] | str | None = None) -> frozenset[str]:
    """Return the names of the repairs in force.

    Args:
        compatibility: "benchmark" means none, "repaired" the default ones.
        repairs: Names, or one text with commas, instead of that choice.

    Raises:
        InputError: An unknown word.
    """
    if compatibility not in ("benchmark", "repaired"):
        raise InputError(f"compatibility={compatibility!r}: choose 'repaired' or 'benchmark'")
    if repairs is None:
        default = (name for name, repair in REPAIRS.items() if repair.default)
        return frozenset(default if compatibility == "repaired" else ())
    names = [name.strip() for name in repairs.split(",")] if isinstance(repairs, str) else list(repairs)
    chosen = frozenset(name for name in names if name)
    unknown = sorted(chosen - REPAIRS.keys())
    if unknown:
        raise InputError(f"repairs: {listed(unknown)} unknown; choose among {', '.join(REPAIRS)}")
    return chosen


def clean(
    rows: pl.DataFrame, repairs: frozenset[str], counts: Counter[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that carry a value, and the numbers behind their keys.

    Rows have ``stay``, ``time``, ``channel``, ``key`` and ``text_key``: of several rows of a channel at one
    chart time the one with the greatest ``key`` wins (``text_key`` is the benchmark's). The second frame
    gives the ``number`` of every (channel, key, text_key); for categorical channels it is the position of the
    category.

    Args:
        rows: With the columns of ``MappedEvents``.
        repairs: In force.
        counts: Every exclusion adds to them.

    Raises:
        DataError: One ROW_ID stands for different events.
    """
    rows = _without_repeats(rows, counts)
    rows = _dropped(rows, pl.col("time").is_null(), "unreadable_time", counts)
    recovered = "admission_from_stay"
    if recovered in repairs:
        counts[recovered] += int(rows["recovered"].sum())
    else:
        rows = rows.filter(~pl.col("recovered"))
    if "flagged_errors" in repairs:
        rows = _dropped(rows, pl.col("flagged"), "flagged_errors", counts)
    meaning = meanings(rows.group_by(TRIPLE).len(), repairs, counts)
    numbers = meaning.select("channel", "key", "text_key", "number").unique()
    return rows.join(meaning, on=TRIPLE).select("stay", "time", "channel", "key", "text_key"), numbers


def _without_repeats(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Drop exact repeats of a ROW_ID within a table; different rows under one id are an error."""
    identified = rows.filter(pl.col("row_id").is_not_null())
    if identified.select("table", "row_id").n_unique() == identified.height:
        return rows
    single = rows.unique(maintain_order=True)
    again = single.filter(pl.col("row_id").is_not_null() & pl.struct("table", "row_id").is_duplicated())
    if again.height:
        raise DataError(
            f"{again['row_id'].n_unique()} ROW_ID stand for different events; the event table was altered:"
            " fetch it again"
        )
    counts["repeated_row"] += rows.height - single.height
    return single


def _dropped(rows: pl.DataFrame, condition: pl.Expr, reason: str, counts: Counter[str]) -> pl.DataFrame:
    kept = rows.filter(~condition)
    counts[reason] += rows.height - kept.height
    return kept


def meanings(triples: pl.DataFrame, repairs: frozenset[str], counts: Counter[str]) -> pl.DataFrame:
    """Return usable (item, value, unit) triples with channel, number and keys; count others by reason."""
    known = items()
    if "fio2_set_item" not in repairs:
        known = known.filter(pl.col("itemid") != FIO2_SET_ITEM)
    else:
        counts["fio2_set_item"] += int(triples.filter(pl.col("itemid") == FIO2_SET_ITEM)["len"].sum())
    frame = triples.join(known, on="itemid")
    stripped = pl.col("value").str.strip_chars()
    frame = frame.with_columns(stripped.alias("stripped"), text=stripped if repairs else pl.col("value"))
    frame = _dropped_triples(
        frame, pl.col("text").is_null() | pl.col("text").is_in(MISSING_TEXTS), "empty_value", counts
    )
    if "blood_only" in repairs:
        frame = _dropped_triples(frame, pl.col("body_fluid"), "blood_only", counts)
    frame = _checked_units(frame, repairs, counts)
    frame = frame.with_columns(raw=_raw_number())
    frame = frame.with_columns(published=_converted(frozenset()), number=_converted(repairs))
    frame = _dropped_triples(
        frame, ~pl.col("number").is_finite().fill_null(False), "unreadable_value", counts
    )
    for name, code in (("fio2_scale", FIO2), ("fahrenheit", TEMPERATURE)):
        if name in repairs:
            moved = (pl.col("channel") == code) & (pl.col("number") != pl.col("published"))
            counts[name] += int(frame.filter(moved)["len"].sum())
    if "impossible_values" in repairs:
        frame = _dropped_triples(frame, _impossible(), "impossible_values", counts)
    return _with_keys(frame, repairs).select(*TRIPLE, "channel", "number", "key", "text_key")


def _dropped_triples(
    frame: pl.DataFrame, condition: pl.Expr, reason: str, counts: Counter[str]
) -> pl.DataFrame:
    counts[reason] += int(frame.filter(condition)["len"].sum())
    return frame.filter(~condition)


def _checked_units(frame: pl.DataFrame, repairs: frozenset[str], counts: Counter[str]) -> pl.DataFrame:
    """Count a channel's unknown unit texts by channel and text; leave their rows out if so asked."""
    known = pl.DataFrame(
        [(code, unit) for code, channel in enumerate(channels()) for unit in (channel.known_units or ())],
        schema={"channel": pl.UInt8, "unit": pl.String},
        orient="row",
    )
    strange = frame.filter(pl.col("channel").is_in(known["channel"].unique().implode())).join(
        known, on=["channel", "unit"], how="anti"
    )
    for code, unit, rows in strange.group_by("channel", "unit").agg(pl.col("len").sum()).iter_rows():
        counts[f"unknown unit: {channels()[code].name}, {unit!r}"] += rows
    if "unknown_units" not in repairs:
        return frame
    counts["unknown_units"] += int(strange["len"].sum())
    return frame.join(strange, on=TRIPLE, how="anti")


def _is(*codes: int) -> pl.Expr:
    return pl.col("channel").is_in(codes)


def _raw_number() -> pl.Expr:
    """The number that a value's text stands for before any unit rule; null where it stands for none."""
    number = pl.col("stripped").cast(pl.Float64, strict=False)
    slash = r"^(\d+)/(\d+)$"
    whole = pl.col("text")
    pressure = pl.when(whole.str.contains("/", literal=True))
    upper, lower = (whole.str.extract(slash, part).cast(pl.Float64, strict=False) for part in (1, 2))
    decimal = whole.str.contains(r"^(\d+(\.\d*)?|\.\d+)$")
    return (
        pl.when(_is(SYSTOLIC))
        .then(pressure.then(upper).otherwise(number))
        .when(_is(DIASTOLIC))
        .then(pressure.then(lower).otherwise(number))
        .when(_is(GLUCOSE, PH, SATURATION))
        .then(pl.when(decimal).then(number))
        .when(_is(CAPILLARY))
        .then(whole.replace_strict(CAPILLARY_TEXTS, default=None, return_dtype=pl.Float64))
        .when(_is(*COMA))
        .then(_category())
        .otherwise(number)
    )


def _category() -> pl.Expr:
    """Position of a coma scale's text among its channel's categories; null for any other text."""
    positions = {
        f"{code} {text}": float(place)
        for code in COMA
        for place, text in enumerate(channels()[code].categories)
    }
    text = pl.format("{} {}", "channel", "text")
    return text.replace_strict(positions, default=None, return_dtype=pl.Float64)


def _converted(repairs: frozenset[str]) -> pl.Expr:
    raw = pl.col("raw")

    def says(text: str) -> pl.Expr:
        return pl.col("unit").str.contains(text, literal=True) | pl.col("label").str.contains(
            text, literal=True
        )

    torr = pl.col("unit").str.contains("torr", literal=True)
    percent = raw > 1 if "fio2_scale" in repairs else ~torr
    warm = raw >= 79
    if "fahrenheit" in repairs:
        degrees_f = pl.col("unit").str.contains(r"\bf|^[^a-z]*f|fahrenheit") | pl.col("label").str.contains(
            r"\bf\b|fahrenheit"
        )
        warm = warm | (degrees_f & (raw > 45))
    ounces, pounds = says("oz"), says("lb")
    pound = pl.when(ounces).then(raw / 16.0).otherwise(raw)
    return (
        pl.when(_is(FIO2))
        .then(pl.when(percent).then(raw / 100.0).otherwise(raw))
        .when(_is(SATURATION))
        .then(pl.when(raw <= 1).then(raw * 100.0).otherwise(raw))
        .when(_is(TEMPERATURE))
        .then(pl.when(warm).then((raw - 32.0) * 5.0 / 9.0).otherwise(raw))
        .when(_is(WEIGHT))
        .then(pl.when(ounces | pounds).then(pound * 0.453592).otherwise(raw))
        .when(_is(HEIGHT))
        .then(pl.when(says("in")).then((raw * 2.54).round(0, mode="half_to_even")).otherwise(raw))
        .otherwise(raw)
    )


def _impossible() -> pl.Expr:
    """True where a number lies outside its channel's physical limits."""
    return pl.any_horizontal(
        _is(code) & ~pl.col("number").is_between(*channel.limits)
        for code, channel in enumerate(channels())
        if channel.limits is not None
    )


def _with_keys(frame: pl.DataFrame, repairs: frozenset[str]) -> pl.DataFrame:
    """Add the keys by which the greatest of several values is found.

    The benchmark compares cleaned channels as numbers, the others as text. The repaired key compares numbers,
    and scores of the coma scale before their texts.
    """
    as_text = _is(*UNCLEANED, *COMA)
    text_rank = pl.col("value").rank("dense").over("channel")
    text_key = pl.when(as_text).then(text_rank.cast(pl.Float64)).otherwise(pl.col("number"))
    frame = frame.with_columns(text_key=text_key)
    if "numeric_maximum" not in repairs:
        return frame.with_columns(pl.col("text_key").alias("key"))
    scores = pl.DataFrame(
        [(code, place, score) for code in COMA for place, score in enumerate(channels()[code].scores)],
        schema={"channel": pl.UInt8, "number": pl.Float64, "score": pl.Float64},
        orient="row",
    )
    frame = frame.join(scores, on=["channel", "number"], how="left")
    # Scores are at most 15 and a channel has at most 13 texts: a thousandth of the rank only breaks ties.
    return frame.with_columns(key=(pl.col("score") + text_rank / 1000).fill_null(pl.col("number")))
