"""What may be said in public of clinical tensors: counts of stays, measurements and labels; nobody's row.

``summarise_tensors`` gives plain values that fit a small JSON file. Where the data came from a credentialed
source, or its open demo, counts that fewer than ``least`` stays make are hidden (None), and so is what would
let a reader compute them from the rest.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relif_core.errors import InputError
from relif_core.tensors.clinical import SPLITS, ClinicalTensors, Group, Task
from relif_data.sources import REGISTRY

FORMAT = "relif-data-summary-1"
SMALL_CELL = 10
MOST_LEVELS = 12

# A whole number in a note counts people or cells, but for hours, days, bounds, versions and volumes.
_COUNT = re.compile(
    r"(?<![\w.,:-])(?<!hour )(?<!from )(?<!above )(?<!to )(?<!= )(?<!Data )\d+"
    r"(?![\w:-]|[.,]\d| (?:to|days)\b)"
)

Count = int | None


def least_count(tensors: ClinicalTensors) -> int:
    """Return the smallest count of stays that may be shown: 1 for simulated or per-person data, else 10."""
    known = tensors.dataset in REGISTRY and REGISTRY[tensors.dataset].guarded
    guarded = known or tensors.manifest["output_policy"] != "person"
    return SMALL_CELL if guarded and not tensors.manifest["synthetic"] else 1


def summarise_tensors(tensors: ClinicalTensors, least: int | None = None) -> dict[str, Any]:
    """Return the aggregates of a clinical data set as plain values.

    ``cohort`` lists the rules with the stays left; ``channels`` the stay-hours and the stays with a
    measurement; ``tasks`` per split the labels per class (for multilabel tasks the positives per label);
    ``groups`` the stays per level (None for a group of more than 12 levels).

    Args:
        tensors: The data.
        least: Smaller counts are None, and rules in a row that removed fewer merged; default ``least_count``.

    Raises:
        InputError: ``least`` is below 1.
    """
    least = least_count(tensors) if least is None else least
    if least < 1:
        raise InputError(f"least={least}: a count to show is at least 1")
    manifest, arrays = tensors.manifest, tensors.arrays
    subjects, split = arrays["subjects"], arrays["split"]
    return {
        "format": FORMAT,
        **{name: manifest[name] for name in ("dataset", "title", "licence", "synthetic", "fingerprint")},
        "least_count": least,
        "stays": len(split),
        "subjects": len(np.unique(subjects)),
        "stay_hours": len(arrays["values"]),
        "splits": {
            name: {"stays": int((split == code).sum()), "subjects": len(np.unique(subjects[split == code]))}
            for code, name in enumerate(SPLITS)
        },
        "cohort": merged_steps(manifest["cohort"], least),
        "channels": _channels(tensors, least),
        "tasks": [_task(tensors, task, least) for task in tensors.tasks],
        "groups": [_group(group, arrays[f"groups/{group.name}"], least) for group in tensors.groups],
        "notes": [_COUNT.sub(lambda found: _said(found[0], least), note) for note in manifest["notes"]],
    }


def _said(count: str, least: int) -> str:
    return f"fewer than {least}" if 0 < int(count) < least else count


def merged_steps(steps: Sequence[Mapping[str, Any]], least: int) -> list[dict[str, Any]]:
    """Return cohort steps none of which shows that 1 to ``least`` - 1 stays went: such rules are joined.

    With ``least`` above 1 only the first and the last step keep their number of subjects.
    """
    blocks: list[list[Mapping[str, Any]]] = []
    still_small = False
    for step in steps:
        if still_small:
            blocks[-1].append(step)
        else:
            blocks.append([step])
        still_small = len(blocks) > 1 and 0 < _removed(blocks[-1]) < least
    while still_small and len(blocks) > 2:
        blocks[-2:] = [[*blocks[-2], *blocks[-1]]]
        still_small = _removed(blocks[-1]) < least
    merged = [
        {**block[-1], "rule": "; ".join(step["rule"] for step in block), "removed": _removed(block)}
        for block in blocks
    ]
    if still_small:
        merged[0] |= {"stays": None, "subjects": None}
        merged[1]["removed"] = None
    if least > 1:
        for item in merged[1:-1]:
            item["subjects"] = None
    return merged


def _removed(block: Sequence[Mapping[str, Any]]) -> int:
    return sum(step["removed"] for step in block)


def _channels(tensors: ClinicalTensors, least: int) -> list[dict[str, Any]]:
    """Per channel: unit, value columns, and how many stay-hours and stays hold a measurement."""
    observed, offsets = tensors.arrays["observed"], tensors.arrays["offsets"]
    channels = []
    for index, channel in enumerate(tensors.channels):
        seen = np.asarray(observed[:, index])
        stays = int(np.logical_or.reduceat(seen, offsets[:-1]).sum())
        hours = int(seen.sum(dtype=np.int64)) if stays == 0 or stays >= least else None
        shown = {"observed_hours": hours, "observed_stays": _shown(stays, len(offsets) - 1, least)}
        channels.append(
            {"name": channel.name, "unit": channel.unit, "columns": len(channel.columns), **shown}
        )
    return channels


def _group(group: Group, codes: np.ndarray, least: int) -> dict[str, Any]:
    """The stays per level; of a group with many levels, such as the hospital, the number of levels only."""
    many = len(group.levels) > MOST_LEVELS
    counts = np.bincount(codes, minlength=len(group.levels))
    return {
        "name": group.name,
        "title": group.title,
        "levels": len(group.levels) if many else list(group.levels),
        "stays": None if many else _partition(counts, counts, least),
    }


def _task(tensors: ClinicalTensors, task: Task, least: int) -> dict[str, Any]:
    """Per split: the number of labels, the stays that carry one, and the labels per class."""
    arrays = tensors.arrays
    label, mask = arrays[f"labels/{task.name}"], arrays[f"masks/{task.name}"]
    owner = np.arange(len(arrays["split"]))
    if task.level == "hourly":
        owner = np.repeat(owner, np.diff(arrays["offsets"]))
    classes = 2 if task.kind == "binary" else task.classes
    splits = {}
    for code, name in enumerate(SPLITS):
        chosen = (mask == 1) & (arrays["split"][owner] == code)
        used, stays = np.asarray(label[chosen]), owner[chosen]
        if task.kind == "multilabel":
            counts = [_shown(int(column.sum()), len(used), least) for column in used.T]
        else:
            pairs = np.unique(np.stack([used.astype(np.int64), stays]), axis=1)
            counts = _partition(
                np.bincount(used, minlength=classes), np.bincount(pairs[0], minlength=classes), least
            )
        carriers = len(np.unique(stays))
        hidden = 0 < carriers < least
        splits[name] = {
            "labels": None if hidden else len(used),
            "stays": None if hidden else carriers,
            "counts": counts,
        }
    told = {name: getattr(task, name) for name in ("name", "title", "kind", "level", "horizon_hours")}
    return {**told, "class_names": list(task.class_names), "unit": task.unit, "splits": splits}


def _shown(count: int, total: int, least: int) -> Count:
    """A count, or None where it or its complement is small."""
    return None if 0 < count < least or 0 < total - count < least else count


def _partition(counts: np.ndarray, stays: np.ndarray, least: int) -> list[Count]:
    """Counts of a partition of known total, small ones hidden; a single one hides the next smallest too."""
    hidden = (stays > 0) & (stays < least)
    if hidden.sum() == 1:
        rest = np.flatnonzero(~hidden & (stays > 0))
        if len(rest):
            hidden[rest[np.argmin(stays[rest])]] = True
    return [None if hide else int(count) for count, hide in zip(counts, hidden, strict=True)]


def guarded_effects(rows: Sequence[Mapping[str, Any]], least: int) -> list[dict[str, Any]]:
    """Return rows of ``mimic3.effects.repair_effects``, counts that fewer than ``least`` stays make None.

    Cells are hidden with the stays that hold them; labels are hidden where fewer than ``least`` changed,
    since each may be a stay of its own.
    """
    guarded = []
    for row in rows:
        hidden = {name for name in row if name.endswith("_labels") and 0 < row[name] < least}
        hidden |= {"value_cells", "mask_cells", "stays"} if 0 < row["stays"] < least else set()
        guarded.append({name: None if name in hidden else cell for name, cell in row.items()})
    return guarded
