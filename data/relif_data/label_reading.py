"""At which hour a label stands and which rows a head reads for it: causally, or with errors to compare.

The tensors hold every label with the hour at which it is true. ``read_labels_at`` turns the chosen tasks into
one label a stay, at one hour, and decides what the head may see. The labels and the stays in the test part
are the same for every reading, so differences in utility and audit come from the reading alone.
"""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from relif_core.errors import InputError, listed
from relif_core.tensors.clinical import SPLITS, ClinicalTensors, Task
from relif_core.tensors.folder import fingerprint_of
from relif_data.labels import require_integer

READINGS = {
    "causal": "input ends at the label's hour",
    "later_hours": "input runs on to the end of the stay",
    "released": "input runs on to the end of the stay; training labels at an hour drawn per stay",
}
"""Every reading by name, with what it does."""


def read_labels_at(
    tensors: ClinicalTensors,
    hour: int,
    reading: str = "causal",
    *,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
) -> ClinicalTensors:
    """Return a view of ``tensors`` in which each of ``tasks`` has one label a stay; nothing is written.

    An hourly task keeps its label at ``hour`` (row ``hour - 1``); stays without one there carry none. A
    stay-level task keeps its labels: the head reads them at ``hour`` in the causal reading, at the task's own
    horizon otherwise. With "released" the hourly labels of *training* stays stand at an hour drawn from the
    stay's labelled ones. The fingerprint names the reading, so readings never share a key.

    Args:
        tensors: The data.
        hour: From 1.
        reading: "causal", or an error to compare with.
        tasks: Default the hourly tasks, or every stay-level task with a horizon where there is no hourly one.
        seed: Of the drawn hours.

    Raises:
        InputError: An unknown reading or task, an hour that is no integer from 1 on or lies beyond a task's
            horizon, or no horizon.
    """
    if reading not in READINGS:
        raise InputError(f"reading={reading!r}: choose among {', '.join(READINGS)}")
    by_name = {task.name: task for task in tensors.tasks}
    if tasks is None:
        hourly = [task.name for task in tensors.tasks if task.level == "hourly"]
        tasks = hourly or [task.name for task in tensors.tasks if task.horizon_hours is not None]
    unknown = sorted(set(tasks) - by_name.keys())
    if unknown:
        raise InputError(f"no task {listed(unknown)} here; known are {listed(by_name)}")
    require_integer("hour", hour, least=1)
    hour = int(hour)  # One of NumPy's goes into no manifest.
    arrays, reread = dict(tensors.arrays), []
    for task in tensors.tasks:
        if task.name not in tasks:
            reread.append(task)
        elif task.level == "hourly":
            label, mask = _one_label_a_stay(tensors, task, hour, reading == "released", seed)
            arrays[f"labels/{task.name}"], arrays[f"masks/{task.name}"] = label, mask
            horizon = hour if reading == "causal" else None
            reread.append(dataclasses.replace(task, level="stay", horizon_hours=horizon))
        else:
            if task.horizon_hours is None or hour > task.horizon_hours:
                own = f"hour {task.horizon_hours}" if task.horizon_hours else "the end of the stay"
                raise InputError(f"task {task.name!r} is read at {own} and cannot be read at hour {hour}")
            horizon = hour if reading == "causal" else task.horizon_hours
            reread.append(dataclasses.replace(task, horizon_hours=horizon))
    manifest = copy.deepcopy(tensors.manifest)
    manifest["tasks"] = [dataclasses.asdict(task) for task in reread]
    manifest["options"]["label_reading"] = {
        "reading": reading,
        "hour": hour,
        "tasks": list(tasks),
        "seed": seed if reading == "released" else None,
        "of": tensors.fingerprint,
    }
    manifest["fingerprint"] = fingerprint_of(manifest)
    return dataclasses.replace(tensors, manifest=manifest, tasks=tuple(reread), arrays=arrays)


def _one_label_a_stay(
    tensors: ClinicalTensors, task: Task, hour: int, drawn: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return an hourly task's label and mask [stays] at ``hour``; training stays: at an hour ``drawn``."""
    label, mask = tensors.arrays[f"labels/{task.name}"], tensors.arrays[f"masks/{task.name}"]
    offsets = tensors.arrays["offsets"]
    reached = np.diff(offsets) >= hour
    row = np.where(reached, offsets[:-1] + hour - 1, offsets[:-1])
    if drawn:
        training = tensors.arrays["split"] == SPLITS.index("train")
        # The largest of independent draws picks a labelled hour uniformly; unlabelled hours never win.
        draw = np.where(mask == 1, np.random.default_rng([seed, 24]).random(len(mask)), -1.0)
        owner = np.repeat(np.arange(len(row)), np.diff(offsets))
        last = np.lexsort((draw, owner))[offsets[1:] - 1]
        row, reached = np.where(training, last, row), reached | training
    return np.asarray(label)[row], (np.asarray(mask)[row] * reached).astype(np.uint8)
