"""What each repair alone changes in inputs and labels, counted against the benchmark."""

import dataclasses
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from relif_data.mimic3.cleaning import REPAIRS
from relif_data.mimic3.cohort import find_tables
from relif_data.mimic3.preparation import Extraction, buckets, extract, series_of, with_outcomes
from relif_data.mimic3.series import Grid, bins_of, hourly_grid
from relif_data.mimic3.tasks import Labels, label_stays, phenotype_labels, read_diagnoses

LABEL_REPAIRS = frozenset({"all_diagnosis_codes", "hospital_death", "los_after_death"})
TOGETHER = "all default repairs"


def repair_effects(source: Path) -> pl.DataFrame:
    """Return what each repair, and the default ones together, change in the benchmark's data: a row each.

    Columns: ``repair``, ``default``; ``events``, event rows (for numeric_maximum chart times, for label
    repairs none) that the rule touched; ``value_cells`` and ``mask_cells``, stay-hour and channel cells whose
    filled value or mask changed, of ``all_cells``; ``stays`` with any such change; and per task the labels
    that changed, appeared or disappeared. The events are read once; inputs are made a bounded number of rows
    at a time.
    """
    single = {name: frozenset({name}) for name in REPAIRS}
    variants = {**single, TOGETHER: frozenset(name for name, repair in REPAIRS.items() if repair.default)}
    with tempfile.TemporaryDirectory(prefix="mimic3-") as work:
        tables = find_tables(Path(source), frozenset())
        base = extract(tables, frozenset(), Path(work) / "effects", lambda message: None)
        every_code = read_diagnoses(tables, frozenset({"all_diagnosis_codes"}))
        totals: dict[str, Counter[str]] = {name: Counter() for name in variants}
        for stays, load in buckets(base):
            rows = load()
            published = _inputs(stays, rows, base, Counter())
            for name, repairs in variants.items():
                diagnoses = every_code if "all_diagnosis_codes" in repairs else base.diagnoses
                repaired = dataclasses.replace(base, repairs=repairs, diagnoses=diagnoses)
                counts: Counter[str] = Counter()
                reuse = published if repairs <= LABEL_REPAIRS else None
                _compare(published, _inputs(stays, rows, repaired, counts, reuse), totals[name])
                totals[name]["events"] += sum(counts[repair] for repair in repairs)
    columns = ("events", "value_cells", "mask_cells", "all_cells", "stays")
    tasks = ("mortality", "decompensation", "los", "phenotypes")
    return pl.DataFrame(
        [
            {
                "repair": name,
                "default": name == TOGETHER or REPAIRS[name].default,
                **{column: totals[name][column] for column in columns},
                **{f"{task}_labels": totals[name][task] for task in tasks},
            }
            for name in variants
        ]
    )


@dataclasses.dataclass(frozen=True)
class _Inputs:
    series: pl.DataFrame
    grid: Grid
    labels: Labels


def _inputs(
    stays: pl.DataFrame,
    rows: pl.DataFrame,
    extraction: Extraction,
    counts: Counter[str],
    reuse: _Inputs | None = None,
) -> _Inputs:
    """Inputs and labels of every stay with a length, whether it has events or not, so that variants align."""
    stays = stays.filter((pl.col("los_hours") > 0).fill_null(False))
    bins = bins_of(stays["los_hours"].to_numpy())
    if reuse is None:
        series = series_of(rows, stays, extraction.repairs, counts)
        grid = hourly_grid(series, stays["stay"].to_numpy(), bins)
    else:
        series, grid = reuse.series, reuse.grid
    described = with_outcomes(stays, series, extraction)
    # No event: no hour is after the first one, so no hourly label, nor a mortality label.
    described = described.with_columns(pl.col("first_hours").fill_null(float("inf")))
    return _Inputs(
        series,
        grid,
        label_stays(described, phenotype_labels(described, extraction.diagnoses), bins, extraction.repairs),
    )


def _compare(published: _Inputs, repaired: _Inputs, total: Counter[str]) -> None:
    values = published.grid.filled != repaired.grid.filled
    masks = published.grid.observed != repaired.grid.observed
    total["value_cells"] += int(values.sum())
    total["mask_cells"] += int(masks.sum())
    total["all_cells"] += values.size
    changed = (values | masks).any(axis=1)
    total["stays"] += int((np.add.reduceat(changed, published.grid.offsets[:-1]) > 0).sum())
    for task, label in published.labels.labels.items():
        before, after = published.labels.masks[task] == 1, repaired.labels.masks[task] == 1
        differs = label != repaired.labels.labels[task]
        if differs.ndim == 2:
            total[task] += int(differs[before & after].sum())
        else:
            total[task] += int(((before != after) | (before & after & differs)).sum())
