"""The raw tables of eICU as tensors: 17 channels hourly, mortality, length of stay and optional tasks."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from relif_core.errors import DataError
from relif_core.tensors.clinical import Channel, ClinicalContents
from relif_data.eicu import targets
from relif_data.eicu.channels import ADMISSION_COLUMNS, CHANNELS, INDEX, TABLES, rules_of_reading
from relif_data.eicu.cohort import HOSPITAL_COLUMNS, PATIENT_COLUMNS, contents_of, read_patients, terms_of
from relif_data.eicu.events import TableCount, read_events
from relif_data.eicu.grid import HourlyGrid
from relif_data.labels import CohortFlow
from relif_data.resume import Work, refuse_other_sources
from relif_data.tables import LOST_SHARE, VALUE_SHARE, Table, find_tables, refuse_lost

ADULT_YEARS = 18


def table_tensors(
    source: Path,
    *,
    mortality: Literal["hospital", "unit"],
    mortality_hours: int,
    first_label_hour: int,
    maximum_hours: int | None,
    decompensation: bool,
    diagnosis_groups: bool,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    target: Path,
    progress: Callable[[str], None],
) -> tuple[ClinicalContents, Work]:
    """Return what the folder holds, from raw tables, and the work folder; options as of ``eicu.prepare``.

    An interrupted reading waits in the work folder beside ``target``; the caller clears it (``work``) when
    all is done.

    Raises:
        DataError: `patient`, every measurement table or a column is missing, a file is damaged, stay ids
            repeat, or no stay is left.
    """
    wanted = {"patient": PATIENT_COLUMNS, "hospital": HOSPITAL_COLUMNS}
    wanted |= {"diagnosis": ("patientunitstayid", "diagnosisstring")} if diagnosis_groups else {}
    wanted |= {table.name: table.columns for table in TABLES}
    tables = find_tables(source, wanted, "eICU", needed={"patient", "diagnosis"})
    refuse_other_sources(target, "eicu", tables)
    missing_notes = _missing_tables(source, tables)
    for note in missing_notes:
        progress(note)

    patients = read_patients(tables["patient"])
    terms = terms_of(tables["patient"].path.parent, patients)
    progress(f"patient: {patients.frame.height:,} unit stays")
    flow = _cohort(patients.frame, first_label_hour)
    frame = flow.frame.sort("stay")
    patient = [file["sha256"] for file in tables["patient"].files]
    key = {"patient": patient, "hours": maximum_hours, "first_label_hour": first_label_hour}
    work = Work(target, key, tables)
    if work.changed():  # The grid holds values of a file that is no longer there.
        work.clear()
    stays, minutes = frame["stay"].to_numpy(), frame["minutes"].to_numpy()
    grid = HourlyGrid(stays, minutes, maximum_hours, partial(work.array, "keys", np.int64, old=True))

    admission_notes = _put_admission_values(frame, grid)
    event_notes = []
    for index, table in enumerate(TABLES):
        name = table.name.lower()
        if name not in tables:
            continue
        kept = work.kept(name)
        if kept is None:
            work.begin(name)
            try:
                count = read_events(table, tables[name], grid, index + 2, progress)
            except DataError:
                work.clear()  # The grid is of no use: it holds part of a table that must be fetched again.
                raise
            grid.flush()
            work.finish(name, vars(count) | {"units": dict(count.units)})
        else:
            progress(f"{table.name}: kept from the interrupted run")
            count = TableCount(**kept | {"units": Counter(kept["units"])})
        event_notes.append(count.sentence())

    measured = grid.measured()
    charted = [INDEX[channel.name] for channel in CHANNELS if channel.name not in ADMISSION_COLUMNS.values()]
    with_events = np.asarray(measured[:, charted].any(axis=1))
    flow.frame = frame
    flow.keep("at least one measurement within the unit stay", pl.Series(with_events))
    frame = flow.frame
    available = np.flatnonzero(measured[with_events].any(axis=0))
    empty = [channel.name for channel in CHANNELS if INDEX[channel.name] not in available]
    progress(f"writing {frame.height:,} stays, {len(available)} of {len(CHANNELS)} channels")
    values, observed, offsets = grid.finish(with_events, available, work.array)

    found = [
        targets.mortality(frame, mortality, mortality_hours),
        targets.length_of_stay(frame["minutes"].to_numpy(), offsets, first_label_hour),
    ]
    task_notes = []
    if decompensation:
        found.append(targets.decompensation(frame, offsets, first_label_hour))
    if diagnosis_groups:
        groups_named, notes = targets.diagnosis_groups(frame, tables["diagnosis"])
        found.append(groups_named)
        task_notes += notes
    shares = (validation_fraction, test_fraction)
    of_stays, group_notes = contents_of(frame, found, tables.get("hospital"), shares, seed)
    contents = ClinicalContents(
        **terms,
        **of_stays,
        sources=[file for table in tables.values() for file in table.files],
        channels=[
            Channel(of.name, of.unit, (of.name,), of.normal) for of in map(CHANNELS.__getitem__, available)
        ],
        values=values,
        observed=observed,
        offsets=offsets,
        cohort=flow.steps,
        notes=[
            *missing_notes,
            *([f"Channels without any value, left out: {', '.join(empty)}."] if empty else []),
            *patients.notes,
            *admission_notes,
            *event_notes,
            *rules_of_reading(),
            *task_notes,
            *group_notes,
            *_label_notes(frame, mortality, mortality_hours, first_label_hour),
        ],
    )
    return contents, work


def _cohort(frame: pl.DataFrame, first_label_hour: int) -> CohortFlow:
    flow = CohortFlow(frame, "unit stays in table patient")
    flow.keep(
        "known patient, hospital stay and discharge time",
        pl.col("subject").is_not_null()
        & pl.col("hospital_stay").is_not_null()
        & pl.col("minutes").is_not_null(),
    )
    flow.keep(f"age known and at least {ADULT_YEARS} years", pl.col("age") >= ADULT_YEARS)
    flow.keep(
        "intensive care (stay type is not step-down)",
        ~pl.col("stay_type").fill_null("").str.to_lowercase().str.starts_with("stepdown"),
    )
    shared = flow.frame.filter(pl.col("subject").n_unique().over("hospital_stay") > 1).height
    if shared > LOST_SHARE * flow.frame.height:
        raise DataError(
            f"table patient: patienthealthsystemstayid of {shared:,} of {flow.frame.height:,} unit stays"
            " belongs to several patients; export the column as it is delivered"
        )
    first = pl.col("stay").sort_by(pl.col("visit").fill_null(float("inf")), "stay").first()
    flow.keep(
        "first of the unit stays left in its hospital stay", pl.col("stay") == first.over("hospital_stay")
    )
    flow.keep(
        f"at least {first_label_hour} hours long (shorter stays have no label)",
        pl.col("minutes") >= 60 * first_label_hour,
    )
    return flow


def _missing_tables(source: Path, tables: dict[str, Table]) -> list[str]:
    """Name absent measurement tables and the channels they cost; ``DataError`` where all are absent."""
    present = [table for table in TABLES if table.name.lower() in tables]
    if not present:
        raise DataError(
            f"{source}: no table of measurements is there; at least one of"
            f" {', '.join(table.name for table in TABLES)} is needed"
        )
    covered = {channel for table in present for channel in table.channels} | set(ADMISSION_COLUMNS.values())
    notes = []
    for table in (table for table in TABLES if table not in present):
        lost = ", ".join(channel for channel in table.channels if channel not in covered)
        thinner = ", ".join(channel for channel in table.channels if channel in covered)
        parts = [f"lost: {lost}"] * bool(lost) + [f"from other tables only: {thinner}"] * bool(thinner)
        notes.append(f"Table {table.name} is missing; {'; '.join(parts)}.")
    return notes


def _put_admission_values(frame: pl.DataFrame, grid: HourlyGrid) -> list[str]:
    """Enter height and weight on admission at minute 0; implausible ones are counted and left out.

    Raises:
        DataError: Most of them are implausible.
    """
    notes = []
    for column, name in (("height", "Height"), ("weight", "Weight")):
        channel = CHANNELS[INDEX[name]]
        value = frame[column].fill_null(float("nan")).to_numpy()
        good = (value >= channel.low) & (value <= channel.high)
        known, wrong = int(np.isfinite(value).sum()), int((np.isfinite(value) & ~good).sum())
        refuse_lost(
            "table patient:",
            wrong,
            known,
            f"admission{column}s are out of range, perhaps in another unit than {channel.unit}; export the"
            " column as it is delivered",
            VALUE_SHARE,
        )
        chosen = np.flatnonzero(good)
        grid.put(name, grid.offsets[chosen], np.zeros(len(chosen), dtype=np.int64), value[chosen], 1)
        notes.append(
            f"patient: {len(chosen)} admission {column}s used as measured at minute 0,"
            f" {wrong} out of range, {len(value) - known} unknown."
        )
    return notes


def _label_notes(
    frame: pl.DataFrame, mortality: Literal["hospital", "unit"], mortality_hours: int, first_label_hour: int
) -> list[str]:
    unknown = int(frame["died_hospital" if mortality == "hospital" else "died_unit"].is_null().sum())
    short = int((frame["minutes"] < 60 * mortality_hours).sum())
    return [
        (
            f"Mortality: death in the {mortality}, predicted at hour {mortality_hours}; without label:"
            f" {short} stays that ended before, {unknown} with unknown outcome,"
            f" {int(targets.contradictory(frame).sum())} recorded as dead on leaving the unit and alive on"
            " leaving the hospital."
        ),
        f"Hourly labels stand at whole hours from {first_label_hour} on, up to the discharge from the unit.",
        "Times are those for which a value was charted, not when it was entered.",
    ]
