"""From cleaned events to each stay's time series, and on to the hourly grid.

Rows of one subject with the same chart time are one moment, of which each channel takes one value. A stay
receives the moments that carry its stay id or lie between its admission and its end, whichever stay they were
charted for.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl

from relif_data.labels import forward_fill, offsets_of
from relif_data.mimic3.channels import channels

EPSILON_HOURS = 1e-6
"""Hours this close to a bound count as the bound (Harutyunyan et al. 2019)."""


def time_series(
    rows: pl.DataFrame, numbers: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str] | None = None
) -> pl.DataFrame:
    """Return a sorted row per stay, chart time and channel: ``stay``, ``hours`` in, ``channel``, ``number``.

    Args:
        rows: Of ``clean``.
        numbers: Of ``clean``.
        stays: Cohort stays of all subjects in ``rows``.
        counts: Counts chart times with another winning number than the benchmark's ("numeric_maximum").
    """
    owner = stays.select(
        "stay", "subject", intime=pl.col("intime").dt.epoch("s"), outtime=pl.col("outtime").dt.epoch("s")
    )
    rows = rows.join(owner.select("stay", "subject"), on="stay")
    best = (
        rows.group_by("subject", "time", "channel")
        .agg(pl.col("key").max(), pl.col("text_key").max())
        .join(numbers.select("channel", "key", "number").unique(["channel", "key"]), on=["channel", "key"])
    )
    if counts is not None:
        published = numbers.select("channel", "text_key", published="number").unique(["channel", "text_key"])
        differing = best.join(published, on=["channel", "text_key"]).filter(
            pl.col("number") != pl.col("published")
        )
        counts["numeric_maximum"] += differing.height
    best = best.select("subject", "time", "channel", "number")
    alone = pl.len().over("subject") == 1
    single = best.join(owner.filter(alone).select("subject", "stay"), on="subject")
    several = owner.filter(~alone)
    if several.height:
        shared = best.join(several.select("subject").unique(), on="subject", how="semi")
        charted = (
            rows.join(several.select("stay"), on="stay", how="semi")
            .select("subject", "time", "stay")
            .unique()
        )
        within = (
            shared.select("subject", "time")
            .unique()
            .join(several, on="subject")
            .filter(pl.col("time").is_between(pl.col("intime"), pl.col("outtime")))
            .select("subject", "time", "stay")
        )
        moments = pl.concat([charted, within]).unique()
        single = pl.concat([single, shared.join(moments, on=["subject", "time"]).select(single.columns)])
    return (
        single.join(owner.select("stay", "intime"), on="stay")
        .with_columns(((pl.col("time") - pl.col("intime")).cast(pl.Float64) / 60.0 / 60.0).alias("hours"))
        .select("stay", "hours", "channel", "number")
        .sort("stay", "hours", "channel")
    )


def bins_of(hours: np.ndarray) -> np.ndarray:
    """Return the number of hourly bins of periods of some hours: rounded up, a whole number giving itself."""
    return np.floor(np.asarray(hours, dtype=np.float64) + 1.0 - EPSILON_HOURS).astype(np.int64)


def within_stay(series: pl.DataFrame, stays: pl.DataFrame) -> pl.DataFrame:
    """Return a time series' rows from admission to the end of the stay (``los_hours``), ends included."""
    return (
        series.join(stays.select("stay", "los_hours"), on="stay", maintain_order="left")
        .filter((pl.col("hours") > -EPSILON_HOURS) & (pl.col("hours") < pl.col("los_hours") + EPSILON_HOURS))
        .drop("los_hours")
    )


@dataclass(frozen=True)
class Grid:
    """Hourly channels: ``filled`` float32, ``observed`` uint8 [rows, 17]; ``offsets`` int64 [stays + 1]."""

    filled: np.ndarray
    observed: np.ndarray
    offsets: np.ndarray


def hourly_grid(series: pl.DataFrame, stay_ids: np.ndarray, bins: np.ndarray) -> Grid:
    """Put a time series on the hourly grid of some stays.

    Bin b holds what was charted in (b, b + 1] hours, admission itself included in bin 0; the last value in
    time wins, gaps hold the last value before, else the channel's normal value.

    Args:
        series: Within the stay, sorted by stay and hours.
        stay_ids: Ascending values of ``stay``.
        bins: Their numbers of bins.
    """
    offsets = offsets_of(bins)
    width = len(channels())
    place = np.searchsorted(stay_ids, series["stay"].to_numpy())
    hour = np.trunc(series["hours"].to_numpy() - EPSILON_HOURS).astype(np.int64)
    inside = hour < bins[place]
    cell = ((offsets[:-1][place] + hour) * width + series["channel"].to_numpy().astype(np.int64))[inside]
    values = np.zeros(offsets[-1] * width, dtype=np.float32)
    observed = np.zeros(offsets[-1] * width, dtype=np.uint8)
    values[cell] = series["number"].to_numpy()[inside]
    observed[cell] = 1
    values, observed = values.reshape(-1, width), observed.reshape(-1, width)
    normal = np.array([channel.normal_number for channel in channels()])
    return Grid(forward_fill(values, observed, offsets, normal), observed, offsets)
