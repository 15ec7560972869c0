"""Clinical time series as tensors on disk: one format for every clinical source.

One row is one hour of one stay; the stays lie one after another, stay ``i`` owning rows
``offsets[i]:offsets[i + 1]``. Row ``r`` of a stay covers hours ``[r, r + 1)`` since admission. A label in row
``r`` is the label *at* hour ``r + 1``, so its input is rows ``0..r`` and nothing later.

=====================  ==================================================================================
array                  content
=====================  ==================================================================================
``values``             float32 [rows, value columns], source units, gaps filled, not standardised
``observed``           uint8 [rows, channels], 1 where the channel was measured within that hour
``offsets``            int64 [stays + 1]
``stays, subjects``    int64 [stays], ids
``split``              uint8 [stays], 0 train, 1 validation, 2 test
``labels/<task>``      [stays], [stays, classes] (multilabel) or [rows] (hourly)
``masks/<task>``       uint8 [stays] or [rows], 1 where a label exists
``groups/<group>``     uint8 [stays], index into the group's levels
=====================  ==================================================================================

The manifest adds units, licence, source checksums, cohort counts, and each value column's mean and standard
deviation over the *training* rows, with which a model input is standardised.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from relif_core.errors import DataError
from relif_core.tensors.folder import (
    BLOCK_ROWS,
    SPLITS,
    Contents,
    TensorFolder,
    check_array_folder,
    release,
    require,
    whole_numbers,
    write_array_folder,
)

FORMAT = "relif-clinical-1"
Kind = Literal["binary", "binned", "multilabel"]
Level = Literal["stay", "hourly"]


@dataclass(frozen=True)
class Channel:
    """A measured quantity: unit, value columns (one, or one per category), value before any measurement."""

    name: str
    unit: str
    columns: tuple[str, ...]
    normal: float | str | None = None


@dataclass(frozen=True)
class Task:
    """What a head predicts.

    Attributes:
        kind: Binary (0/1), binned (0..classes-1) or multilabel (``classes`` columns of 0/1).
        level: "stay" (one label a stay) or "hourly" (one label a row).
        horizon_hours: A stay's label is read from row ``horizon_hours - 1``; None: from its last row.
    """

    name: str
    title: str
    kind: Kind
    level: Level
    classes: int = 1
    class_names: tuple[str, ...] = ()
    horizon_hours: int | None = None
    unit: str = ""


@dataclass(frozen=True)
class Group:
    """A partition of the stays for subgroup audits: never a model input."""

    name: str
    title: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class CohortStep:
    """One rule of the cohort in order: what it removed and what it left."""

    rule: str
    removed: int
    stays: int
    subjects: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClinicalContents(Contents):
    """What a clinical tensor folder holds.

    Attributes:
        channels: What was measured.
        tasks: What is predicted.
        values: Like ``observed`` to ``split``, the array of the module.
        labels: Task → array as in the module.
        label_masks: Task → array as in the module.
        groups: Subgroups of stays.
        group_codes: Group → level of every stay.
        cohort: Rules with the stays that each removed.
    """

    channels: Sequence[Channel]
    tasks: Sequence[Task]
    values: np.ndarray
    observed: np.ndarray
    offsets: np.ndarray
    stays: np.ndarray
    subjects: np.ndarray
    split: np.ndarray
    labels: Mapping[str, np.ndarray]
    label_masks: Mapping[str, np.ndarray]
    groups: Sequence[Group] = ()
    group_codes: Mapping[str, np.ndarray] = field(default_factory=dict)
    cohort: Sequence[CohortStep] = ()


#: Arrays of whole numbers that every folder has.
_WHOLE: dict[str, type[np.integer]] = {
    "observed": np.uint8,
    "offsets": np.int64,
    "stays": np.int64,
    "subjects": np.int64,
    "split": np.uint8,
}


def write_tensors(target: Path, contents: ClinicalContents) -> Path:
    """Write a clinical tensor folder in one atomic step and return it.

    Args:
        target: The folder.
        contents: What it holds.

    Raises:
        DataError: Arrays contradict each other or the schema, or the target holds another data set.
    """
    try:
        values = np.ascontiguousarray(contents.values, dtype=np.float32)
    except (TypeError, ValueError):  # Their text may quote an entry.
        raise DataError(f"{target}: values are not all numbers; pass one float an entry") from None
    arrays: dict[str, np.ndarray] = {
        "values": values,
        **{name: whole_numbers(name, getattr(contents, name), kind) for name, kind in _WHOLE.items()},
    }
    for task in contents.tasks:
        if task.name not in contents.labels or task.name not in contents.label_masks:
            raise DataError(
                f"task {task.name!r} has no labels or no label mask; pass both under the task's name"
            )
        label, mask = f"labels/{task.name}", f"masks/{task.name}"
        whole = whole_numbers(label, contents.labels[task.name], np.int16)
        arrays[label] = whole.astype(np.float32) if task.kind == "multilabel" else whole
        arrays[mask] = whole_numbers(mask, contents.label_masks[task.name], np.uint8)
    for group in contents.groups:
        if group.name not in contents.group_codes:
            raise DataError(f"group {group.name!r} has no codes; pass group_codes with one code per stay")
        codes = f"groups/{group.name}"
        arrays[codes] = whole_numbers(codes, contents.group_codes[group.name], np.uint8)

    manifest: dict[str, Any] = {
        "format": FORMAT,
        **contents.manifest(),
        **{
            name: [dataclasses.asdict(item) for item in getattr(contents, name)]
            for name in ("channels", "tasks", "groups", "cohort")
        },
    }
    _check_schema(manifest, arrays, str(target))
    rows = np.repeat(arrays["split"] == SPLITS.index("train"), np.diff(arrays["offsets"]))
    require(contents.dataset, rows.any(), "no training rows; nothing to standardise with")
    mean, deviation = training_statistics(arrays["values"], rows)
    manifest["statistics"] = {"mean": mean.tolist(), "standard_deviation": deviation.tolist()}
    return write_array_folder(Path(target), manifest, arrays)


@dataclass(frozen=True)
class ClinicalTensors(TensorFolder):
    """An opened clinical tensor folder; the arrays are memory-mapped and read-only."""

    format = FORMAT
    channels: tuple[Channel, ...]
    tasks: tuple[Task, ...]
    groups: tuple[Group, ...]

    @classmethod
    def _schema(cls, manifest: Mapping[str, Any]) -> dict[str, Any]:
        kinds: dict[str, Any] = {"channels": Channel, "tasks": Task, "groups": Group}
        return {name: tuple(kind(**_tuples(item)) for item in manifest[name]) for name, kind in kinds.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the value columns, in order."""
        return tuple(column for channel in self.channels for column in channel.columns)

    @property
    def inputs(self) -> int:
        """Width of a model input: value columns plus one mask per channel."""
        return len(self.columns) + len(self.channels)

    def stays_of(self, split: str) -> np.ndarray:
        """Return the indices of the stays of a split, in file order."""
        return self.samples_of(split)


def check_tensors(folder: Path | str) -> ClinicalTensors:
    """Verify schema, shapes, ranges and checksums, and open a clinical tensor folder, or ``DataError``."""
    manifest = check_array_folder(Path(folder))
    tensors = ClinicalTensors.open(folder)
    _check_schema(manifest, tensors.arrays, str(folder))
    return tensors


def training_statistics(values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation [columns] (float64) of some rows.

    Rows are added one after another whatever the block size, so the result does not depend on it.

    Args:
        values: [rows, columns], read in blocks.
        chosen: bool [rows].
    """
    count = int(np.count_nonzero(chosen))

    def total(term: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        sums = np.zeros(values.shape[1])
        for start in range(0, len(values), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            block = term(values[part][chosen[part]].astype(np.float64))
            sums = np.add.reduce(np.concatenate([sums[None], block]), axis=0)
            release(values)
        return sums

    mean = total(lambda block: block) / count
    return mean, np.sqrt(total(lambda block: np.square(block - mean)) / count)


def _tuples(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of the manifest as the schema's dataclasses hold it: with tuples for JSON's lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}


def _check_schema(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray], place: str) -> None:
    """Refuse (``DataError``) arrays against the schema: shapes, ranges, masks, ids, splits."""
    check = functools.partial(require, place)
    values, observed, offsets = arrays["values"], arrays["observed"], arrays["offsets"]
    count, rows = len(arrays["stays"]), len(values)
    columns = sum(len(channel["columns"]) for channel in manifest["channels"])
    fits = values.shape == (rows, columns)
    check(fits, f"values have shape {values.shape}, the channels name {columns} columns")
    for start in range(0, rows, BLOCK_ROWS):
        check(np.isfinite(values[start : start + BLOCK_ROWS]).all(), "values hold NaN or infinity")
        release(values)
    wanted = (rows, len(manifest["channels"]))
    check(observed.shape == wanted, f"observed has shape {observed.shape}, expected {wanted}")
    check(not rows or observed.max() <= 1, "observed holds values other than 0 and 1")
    release(observed)
    ends = offsets.shape == (count + 1,) and offsets[0] == 0 and offsets[-1] == rows
    cut = ends and (np.diff(offsets) > 0).all()
    check(cut, "offsets do not cut the rows into one non-empty piece per stay")
    check(len(np.unique(arrays["stays"])) == count, "stay ids repeat")
    subjects, split = arrays["subjects"], arrays["split"]
    check(subjects.shape == split.shape == (count,), "subjects and split need one entry per stay")
    check((split < len(SPLITS)).all(), "split holds values other than 0, 1 and 2")
    order = np.argsort(subjects, kind="stable")
    moved = (np.diff(subjects[order]) == 0) & (np.diff(split[order].astype(np.int8)) != 0)
    check(not moved.any(), "a subject stands in more than one split")
    for part in ("channels", "tasks", "groups"):
        names = [item["name"] for item in manifest[part]]
        check(len(set(names)) == len(names), f"two {part} have one name; give each its own")
    for task in manifest["tasks"]:
        known = task["kind"] in get_args(Kind) and task["level"] in get_args(Level)
        check(known, f"task {task['name']!r}: {task['kind']!r} is no kind, or {task['level']!r} no level")
        name, length = task["name"], rows if task["level"] == "hourly" else count
        label, mask = arrays[f"labels/{name}"], arrays[f"masks/{name}"]
        shape = (length, task["classes"]) if task["kind"] == "multilabel" else (length,)
        check(label.shape == shape, f"task {name!r}: labels have shape {label.shape}, expected {shape}")
        check(
            mask.shape == (length,), f"task {name!r}: the mask has shape {mask.shape}, expected ({length},)"
        )
        check((mask <= 1).all(), f"task {name!r}: the mask holds values other than 0 and 1")
        used = label[mask == 1]
        top = task["classes"] - 1 if task["kind"] == "binned" else 1
        inside = not len(used) or (used.min() >= 0 and used.max() <= top)
        check(inside, f"task {name!r}: labels outside 0..{top}")
        named, fit = len(task["class_names"]), 2 if task["kind"] == "binary" else task["classes"]
        check(named in (0, fit), f"task {name!r}: {named} class names for {fit} classes")
        if task["level"] == "stay" and (horizon := task["horizon_hours"]) is not None:
            whole = isinstance(horizon, int) and horizon >= 1
            check(whole, f"task {name!r}: horizon_hours is {horizon}; give a whole number from 1 on, or None")
            short = int(((np.diff(offsets) < horizon) & (mask == 1)).sum())
            check(not short, f"task {name!r}: {short} labelled stays end before hour {horizon}")
    for group in manifest["groups"]:
        codes, levels = arrays[f"groups/{group['name']}"], len(group["levels"])
        check(codes.shape == (count,), f"group {group['name']!r} needs one code per stay")
        check((codes < levels).all(), f"group {group['name']!r} has codes beyond its {levels} levels")
