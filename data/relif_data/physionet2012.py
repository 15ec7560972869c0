"""PhysioNet/Computing in Cardiology Challenge 2012: the first 48 hours of adult intensive care stays.

The source folder holds, for each set a, b and c, ``set-x`` as a .tar.xz, .tar.gz or .zip archive or a folder
(tried in this order) with one ``<RecordID>.txt`` per stay, and ``Outcomes-x.txt``. Set a gives train and
validation, the other sets the test part; of set a alone as many stays again are the test part.

*Inputs.* 37 time-series variables in 48 hourly rows. A reading at minute ``m`` belongs to row ``m // 60``; of
several within an hour the last one counts (at equal minutes the later line of the file). Readings at 48:00
belong to no row. The admission weight is a reading at minute 0. Height, age, sex and unit are not inputs; the
last three are groups. ``-1`` means missing. Values outside a variable's possible range (``VARIABLES``) are no
measurements: they are dropped and counted in the manifest, never mended. Gaps are filled with the last value
carried forward, before the first value with the median of the training part.

*Labels*, all read at hour 48: death in hospital; days from admission to the unit to the end of
hospitalisation, in ten classes; SAPS-I and SOFA, in four classes each that cut set a near its quartiles. The
scores describe the early stay itself, so they are reconstructed from hours that the input contains, not
forecast. ``-1`` in the outcomes means no label. Published lengths of stay below two days contradict the
selection of stays of 48 hours or more; they are kept as published and counted.

Source: Silva et al., Computing in Cardiology 39:245-248, 2012.
"""

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relif_core.errors import DataError, InputError, listed
from relif_core.files import described, refuse_inside
from relif_core.tensors.clinical import Channel, ClinicalContents, CohortStep, Group, Task, write_tensors
from relif_data.archives import read_members
from relif_data.labels import (
    AGE_BANDS,
    LENGTH_OF_STAY_CLASSES,
    age_band,
    forward_fill,
    length_of_stay_class,
    require_integer,
    split_by_subject,
)
from relif_data.sources import REGISTRY, own_table
from relif_data.tables import FEW, VALUE_SHARE, first_of, open_table, refuse_lost

HOURS = 48
UNNAMED_SHARE = 0.01
SETS = ("a", "b", "c")


@dataclass(frozen=True)
class Variable:
    """A time-series variable: unit, possible range (inclusive), usual value where training has none."""

    name: str
    unit: str
    low: float
    high: float
    usual: float


VARIABLES = tuple(
    Variable(name, unit, float(low), float(high), float(usual))
    for name, unit, low, high, usual in map(dict.values, own_table("tables/physionet2012.csv"))
)
DESCRIPTORS = ("RecordID", "Age", "Gender", "Height", "ICUType")
SEXES = ("female", "male", "unknown")
ICU_TYPES = ("coronary care", "cardiac surgery recovery", "medical", "surgical")
SAPS_BOUNDS = (11, 15, 19)
SOFA_BOUNDS = (3, 7, 10)

TASKS = (
    Task("mortality", "Death in hospital", "binary", "stay", horizon_hours=HOURS),
    Task("los", "Length of stay", "binned", "stay", 10, LENGTH_OF_STAY_CLASSES, HOURS, "days"),
    Task("saps", "SAPS-I", "binned", "stay", 4, ("< 11", "11–14", "15–18", "≥ 19"), HOURS, "points"),
    Task("sofa", "SOFA", "binned", "stay", 4, ("< 3", "3–6", "7–9", "≥ 10"), HOURS, "points"),
)
GROUPS = (
    Group("sex", "Sex", SEXES),
    Group("age_band", "Age in years", (*AGE_BANDS, "unknown")),
    Group("icu_type", "Type of intensive care unit", ICU_TYPES),
)

# Survival is in the files, sometimes as a negative number of days; nothing here uses it.
_OUTCOME_RANGES = {
    "RecordID": (1, 2**31),
    "SAPS-I": (-1, 60),
    "SOFA": (-1, 24),
    "Length_of_stay": (-1, 10_000),
    "In-hospital_death": (0, 1),
}
_HEADER = b"Time,Parameter,Value\n"
_LAST_MINUTE = HOURS * 60
_NUMBER = re.compile(r"[0-9]{1,18}")
_TIME = r"^([0-9]{1,9}):([0-5][0-9])$"
_CODES = {variable.name: code for code, variable in enumerate(VARIABLES)}
_CODES |= {name: len(VARIABLES) + code for code, name in enumerate(DESCRIPTORS)}
_EMPTY_PARAMETER = len(_CODES)
_WEIGHT = _CODES["Weight"]


@dataclass(frozen=True)
class ChallengeSet:
    """One parsed set, stays in the order of their ids.

    Attributes:
        readings: float32 [stays, 48, 37], NaN where an hour has no reading.
        descriptors: Age (years), Gender (0, 1) and so on → float64 [stays], -1 missing; ICUType is 1..4.
        outcomes: Column → int64 [stays], -1 missing.
        dropped: Impossible readings per variable.
        late: Readings at 48:00.
        unnamed: Lines without a parameter name.
    """

    name: str
    ids: np.ndarray
    readings: np.ndarray
    descriptors: dict[str, np.ndarray]
    outcomes: dict[str, np.ndarray]
    dropped: np.ndarray
    late: int
    unnamed: int
    without_series: int
    sources: list[dict[str, Any]]


def prepare(
    source: Path | None,
    target: Path,
    *,
    seed: int = 0,
    validation: float = 0.2,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Turn the challenge's files into clinical tensors.

    Args:
        source: Folder of the files.
        target: Folder of the tensors.
        seed: Of the draw over record ids.
        validation: Share of set a held out for validation.
        progress: Called with a line of text per step.

    Raises:
        InputError: A fraction outside (0, 1), or a target within a set.
        DataError: File and line of a missing or broken archive, a path that leaves it, a missing or repeated
            outcome or record, an unknown parameter, a value that is no number, a time outside 00:00 to 48:00,
            or a variable most of whose readings are impossible.
    """
    require_integer("seed", seed, least=0)
    if not isinstance(validation, float) or not 0 < validation < 1:
        raise InputError(
            f"validation={validation}: give the part of set a for validation, a number between 0 and 1"
        )
    if source is None or not Path(source).is_dir():
        raise DataError(f"{source}: not a folder; it should hold set-a, Outcomes-a.txt and so on")
    report = progress or (lambda message: None)
    parts = []
    for name in SETS:
        if _set_path(Path(source), name) is None and not (Path(source) / f"Outcomes-{name}.txt").exists():
            continue
        refuse_inside(target, Path(source) / f"set-{name}")
        report(f"reading set {name}")
        parts.append(read_set(Path(source), name))
    present = [part.name for part in parts]
    if "a" not in present:
        raise DataError(
            f"{source}: found {f'set {listed(present)}' if present else 'no set'}; set a (train,"
            " validation) with its Outcomes file is needed; sets b and c are the test part"
        )
    if len(parts) == 1 and validation >= 0.5:
        raise InputError(
            f"validation={validation}: set a alone gives as many stays again for the test; less than 0.5"
        )
    report("writing tensors")
    return _write(parts, target, seed, validation)


def read_set(source: Path, name: str) -> ChallengeSet:
    """Read one set (``name`` a, b or c) with outcomes from ``source``; ``DataError`` as of ``prepare``."""
    path = _set_path(source, name)
    outcomes_path = source / f"Outcomes-{name}.txt"
    if path is None:
        raise DataError(f"{source}: {outcomes_path.name} is here, but no archive or folder set-{name}")
    if not outcomes_path.is_file():
        raise DataError(f"{outcomes_path} is missing; without outcomes there are no labels")
    ids, bodies, record = _read_records(path)
    table = _parse(path, ids, bodies)
    outcomes = _read_outcomes(outcomes_path)
    _require_same_ids(path, ids, outcomes_path, outcomes["RecordID"])
    return _grid(name, path, ids, table, outcomes, [record, described(outcomes_path)])


def _set_path(source: Path, name: str) -> Path | None:
    paths = (source / f"set-{name}{suffix}" for suffix in (".tar.xz", ".tar.gz", ".zip", ""))
    return next((path for path in paths if path.exists()), None)


def _read_records(path: Path) -> tuple[np.ndarray, list[bytes], dict[str, Any]]:
    """Return ascending record ids, each record's lines without header, and the source's checksum."""
    found: dict[int, bytes] = {}
    digest = hashlib.sha256()
    size = 0
    for member, content in read_members(path):
        stem, _, suffix = member.rpartition("/")[2].rpartition(".")
        if suffix != "txt" or not _NUMBER.fullmatch(stem):
            raise DataError(f"{path}: {member!r} is no record; expected files named <RecordID>.txt only")
        if int(stem) in found:
            raise DataError(f"{path}: record {int(stem)} is there twice (second time as {member!r})")
        text = content.replace(b"\r\n", b"\n")
        if not text.startswith(_HEADER):
            raise DataError(f"{path}: {member!r} does not start with the line {_HEADER.decode().strip()!r}")
        found[int(stem)] = text[len(_HEADER) :] if text.endswith(b"\n") else text[len(_HEADER) :] + b"\n"
        size += len(content)
        if path.is_dir():
            digest.update(member.encode() + b"\0" + hashlib.sha256(content).digest())
    if not found:
        raise DataError(f"{path}: holds no record files <RecordID>.txt")
    ids = np.array(sorted(found), dtype=np.int64)
    if path.is_dir():
        record = {"name": f"{path.name}/", "bytes": size, "sha256": digest.hexdigest()}
    else:
        record = described(path)
    return ids, [found[int(identity)] for identity in ids], record


def _parse(path: Path, ids: np.ndarray, bodies: list[bytes]) -> pl.DataFrame:
    """Parse all records at once: record (position in ``ids``), minute, code, value, in file order."""
    lines = np.array([body.count(b"\n") for body in bodies])
    starts = np.cumsum(lines) - lines

    def fail(row: int, problem: str) -> DataError:
        # A record's number names its file in a public set: it is the place; no cell is ever told.
        record = int(np.searchsorted(starts, row, side="right")) - 1
        return DataError(f"{path}: record {ids[record]}, line {row - starts[record] + 2}: {problem}")

    text = b"".join(bodies)
    try:
        table = pl.read_csv(
            io.BytesIO(text),
            glob=False,
            has_header=False,
            schema={"time": pl.String, "parameter": pl.String, "value": pl.String},
            quote_char=None,
        )
        whole = table.height == lines.sum() and text.count(b",") == 2 * lines.sum()
    except pl.exceptions.PolarsError:
        whole = False
    if not whole:
        for row, line in enumerate(text.split(b"\n")[:-1]):
            if line.count(b",") != 2 or not line.isascii():
                raise fail(row, "it is not of the form Time,Parameter,Value")
        raise DataError(f"{path}: the records cannot be parsed; download the set again")

    table = table.with_columns(pl.all().fill_null(""))
    hours, minutes = (pl.col("time").str.extract(_TIME, part).cast(pl.Int64) for part in (1, 2))
    # Set c is known to hold lines without a parameter name: nothing can be read from them.
    codes = _CODES | {"": _EMPTY_PARAMETER}
    parsed = table.select(
        minute=(60 * hours + minutes).fill_null(-1),
        code=pl.col("parameter").replace_strict(codes, default=-1, return_dtype=pl.Int32),
        value=pl.col("value").cast(pl.Float64, strict=False),
    ).with_columns(record=pl.Series(np.repeat(np.arange(len(ids)), lines)))
    unnamed = parsed["code"] == _EMPTY_PARAMETER
    if (lost := int(unnamed.sum())) > max(UNNAMED_SHARE * parsed.height, FEW):
        problem = f"no parameter name, as on {lost:,} of {parsed.height:,} lines; get the set again"
        raise fail(first_of(unnamed) - 1, problem)
    no_number = (parsed["code"] != _EMPTY_PARAMETER) & ~parsed["value"].is_finite().fill_null(False)
    for bad, problem in (
        (~parsed["minute"].is_between(0, _LAST_MINUTE), f"its time is not between 00:00 and {HOURS}:00"),
        (parsed["code"] < 0, "its parameter is unknown"),
        (no_number, "its value of {} is no number"),
    ):
        if bad.any():
            row = first_of(bad) - 1
            raise fail(row, problem.format(table["parameter"][row]))
    return parsed


def _read_outcomes(path: Path) -> dict[str, np.ndarray]:
    """Read an Outcomes file into int64 columns in the order of the record ids."""
    wanted = [name.lower() for name in _OUTCOME_RANGES]
    table = open_table("Outcomes", (path,), wanted).read(dict.fromkeys(wanted, pl.String))
    columns = {}
    for name, (low, high) in _OUTCOME_RANGES.items():
        numbers = table[name.lower()].cast(pl.Int64, strict=False)
        bad = ~numbers.is_between(low, high).fill_null(False)
        if bad.any():
            raise DataError(f"{path}, line {first_of(bad) + 1}: {name} is not an integer in {low}..{high}")
        columns[name] = numbers.to_numpy()
    order = np.argsort(columns["RecordID"], kind="stable")
    columns = {name: column[order] for name, column in columns.items()}
    repeated = columns["RecordID"][1:][np.diff(columns["RecordID"]) == 0]
    if len(repeated):
        raise DataError(f"{path}: record {repeated[0]} has more than one outcome")
    return columns


def _require_same_ids(path: Path, ids: np.ndarray, outcomes_path: Path, outcome_ids: np.ndarray) -> None:
    """Check that every record has its outcome and every outcome its record."""
    for given, place, other, lacking in (
        (ids, outcomes_path, outcome_ids, "outcome"),
        (outcome_ids, path, ids, "record"),
    ):
        absent = np.setdiff1d(given, other)
        if len(absent):
            raise DataError(
                f"{place}: no {lacking} for {len(absent)} stay(s), the first is {absent[0]}; get the file"
                " again"
            )


def _grid(
    name: str,
    path: Path,
    ids: np.ndarray,
    table: pl.DataFrame,
    outcomes: dict[str, np.ndarray],
    sources: list[dict[str, Any]],
) -> ChallengeSet:
    record, minute, code, value = (
        table[column].to_numpy() for column in ("record", "minute", "code", "value")
    )
    moment = record.astype(np.int64) * (_LAST_MINUTE + 1) + minute
    if (np.diff(moment) < 0).any():
        order = np.argsort(moment, kind="stable")
        record, minute, code, value = record[order], minute[order], code[order], value[order]

    descriptors = _descriptors(path, ids, record, code, value)
    series = code < len(VARIABLES)
    low = np.array([variable.low for variable in VARIABLES])
    high = np.array([variable.high for variable in VARIABLES])
    known = series & (value != -1)
    position = np.where(series, code, 0)
    possible = (value >= low[position]) & (value <= high[position])
    late = known & possible & (minute == _LAST_MINUTE)
    used = known & possible & ~late
    given, dropped = (
        np.bincount(code[rows], minlength=len(VARIABLES)) for rows in (known, known & ~possible)
    )
    for variable, total, lost in zip(VARIABLES, given, dropped, strict=True):
        rest = f"outside {variable.low:g} to {variable.high:g} {variable.unit}, perhaps in another unit"
        rest = f"readings of {variable.name} lie {rest}; get the set again"
        refuse_lost(f"{path}:", lost, total, rest, VALUE_SHARE)

    readings = np.full((len(ids), HOURS, len(VARIABLES)), np.nan, dtype=np.float32)
    # Assignment runs in order, so the last reading of an hour stays.
    readings[record[used], minute[used] // 60, code[used]] = value[used]
    with_series = np.zeros(len(ids), dtype=bool)
    with_series[record[series & ~((code == _WEIGHT) & (minute == 0))]] = True
    return ChallengeSet(
        name=name,
        ids=ids,
        readings=readings,
        descriptors=descriptors,
        outcomes=outcomes,
        dropped=dropped,
        late=int(late.sum()),
        unnamed=int((code == _EMPTY_PARAMETER).sum()),
        without_series=int((~with_series).sum()),
        sources=sources,
    )


def _descriptors(
    path: Path, ids: np.ndarray, record: np.ndarray, code: np.ndarray, value: np.ndarray
) -> dict[str, np.ndarray]:
    """Return each stay's general descriptors; every one must be there exactly once and be possible."""
    allowed: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "RecordID": lambda column: column == ids,
        "Age": lambda column: (column == -1) | ((column >= 0) & (column <= 130)),
        "Gender": lambda column: np.isin(column, (-1, 0, 1)),
        "Height": lambda column: (column == -1) | (column >= 0),
        "ICUType": lambda column: np.isin(column, (1, 2, 3, 4)),
    }
    columns = {}
    for name in DESCRIPTORS:
        chosen = code == _CODES[name]
        count = np.bincount(record[chosen], minlength=len(ids))
        if (count != 1).any():
            stay = int(np.argmax(count != 1))
            raise DataError(f"{path}: record {ids[stay]} has {count[stay]} lines {name!r}, expected one")
        column = np.empty(len(ids))
        column[record[chosen]] = value[chosen]
        bad = ~allowed[name](column)
        if bad.any():
            stay = int(np.argmax(bad))
            raise DataError(f"{path}: record {ids[stay]}: its {name} is not possible")
        columns[name] = column
    return columns


def _write(parts: list[ChallengeSet], target: Path, seed: int, validation: float) -> Path:
    def joined(of: str) -> dict[str, np.ndarray]:
        columns = [getattr(part, of) for part in parts]
        return {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}

    ids = np.concatenate([part.ids for part in parts])
    sex, age, unit = (joined("descriptors")[name] for name in ("Gender", "Age", "ICUType"))
    distinct, count = np.unique(ids, return_counts=True)
    if (count > 1).any():
        raise DataError(f"record {distinct[count > 1][0]} is in more than one set")
    split = np.concatenate(
        [
            split_by_subject(part.ids, validation, validation if len(parts) == 1 else 0, seed)
            if part.name == "a"
            else np.full(len(part.ids), 2, dtype=np.uint8)
            for part in parts
        ]
    )
    readings = np.concatenate([part.readings for part in parts]).reshape(-1, len(VARIABLES))
    observed = ~np.isnan(readings)
    offsets = np.arange(len(ids) + 1) * HOURS
    normal, fallbacks = _normal_values(readings, observed, np.repeat(split == 0, HOURS))
    labels, masks = _labels(joined("outcomes"))
    sets = f"{'set' if len(parts) == 1 else 'sets'} {', '.join(part.name for part in parts)}"
    return write_tensors(
        target,
        ClinicalContents(
            **REGISTRY["physionet2012"].terms,
            sources=[source for part in parts for source in part.sources],
            channels=[
                Channel(variable.name, variable.unit, (variable.name,), float(value))
                for variable, value in zip(VARIABLES, normal, strict=True)
            ],
            tasks=TASKS,
            groups=GROUPS,
            group_codes={
                "sex": np.where(sex < 0, 2, sex),
                "age_band": np.where(age < 0, len(AGE_BANDS), age_band(age)),
                "icu_type": unit - 1,
            },
            cohort=[CohortStep(f"stays of {sets}", 0, len(ids), len(ids))],
            notes=_notes(parts, masks, fallbacks),
            options={"seed": seed, "validation": validation},
            values=forward_fill(readings, observed, offsets, normal),
            observed=observed,
            offsets=offsets,
            stays=ids,
            subjects=ids,
            split=split,
            labels=labels,
            label_masks=masks,
        ),
    )


def _normal_values(
    readings: np.ndarray, observed: np.ndarray, training: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Return each variable's median over observed training hours, and the variables that have none.

    The ventilation flag is only ever recorded as 1, so its value before the first record is 0, not a median.
    """
    normal = np.array([variable.usual for variable in VARIABLES])
    fallbacks = []
    for code, variable in enumerate(VARIABLES):
        seen = training & observed[:, code]
        if variable.name == "MechVent":
            continue
        if seen.any():
            normal[code] = float(f"{np.median(readings[seen, code]):.6g}")
        else:
            fallbacks.append(variable.name)
    return normal, fallbacks


def _labels(outcomes: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    days, saps, sofa = outcomes["Length_of_stay"], outcomes["SAPS-I"], outcomes["SOFA"]
    known = {"mortality": outcomes["In-hospital_death"], "los": days, "saps": saps, "sofa": sofa}
    classes = {
        "los": length_of_stay_class(days),
        "saps": np.searchsorted(SAPS_BOUNDS, saps, side="right"),
        "sofa": np.searchsorted(SOFA_BOUNDS, sofa, side="right"),
    }
    return known | classes, {name: (values >= 0).astype(np.uint8) for name, values in known.items()}


def _notes(parts: list[ChallengeSet], masks: dict[str, np.ndarray], fallbacks: list[str]) -> list[str]:
    dropped = np.sum([part.dropped for part in parts], axis=0)
    short = sum(int(np.isin(part.outcomes["Length_of_stay"], (0, 1)).sum()) for part in parts)
    absent = [name for name in SETS if name not in {part.name for part in parts}]
    counts = (f"{variable.name} {count}" for variable, count in zip(VARIABLES, dropped, strict=True) if count)
    impossible = f" ({', '.join(counts)})" if dropped.any() else ""
    tests = ", ".join(f"set {part.name}" for part in parts if part.name != "a")
    unlabelled = ", ".join(f"{name} {int((mask == 0).sum())}" for name, mask in masks.items())
    without = sum(part.without_series for part in parts)
    notes = [
        f"Train and validation: set a; test: {tests or 'as many stays of set a'}."
        + "".join(f" Set {name} was absent." for name in absent),
        "Subjects are stays: the challenge does not tell which stays belong to one person.",
        f"Readings dropped as impossible: {int(dropped.sum())}{impossible}.",
        f"Readings at 48:00, after the last row: {sum(part.late for part in parts)}.",
        f"Stays without any time series, kept with filled rows: {without}.",
        f"Stays without a label: {unlabelled}.",
        f"Published lengths of stay below two days, kept: {short}.",
        "SAPS-I and SOFA describe hours that the input contains: reconstruction, not forecast.",
    ]
    unnamed = sum(part.unnamed for part in parts)
    if unnamed:
        notes.append(f"Lines without a parameter name, passed over: {unnamed}.")
    if fallbacks:
        notes.append(f"No training reading, usual value used instead of a median: {', '.join(fallbacks)}.")
    return notes
