"""A grid of runs on one data set: each run becomes a record, finished ones are never computed again.

Every run owns the folder ``<target>/<method>-seed<seed>-<key>``; a study that was stopped or killed goes on
where it was when it is started again. ``ENGINES`` maps names to ways to work off missing runs.
"""

import itertools
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from relif_core.errors import InputError, RecordError, listed
from relif_core.files import refuse_inside
from relif_core.methods import STATIC_WEIGHTS, STEP_SIZES, TARGET_STEP_SIZE, TARGETS, method_of
from relif_core.problems import CLINICAL
from relif_core.record import Record, run_key
from relif_core.settings import ControllerSettings, RunSettings, as_json, method_settings
from relif_core.studies import processes, ray_engine
from relif_core.studies.jobs import Ending, Engine, Job, Schedule, Watch, WorkerContext, in_process
from relif_core.tensors.folder import read_manifest

#: Seeds that one study may have, and the largest that every generator takes.
MOST_SEEDS, LARGEST_SEED = 10_000, 2**32 - 1
#: A number alone says how many seeds, as far as nobody can mean the seed of this number.
FEW_SEEDS = 50


def _together(*methods: Sequence[str]) -> tuple[str, ...]:
    """Return the methods of several lists, each once."""
    return tuple(dict.fromkeys(itertools.chain(*methods)))


@dataclass(frozen=True)
class Study:
    """What a name of ``STUDIES`` stands for.

    Attributes:
        blocks: Methods, the most valuable block first; a block is worked off seed by seed.
        seeds: Of each block; one entry: of all.
        changes: Of the settings of every run.
        folders: Of its kept records, below ``data/records``.
        interim: Seeds of the looks that the analysis plan takes before the last one.
    """

    blocks: tuple[tuple[str, ...], ...]
    seeds: tuple[range, ...] = (range(7),)
    changes: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    interim: tuple[range, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of all blocks."""
        return _together(*self.blocks)

    @property
    def looks(self) -> tuple[range, ...]:
        """The seeds of each look of a study of the analysis plan, which states its settings; else none.

        A look is taken when every method of the first block has all its seeds.
        """
        return (*self.interim, self.seeds[0]) if self.changes else ()


@dataclass
class StudySummary:
    """What a call to ``run_study`` did: records in the order of the runs asked for, and what remains.

    Attributes:
        paused: Runs that go on at the next call.
        busy: Runs that another process makes.
        damaged: Run → what was wrong with its record, which was set aside and made again.
        failed: Run → the error that ended it.
    """

    records: list[Record] = field(default_factory=list)
    found: int = 0
    made: int = 0
    paused: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


#: The rows of the paper's clinical tables.
SEVEN_METHODS = ("erm", "uncertainty", "gradnorm", "pcgrad", "fairgrad", "cats_as_released", "relif")
AS_RELEASED = tuple(f"{name}_as_released" for name in ("uncertainty", "gradnorm", "pcgrad", "fairgrad"))
#: Static weights from small to large; ``relif_static`` is the one at the default λ₀.
STATIC = tuple(
    f"relif_static_{weight:g}" if weight in STATIC_WEIGHTS else "relif_static"
    for weight in sorted((*STATIC_WEIGHTS, ControllerSettings.initial))
)
COMPONENTS = (
    "relif", "erm", "relif_no_alignment", "relif_single_prototype", *STATIC, "relif_proportional_integral",
)  # fmt: skip
STEP_SIZE_SWEEP = ("relif", *(f"relif_step_size_{step:g}" for step in STEP_SIZES))
#: By rising target; the member at the default target is the step size sweep's.
TARGET_SWEEP = tuple(
    f"relif_target_{target:g}" if target in TARGETS else f"relif_step_size_{TARGET_STEP_SIZE:g}"
    for target in sorted((*TARGETS, ControllerSettings.target))
)
HYBRIDS = ("uncertainty+relif", "gradnorm+relif", "pcgrad+relif", "fairgrad+relif")
FURTHER_BALANCERS = ("nash_mtl", "cagrad", "upgrad", "mgda", "imtl_g", "aligned_mtl", "dual_proj")

#: The studies of data/analysis_plan.md have one precision on every device: that of the CPU they began on.
TABLE_5: dict[str, Any] = {"training": {"precision": "bfloat16"}}
MANY_SEEDS: dict[str, Any] = {
    "model": {"hidden": 128},
    "training": {"epochs": 40, "patience": 40, "precision": "float32"},
}
#: The six rows of the primary contrasts, and the rows that follow them.
POWER = (
    "erm", "relif", "relif_step_size_0.05_target_0.09", "relif_static_1", "relif_no_alignment",
    "audit_penalty",
)  # fmt: skip
POWER_FURTHER = (
    "gradnorm", *(method for method in STATIC if method not in POWER), "relif_step_size_0.05",
    "cats_as_released", "relif_single_prototype",
)  # fmt: skip

#: Named studies. Runs that studies share are made once, if the studies keep their records in one folder.
STUDIES: Mapping[str, Study] = {
    "table3": Study(
        (SEVEN_METHODS,), (range(200, 207),), TABLE_5, ("physionet2012_table3",), (range(200, 203),)
    ),
    "power": Study(
        (POWER, POWER_FURTHER, ("fairgrad",)),
        (range(100, 130), range(100, 115), range(100, 110)),
        MANY_SEEDS,
        ("physionet2012_power",),
        (range(100, 115),),
    ),
    "b3": Study(
        (_together(STEP_SIZE_SWEEP, TARGET_SWEEP),), (range(300, 307),), MANY_SEEDS, ("physionet2012_b3",)
    ),
    "erm_relif": Study((("erm", "relif"),), (range(3),)),
    "methods": Study((SEVEN_METHODS + AS_RELEASED,), folders=("physionet2012_methods", "eicu_demo_methods")),
    "components": Study((COMPONENTS,)),
    "step_size": Study((("erm", *STEP_SIZE_SWEEP),)),
    "target": Study((("erm", *TARGET_SWEEP),)),
    "hybrids": Study((("erm", "uncertainty", "gradnorm", "pcgrad", "fairgrad", "relif", *HYBRIDS),)),
    "further_balancers": Study((("erm", *FURTHER_BALANCERS),)),
    "clinical": Study(
        (_together(SEVEN_METHODS, AS_RELEASED, COMPONENTS, HYBRIDS, STEP_SIZE_SWEEP, TARGET_SWEEP),)
    ),
}


def named_study(
    name: str, seeds: Sequence[int] | None = None, block: int | None = None, **changes: Any
) -> list[RunSettings]:
    """Return the runs of a study in the order of their value.

    Args:
        name: A key of ``STUDIES``, or methods separated by commas.
        seeds: Instead of the study's own; those of a list of methods are 0, 1, 2.
        block: Only the study's block of this number, from 1.
        **changes: Settings on top of the study's own.

    Raises:
        InputError: No study or method has the name, or the study no such block.
    """
    study = STUDIES.get(name) or Study((tuple(name.split(",")),), (range(3),))
    for method in study.methods:
        try:
            method_of(method)
        except InputError as error:
            raise InputError(
                f"no study is called {name!r} (studies are {', '.join(STUDIES)}); {error}"
            ) from error
    if study.changes and not CLINICAL.allows(changes):
        raise InputError(f"study {name!r} is of clinical data; choose methods for dense data by name")
    if block is not None and not 1 <= block <= len(study.blocks):
        raise InputError(f"study {name!r} has the blocks 1 to {len(study.blocks)}, not {block}")
    own = study.seeds * len(study.blocks) if len(study.seeds) == 1 else study.seeds
    chosen = [
        (methods, own[place] if seeds is None else seeds)
        for place, methods in enumerate(study.blocks)
        if block in (None, place + 1)
    ]
    merged = _merged(study.changes, changes)
    return [run for methods, each in chosen for run in grid(methods, each, **merged)]


def grid(methods: Sequence[str], seeds: Iterable[int], **changes: Any) -> list[RunSettings]:
    """Return every method's settings with every seed, one seed after another.

    Args:
        methods: Keys as of :func:`.method_settings`.
        seeds: Seeds of the runs.
        **changes: Applied to all.
    """
    return [method_settings(method, **changes, seed=seed) for seed in seeds for method in methods]


def read_seeds(text: str) -> list[int]:
    """Read the seeds of a study: a number of seeds, or a list of seeds and ranges of seeds.

    >>> read_seeds("3"), read_seeds("100,103,110-112"), read_seeds("7-7")
    ([0, 1, 2], [100, 103, 110, 111, 112], [7])

    Raises:
        InputError: Something is no number, negative or too large, a range runs backwards, a seed occurs
            twice, or there is none; a number alone is above ``FEW_SEEDS``.
    """
    usage = "write a number of seeds (7: 0 to 6), or seeds and ranges such as 100-129 or 100,103,110-112"
    parts, seeds = [part.strip() for part in text.split(",")], list[int]()
    for part in parts:
        ends = re.fullmatch(r"([0-9]{1,99})(?:\s*-\s*([0-9]{1,99}))?", part)
        if ends is None:
            raise InputError(
                f"--seeds: {part[:40]!r} is no seed and no range of seeds, which are whole numbers >= 0;"
                f" {usage}"
            )
        low, high = int(ends[1]), int(ends[2] or ends[1])
        if len(parts) == 1 and not ends[2]:
            if low > FEW_SEEDS:
                raise InputError(
                    f"--seeds {text}: write {low}-{low} for this seed alone, 0-{low - 1} for so many"
                )
            low, high = 0, low - 1
        if low > high:
            raise InputError(
                f"--seeds {text}: {'there is none' if high < 0 else f'{low}-{high} runs backwards'}; {usage}"
            )
        if high > LARGEST_SEED:
            raise InputError(f"--seeds {text}: {high} is above the largest seed, {LARGEST_SEED}")
        if len(seeds) + high - low >= MOST_SEEDS:
            raise InputError(f"--seeds {text}: more than {MOST_SEEDS:,} seeds; {usage}")
        seeds += range(low, high + 1)
    if twice := [seed for seed, times in Counter(seeds).items() if times > 1]:
        raise InputError(f"--seeds {text}: seed {twice[0]} is listed twice")
    return seeds


def refuse_other_study(runs: Sequence[RunSettings], data: Path, target: Path) -> None:
    """Refuse to put runs beside records of another study.

    Runs of a study share the data, the model, the training and the revision of the numerics.

    Args:
        runs: Their settings.
        data: Tensor folder.
        target: Folder of the records.

    Raises:
        InputError: ``target`` is a file, or holds records that do not belong with ``runs``.
    """
    if Path(target).exists() and not Path(target).is_dir():
        raise InputError(f"{target} is a file; name a folder for the records")
    fingerprint = read_manifest(Path(data))["fingerprint"]
    own = [_shared(as_json(settings), fingerprint) for settings in runs]
    for path in sorted(Path(target).glob("*/record.json")):
        try:
            content = Record.load(path.parent).content
        except RecordError:
            continue  # A damaged record is named by the study itself.
        other = _shared(content["settings"], content["dataset"]["fingerprint"])
        if other not in own:
            differing = [
                f"{name} {other.get(name)!r} there, {own[0].get(name)!r} here"
                for name in sorted({*other, *own[0]})
                if other.get(name) != own[0].get(name)
            ]
            raise InputError(
                f"{target} holds the records of another study ({path.parent.name}:"
                f" {listed(differing, '; ')}); choose another target"
            )


def run_study(
    runs: Sequence[RunSettings],
    data: Path,
    target: Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    threads: int = 1,
    minutes: float | None = None,
    watch: Watch | None = None,
    engine: str | None = None,
    address: str | None = None,
    weights: Path | None = None,
    epoch_seconds: float = 0.0,
    checkpoint_seconds: float | None = None,
) -> StudySummary:
    """Bring every run of a study to a record under ``target``, in the order given.

    A run that fails is reported in the summary and the others go on. Once ``training.stopping.STOP`` is set,
    runs stop within two seconds and none is begun; the next call goes on.

    Args:
        runs: Settings, each once; on dense data an ERM run, which calibrates its seed's scores, goes first.
        data: A clinical or dense tensor folder.
        target: Folder of the records.
        workers: Processes that share the device; 1 is this process alone.
        device: "cpu", "cuda" or "cuda:N".
        threads: Threads of each process, so that a record does not depend on the number of workers.
        minutes: Nothing is begun that would not end in time, by what the finished runs of its kind took; runs
            under way stop then.
        watch: Told what happens.
        engine: A key of ``ENGINES``; None takes processes for several workers, else this process.
        address: Of "ray", a cluster whose machines see ``data`` and ``target`` under the same paths; None
            starts one here.
        weights: The file of encoder weights that dense settings name.
        epoch_seconds: As of :class:`.Schedule`, measured with as many workers.
        checkpoint_seconds: As of :class:`.WorkerContext`.

    Raises:
        InputError: Runs listed twice, a target inside the data folder, or an unknown engine.
    """
    if workers < 1 or threads < 1:
        raise InputError("a study needs at least one worker and one thread")
    if minutes is not None and not 0 <= minutes < math.inf:
        raise InputError(f"a study cannot last {minutes} minutes; give a number >= 0, or none for no limit")
    engine = engine or ("processes" if workers > 1 else "in_process")
    if engine not in ENGINES:
        raise InputError(f"no engine is called {engine!r}; there are {', '.join(ENGINES)}")
    began = time.time()
    fingerprint = read_manifest(Path(data))["fingerprint"]
    data, target = Path(data).absolute(), Path(target).absolute()
    refuse_inside(target, data)
    jobs = [Job(settings, _folder(target, settings, fingerprint, device)) for settings in runs]
    if len({job.folder for job in jobs}) < len(jobs):
        raise InputError("the study lists the same run twice")
    summary = StudySummary()
    records = {job: record for job in jobs if (record := _found(job, summary))}
    summary.found = len(records)
    deadline = math.inf if minutes is None else began + 60 * minutes
    place = None if weights is None else Path(weights).absolute()
    context = WorkerContext(data, device, threads, deadline, address, place, checkpoint_seconds)
    missing = [job for job in jobs if job not in records]
    schedule = Schedule(missing, deadline, records.values(), epoch_seconds)
    endings = dict(ENGINES[engine](schedule, context, workers, watch or (lambda name, report: None)))
    for job in missing:
        ending = endings.get(job, Ending("paused"))
        if record := _found(job, summary):
            records[job] = record
            summary.made += 1
        elif ending.state == "busy":
            summary.busy.append(job.name)
        elif ending.state in ("failed", "no_storage"):
            summary.failed[job.name] = ending.message
        else:
            summary.paused.append(job.name)
    summary.records = [records[job] for job in jobs if job in records]
    summary.seconds = time.time() - began
    return summary


def _found(job: Job, summary: StudySummary) -> Record | None:
    """Return a job's finished record; one that cannot be read is named and set aside, to be made again.

    That of another run is none: it stays, and the run refuses its folder.
    """
    if not Record.finished(job.folder):
        return None
    try:
        record = Record.load(job.folder)
        return record if job.folder.name.endswith(record.key[:12]) else None
    except RecordError as error:
        summary.damaged[job.name] = str(error)
        os.replace(job.folder / "record.json", job.folder / "record.json.damaged")
        return None


def _folder(target: Path, settings: RunSettings, fingerprint: str, device: str) -> Path:
    key = run_key(settings, fingerprint, torch.device(device).type)
    return target / f"{settings.method}-seed{settings.seed}-{key[:12]}"


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` on top, section by section."""
    found = {**base, **changes}
    for name in base.keys() & changes.keys():
        if isinstance(base[name], Mapping) and isinstance(changes[name], Mapping):
            found[name] = {**base[name], **changes[name]}
    return found


def _shared(settings: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """Return what the records of one study have in common, flat: nothing of the method or the seed."""
    own = {"method", "balancer", "penalty", "seed", "surrogate", "controller", "audit"}
    flat: dict[str, Any] = {"data": fingerprint[:12]}
    for name, value in settings.items():
        if isinstance(value, Mapping) and name not in own:
            flat |= {f"{name}.{item}": content for item, content in value.items()}
        elif name not in own:
            flat[name] = value
    flat.pop("model.task", None)
    return flat


ENGINES: Mapping[str, Engine] = {
    "in_process": in_process, "processes": processes.work_off, "ray": ray_engine.work_off,
}  # fmt: skip
