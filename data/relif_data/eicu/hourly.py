"""The hourly layout of the eICU demo: 48 vital signs and laboratory values, as the YAIB benchmark has them.

In that layout row ``time = h`` of ``dyn`` holds the values of [h, h + 1) hours since admission to the unit,
and ``outc`` of `los` holds floor(stay in hours) - h, at most 168: the remaining stay at the *start* of row h.
Here the label in row h stands at hour h + 1, after everything in the row, and comes from the exact discharge
minute of `patient`, which is never capped.
Source: van de Water et al., *Yet Another ICU Benchmark*, ICLR 2024.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relif_core.errors import DataError, listed
from relif_core.files import described
from relif_core.tensors.clinical import Channel, ClinicalContents
from relif_data.eicu import targets
from relif_data.eicu.cohort import HOSPITAL_COLUMNS, PATIENT_COLUMNS, contents_of, read_patients, terms_of
from relif_data.labels import CohortFlow, forward_fill, offsets_of
from relif_data.sources import own_table
from relif_data.tables import READ_ERRORS, VALUE_SHARE, find_tables, refuse_lost, unreadable

TASKS = ("los", "mortality24")
CAPPED_HOURS = 168
MORTALITY_HOUR = 24
HOUR = 3_600_000  # milliseconds

# Name in the files: (name, unit, value assumed before any measurement: an unremarkable adult's).
VARIABLES: dict[str, tuple[str, str, float]] = {
    row["key"]: (row["name"], row["unit"], float(row["normal"]))
    for row in own_table("tables/eicu_hourly.csv")
}


@dataclass(frozen=True)
class _Task:
    """One task folder of the hourly layout: values, labels, and the files they came from."""

    values: pl.DataFrame
    labels: pl.DataFrame
    files: tuple[dict[str, Any], ...]


def hourly_tensors(
    source: Path,
    *,
    first_label_hour: int,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    progress: Callable[[str], None],
) -> ClinicalContents:
    """Return what the folder holds, from ``hourly/los``, ``hourly/mortality24`` and `patient`.

    Raises:
        DataError: Missing files or columns, repeated or missing hours, values or labels of another kind than
            stated, stays or lengths that are not those of `patient`, or a damaged file.
    """
    tables = find_tables(
        source, {"patient": PATIENT_COLUMNS, "hospital": HOSPITAL_COLUMNS}, "eICU", needed={"patient"}
    )
    patients = read_patients(tables["patient"])
    terms = terms_of(tables["patient"].path.parent, patients)
    progress(f"patient: {patients.frame.height:,} unit stays")
    los, deaths = (_read_task(source / "hourly" / name) for name in TASKS)
    # mortality24 adds the hour before admission to its hour 0; the rows of los hold that hour's values alone.
    extra = deaths.values.join(los.values.select("stay_id").unique(), on="stay_id", how="anti")
    values = pl.concat([los.values, extra]).sort("stay_id", "hour")
    progress(f"hourly values: {values.height:,} hours of {values['stay_id'].n_unique():,} stays")

    flow = CohortFlow(patients.frame, "unit stays in table patient")
    present = values["stay_id"].unique()
    strangers = int((~present.is_in(patients.frame["stay"].implode())).sum())
    rest = "stays of the hourly files are not in table patient; take both from one release"
    refuse_lost(f"{source}:", strangers, len(present), rest)
    flow.keep(
        "on the hourly grid (long enough, measured enough: chosen by its makers)",
        pl.col("stay").is_in(present.implode()),
    )
    flow.keep(
        "known patient and discharge time",
        pl.col("subject").is_not_null() & (pl.col("minutes") > 0),
    )
    frame = flow.frame.sort("stay")
    minutes = frame["minutes"].to_numpy()

    hours = frame.select("stay", last=(pl.col("minutes") + 59) // 60)
    rows = values.join(hours, left_on="stay_id", right_on="stay").filter(pl.col("hour") < pl.col("last"))
    rows = rows.sort("stay_id", "hour")
    counts = rows.group_by("stay_id", maintain_order=True).len()["len"].cast(pl.Int64).to_numpy()
    offsets = offsets_of(counts)
    raw = rows.select(*VARIABLES).to_numpy()
    observed = np.isfinite(raw)
    normal = np.array([variable[2] for variable in VARIABLES.values()])
    filled = forward_fill(raw, observed, offsets, normal)

    length = targets.length_of_stay(minutes, offsets, first_label_hour)
    mortality, alive_later = _mortality(frame, deaths.labels, counts)
    found, shares = [mortality, length], (validation_fraction, test_fraction)
    of_stays, group_notes = contents_of(frame, found, tables.get("hospital"), shares, seed)
    return ClinicalContents(
        **terms,
        **of_stays,
        sources=[*los.files, *deaths.files, *(file for table in tables.values() for file in table.files)],
        channels=[Channel(name, unit, (key,), start) for key, (name, unit, start) in VARIABLES.items()],
        values=filled,
        observed=observed,
        offsets=offsets,
        cohort=flow.steps,
        notes=[
            *patients.notes,
            *([f"{strangers} stays of the hourly files are not in table patient."] if strangers else []),
            *group_notes,
            *_length_notes(rows, los.labels, frame),
            (
                f"Mortality: death in the unit, predicted at hour {MORTALITY_HOUR} from rows 0 to"
                f" {MORTALITY_HOUR - 1}; the makers label stays of 30 hours and more:"
                f" {int(mortality.mask.sum())} stays, {int(mortality.labels[mortality.mask == 1].sum())}"
                f" deaths, {alive_later} of them marked alive at hospital discharge in table patient."
            ),
            (
                "Empty cells were not measured in that hour; they hold the last value before, else the"
                " channel's normal value."
            ),
            "Blood pressure mixes invasive and non-invasive readings; there is no coma scale in this layout.",
        ],
    )


def _read_task(folder: Path) -> _Task:
    files, frames = [], {}
    for name, columns in (("dyn", ("stay_id", "time", *VARIABLES)), ("outc", ("stay_id", "label"))):
        path = folder / f"{name}.parquet"
        if not path.is_file():
            raise DataError(f"{path} is missing; the hourly layout has {', '.join(TASKS)} with dyn and outc")
        try:
            frame = pl.read_parquet(path, glob=False)
        except READ_ERRORS as error:
            raise unreadable(path, error) from error
        files.append(described(path) | {"name": f"{folder.name}/{path.name}", "rows": frame.height})
        _require(frame, columns, path)
        hours = [_hour(frame, path)] if "time" in frame.columns else []
        frames[name] = frame.with_columns(pl.col("stay_id").cast(pl.Int64), *hours)
    values = frames["dyn"].select("stay_id", "hour", pl.col(*VARIABLES).cast(pl.Float64))
    _require_all_hours(values, folder / "dyn.parquet")
    return _Task(values, frames["outc"], tuple(files))


def _require(frame: pl.DataFrame, columns: tuple[str, ...], path: Path) -> None:
    """Check that a file has rows, some columns, numbers in all but the time, and whole numbers as ids."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(f"{path} lacks column {listed(map(repr, missing))}")
    if not frame.height:
        raise DataError(f"{path} holds no rows; fetch the file again")
    for column in columns:
        kind = frame.schema[column]
        if column != "time" and not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
            held = "text" if kind == pl.String else f"{kind}"
            raise DataError(f"{path}: column {column!r} holds {held}, not numbers")
        if kind.is_float() and (endless := int(frame[column].is_infinite().sum())):
            raise DataError(f"{path}: {endless} values of column {column!r} are infinite; leave them empty")
    if lost := int((frame["stay_id"].cast(pl.Float64) % 1 != 0).fill_null(True).sum()):
        raise DataError(f"{path}: {lost} rows have no whole number as stay_id; fetch the file again")


def _hour(frame: pl.DataFrame, path: Path) -> pl.Series:
    """The whole hours since admission; durations and numbers of hours are understood."""
    time = frame["time"]
    if isinstance(time.dtype, pl.Duration):
        milliseconds = time.dt.total_milliseconds()
    elif time.dtype.is_numeric():
        milliseconds = (time.cast(pl.Float64) * HOUR).cast(pl.Int64, strict=False)
    else:
        raise DataError(f"{path}: column 'time' is {time.dtype}, not a duration or a number of hours")
    broken = ((milliseconds < 0) | (milliseconds % HOUR != 0)).fill_null(True)
    if broken.any():
        raise DataError(f"{path}: {int(broken.sum())} times are no whole hours since admission")
    return (milliseconds // HOUR).alias("hour")


def _require_all_hours(values: pl.DataFrame, path: Path) -> None:
    """Check that each stay has each hour from 0 to its last exactly once."""
    hour = pl.col("hour")
    counts = values.group_by("stay_id").agg(pl.len(), last=hour.max(), distinct=hour.n_unique())
    for fault, words in (
        (pl.col("distinct") < pl.col("len"), "have an hour twice"),
        (pl.col("last") + 1 != pl.col("len"), "lack hours"),
    ):
        if stays := counts.filter(fault).height:
            raise DataError(f"{path}: {stays} stays {words}; fetch the file again")


def _mortality(frame: pl.DataFrame, labels: pl.DataFrame, rows: np.ndarray) -> tuple[targets.Target, int]:
    """The stay labels of mortality24, and how many of the dead are marked alive at hospital discharge."""
    if labels["stay_id"].n_unique() != labels.height:
        raise DataError("mortality24/outc.parquet has more than one label for a stay; fetch the file again")
    if not labels["label"].cast(pl.Float64).is_in([0.0, 1.0]).all():
        raise DataError("mortality24/outc.parquet has labels other than 0 and 1; fetch the file again")
    labels = labels.select("label", stay="stay_id")
    joined = frame.join(labels, on="stay", how="left", maintain_order="left")
    task = targets.mortality(joined, "unit", MORTALITY_HOUR).task
    label = joined["label"].fill_null(0).to_numpy().astype(np.int16)
    mask = joined["label"].is_not_null().to_numpy() & (rows >= MORTALITY_HOUR)
    alive = (~joined["died_hospital"].fill_null(True)).to_numpy()
    return targets.Target(task, label, mask.astype(np.uint8)), int((alive & mask & (label == 1)).sum())


def _length_notes(rows: pl.DataFrame, labels: pl.DataFrame, frame: pl.DataFrame) -> list[str]:
    """Compare the published labels with the discharge times that are used instead."""
    if "hour" not in labels.columns:
        raise DataError("los/outc.parquet lacks column 'time'; fetch the file again")
    joined = (
        rows.select("stay_id", "hour")
        .join(labels.select("stay_id", "hour", "label"), on=["stay_id", "hour"])
        .join(frame.select("stay", "minutes"), left_on="stay_id", right_on="stay")
        .with_columns(exact=pl.col("minutes") // 60 - pl.col("hour"))
    )
    capped = joined.filter(pl.col("exact") > CAPPED_HOURS)
    same = joined.filter(pl.col("exact").clip(upper_bound=CAPPED_HOURS) == pl.col("label")).height
    refuse_lost(
        "los/outc.parquet:",
        joined.height - same,
        joined.height,
        "labels are not the hours left until the discharge minute in table patient; take both from one"
        " release",
        VALUE_SHARE,
    )
    return [
        (
            "Remaining length of stay comes from the discharge minute in table patient, which has no cap: of"
            f" the published labels {same} of {joined.height} equal min(floor(stay) - hour, {CAPPED_HOURS})"
            f" from that minute; {capped.height} of them, in {capped['stay_id'].n_unique()} stays, are capped"
            " and would hide the classes from 7 days up."
        ),
        f"Inputs end after {CAPPED_HOURS + 1} hours: longer stays have no rows and no labels beyond.",
    ]
