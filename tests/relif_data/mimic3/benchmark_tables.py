"""The benchmark's intermediate results as tables, for reference comparisons and pages that count them."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from relif_data.mimic3.channels import channels, phenotypes
from relif_data.mimic3.cleaning import chosen_repairs, clean
from relif_data.mimic3.cohort import find_tables
from relif_data.mimic3.preparation import buckets, extract, with_outcomes
from relif_data.mimic3.series import EPSILON_HOURS, bins_of, time_series, within_stay
from relif_data.mimic3.tasks import MORTALITY_HOUR, Labels, label_stays, phenotype_labels


def benchmark_tables(
    source: Path, *, compatibility: str = "benchmark", repairs: Iterable[str] | str | None = None
) -> dict[str, pl.DataFrame]:
    """Return the tables that the benchmark leaves behind, made from raw MIMIC-III tables.

    ``stays``, ``excluded_stays`` (with the rule that removed them), ``validation_counts`` (per subject),
    ``events`` (one row per stay and chart time, 17 channels, hours outside the stay included), and the labels
    ``labels_ihm``, ``labels_decomp``, ``labels_los``, ``labels_pheno`` keyed by ``icustay_id`` and
    ``period_length`` (hours), and ``labels_multitask`` (per stay, lists over the hours from 0).
    Everything is held in memory: meant for the demo and for parts of the full data.
    """
    with tempfile.TemporaryDirectory(prefix="mimic3-") as work:
        chosen = chosen_repairs(compatibility, repairs)
        extraction = extract(
            find_tables(Path(source), chosen), chosen, Path(work) / "tables", lambda message: None
        )
        counts: Counter[str] = Counter()
        parts = [
            (stays, time_series(*clean(load(), chosen, counts), stays)) for stays, load in buckets(extraction)
        ]
    everything = pl.concat(series for _, series in parts)
    stays = pl.concat(with_outcomes(stays, within_stay(series, stays), extraction) for stays, series in parts)
    events = _events(everything, stays)
    used = stays.filter(
        pl.col("has_diagnoses") & pl.col("los_hours").is_not_null() & pl.col("first_hours").is_not_null()
    )
    labels = label_stays(
        used, phenotype_labels(used, extraction.diagnoses), bins_of(used["los_hours"].to_numpy()), chosen
    )
    tables = _label_tables(used, labels)
    return {
        "stays": _stays(stays, events, tables),
        "excluded_stays": extraction.cohort.excluded,
        "validation_counts": extraction.events.validation,
        "events": events,
        **tables,
        "labels_multitask": _multitask(used, labels),
    }


def channel_values(series: pl.DataFrame, code: int, name: str) -> pl.Series:
    """Return a channel's numbers as the benchmark writes them: category texts for categorical channels."""
    categories = channels()[code].categories
    if not categories:
        return series[name]
    return series[name].replace_strict(
        {float(place): text for place, text in enumerate(categories)}, default=None, return_dtype=pl.String
    )


def _events(series: pl.DataFrame, stays: pl.DataFrame) -> pl.DataFrame:
    codes = [str(code) for code in range(len(channels()))]
    wide = series.with_columns(pl.col("channel").cast(pl.String)).pivot(
        "channel", on_columns=codes, index=["stay", "hours"], values="number", aggregate_function="first"
    )
    wide = wide.with_columns(
        channel_values(wide, code, str(code)).alias(channel.name) for code, channel in enumerate(channels())
    )
    return (
        wide.drop(codes)
        .join(stays.select("stay", "icustay_id"), on="stay")
        .sort("icustay_id", "hours")
        .select("icustay_id", "hours", *(channel.name for channel in channels()))
    )


def _stays(stays: pl.DataFrame, events: pl.DataFrame, tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Add event and sample counts, and the series' first height and weight, hours before the ICU included."""
    summary = events.group_by("icustay_id").agg(
        pl.len().cast(pl.Int64).alias("n_event_rows"),
        pl.col("Height").drop_nulls().first().alias("height"),
        pl.col("Weight").drop_nulls().first().alias("weight"),
    )
    stays = stays.join(summary, on="icustay_id", how="left", maintain_order="left")
    for task in ("ihm", "decomp", "los", "pheno"):
        samples = tables[f"labels_{task}"].group_by("icustay_id").len(f"n_samples_{task}")
        stays = stays.join(samples, on="icustay_id", how="left", maintain_order="left")
    number = pl.col("n_event_rows", "^n_samples_.*$").fill_null(0).cast(pl.Int64)
    return stays.with_columns(number).with_columns(has_timeseries=pl.col("n_event_rows") > 0)


def _label_tables(stays: pl.DataFrame, labels: Labels) -> dict[str, pl.DataFrame]:
    length = stays["los_hours"].to_numpy()
    bins = bins_of(length)
    hour = np.concatenate([np.arange(1.0, count + 1) for count in bins])
    rows = stays.select("icustay_id")[np.repeat(np.arange(stays.height), bins)].with_columns(
        period_length=hour,
        decompensation=labels.labels["decompensation"].astype(np.int64),
        remaining=np.round(np.repeat(length, bins) - hour, 6),
        bucket=labels.labels["los"].astype(np.int64),
        alive=labels.masks["decompensation"] == 1,
        staying=labels.masks["los"] == 1,
    )
    mortality = stays.select(
        "icustay_id", period_length=pl.lit(float(MORTALITY_HOUR)), y_true=pl.col("mortality")
    )
    names, _ = phenotypes()
    return {
        "labels_ihm": mortality.filter(labels.masks["mortality"] == 1),
        "labels_decomp": rows.filter("alive").select("icustay_id", "period_length", y_true="decompensation"),
        "labels_los": rows.filter("staying").select(
            "icustay_id", "period_length", "bucket", y_true="remaining"
        ),
        "labels_pheno": stays.select("icustay_id", period_length=pl.col("los_hours").round(6)).hstack(
            [
                pl.Series(name, labels.labels["phenotypes"][:, place].astype(np.int64))
                for place, name in enumerate(names)
            ]
        ),
    }


def _multitask(stays: pl.DataFrame, labels: Labels) -> pl.DataFrame:
    """The multitask lists start at hour 0, a row earlier than the tensors; hour 0 never carries a label."""
    reached = labels.masks["mortality"] == 1
    length, death = stays["los_hours"], stays["death_hours"].fill_null(float("inf"))
    hours = pl.int_ranges(0, pl.col("end"))

    def listed(limit: pl.Series) -> pl.DataFrame:
        # int(limit + epsilon) is the last hour; no hour is listed where death came before admission.
        frame = pl.DataFrame({"row": np.arange(stays.height), "limit": limit, "length": length})
        frame = frame.with_columns(
            end=(pl.col("limit") + EPSILON_HOURS).ceil().clip(lower_bound=0).cast(pl.Int64)
        )
        return frame.with_columns(hour=hours).explode("hour", empty_as_null=True)

    first, died = stays["first_hours"].to_numpy(), stays["mortality"].to_numpy()
    columns: dict[str, pl.Series] = {}
    for task, limit in (("los", length), ("decomp", pl.DataFrame([length, death]).min_horizontal())):
        frame = listed(limit).with_columns(
            first=pl.lit(pl.Series(first)).gather(pl.col("row")),
            died=pl.lit(pl.Series(died)).gather(pl.col("row")),
            death=pl.lit(death).gather(pl.col("row")),
        )
        frame = frame.with_columns(
            mask=((pl.col("hour") > 4) & (pl.col("hour") > pl.col("first"))).cast(pl.Int64),
            los=(pl.col("length") - pl.col("hour")).round(6),
            decomp=((pl.col("died") == 1) & (pl.col("death") - pl.col("hour") < 24.0)).cast(pl.Int64),
        )
        grouped = frame.group_by("row", maintain_order=True).agg(
            pl.col("mask").drop_nulls(), pl.col(task).drop_nulls()
        )
        columns |= {f"{task}_mask": grouped["mask"], f"{task}_label": grouped[task]}
    return stays.select("icustay_id", period_length=pl.col("los_hours").round(6)).with_columns(
        ihm_pos=pl.Series(np.where(reached, MORTALITY_HOUR - 1, 0)),
        ihm_mask=pl.Series(reached.astype(np.int64)),
        ihm_label=pl.Series(died),
        pheno_label=pl.Series(labels.labels["phenotypes"].astype(np.int64).tolist()),
        **columns,
    )
