"""A grid of runs on one data set: each run becomes a record, finished ones are never computed again.

Every run owns the folder ``<target>/<method>-seed<seed>-<key>``; a study that was stopped or killed goes on where it was when
it is started again. ``ENGINES`` maps a name to the way in which the missing runs are worked off.
"""

import itertools
import math
import multiprocessing
import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from relif_core.errors import InputError, RecordError, RunPaused
from relif_core.problems.base import Problem
from relif_core.problems.opening import open_problem
from relif_core.record import Record, run_key
from relif_core.settings import (
    STATIC_WEIGHTS,
    STEP_SIZES,
    TARGET_STEP_SIZE,
    TARGETS,
    ControllerSettings,
    DenseModelSettings,
    RunSettings,
    method_settings,
)
from relif_core.tensors.folder import read_manifest
from relif_core.training import EpochReport, run

#: A worker process that dies is replaced; a run that took this many workers with it is given up.
ATTEMPTS = 3


@dataclass(frozen=True)
class Job:
    """One run of a study and the folder of its record."""

    settings: RunSettings
    folder: Path

    @property
    def name(self) -> str:
        """Method and seed, for people."""
        return f"{self.settings.method} seed {self.settings.seed}"


@dataclass(frozen=True)
class Workshop:
    """What every worker of a study needs: the data, the device, and until when a run may go on.

    ``address`` is that of a Ray cluster, which only the engine "ray" reads; ``weights`` a file of encoder weights, which only dense
    problems read.
    """

    data: Path
    device: str = "cpu"
    threads: int = 1
    deadline: float = math.inf
    address: str | None = None
    weights: Path | None = None


@dataclass
class StudySummary:
    """What a call to ``run_study`` did: records in the order of the runs asked for, and what remains."""

    records: list[Record] = field(default_factory=list)
    found: int = 0
    made: int = 0
    paused: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


#: Called with a job's name and its newest epoch, or with None when the job ends.
Watch = Callable[[str, EpochReport | None], None]
#: An engine works off jobs and yields (job, None | the error that ended it).
Outcome = tuple[Job, Exception | None]
Engine = Callable[[Sequence[Job], Workshop, int, Watch], Iterable[Outcome]]


#: The rows of the paper's clinical tables.
SEVEN_METHODS = ("erm", "uncertainty", "gradnorm", "pcgrad", "fairgrad", "cats_as_released", "relif")
AS_RELEASED = (
    "uncertainty_as_released",
    "gradnorm_as_released",
    "pcgrad_as_released",
    "fairgrad_as_released",
)
#: Static weights from small to large; ``relif_static`` is the one at the default λ₀.
STATIC = tuple(
    f"relif_static_{weight:g}" if weight in STATIC_WEIGHTS else "relif_static"
    for weight in sorted((*STATIC_WEIGHTS, ControllerSettings.initial))
)
COMPONENTS = (
    "relif",
    "erm",
    "relif_no_alignment",
    "relif_single_prototype",
    *STATIC,
    "relif_proportional_integral",
)
STEP_SIZE_SWEEP = ("relif", *(f"relif_step_size_{step:g}" for step in STEP_SIZES))
#: By rising target; the member at the default target is the step size sweep's.
TARGET_SWEEP = tuple(
    f"relif_target_{target:g}" if target in TARGETS else f"relif_step_size_{TARGET_STEP_SIZE:g}"
    for target in sorted((*TARGETS, ControllerSettings.target))
)
HYBRIDS = ("uncertainty+relif", "gradnorm+relif", "pcgrad+relif", "fairgrad+relif")
FURTHER_BALANCERS = ("nash_mtl", "cagrad", "upgrad", "mgda", "imtl_g", "aligned_mtl", "dual_proj")

#: Named studies: the methods of each table or figure and its number of seeds. Runs that studies share are made once, if
#: the studies keep their records in one folder.
STUDIES: Mapping[str, tuple[tuple[str, ...], int]] = {
    "erm_relif": (("erm", "relif"), 3),
    "methods": (SEVEN_METHODS + AS_RELEASED, 7),
    "components": (COMPONENTS, 7),
    "step_size": (("erm", *STEP_SIZE_SWEEP), 7),
    "target": (("erm", *TARGET_SWEEP), 7),
    "hybrids": (("erm", "uncertainty", "gradnorm", "pcgrad", "fairgrad", "relif", *HYBRIDS), 7),
    "further_balancers": (("erm", *FURTHER_BALANCERS), 7),
    "clinical": (
        tuple(
            dict.fromkeys(SEVEN_METHODS + AS_RELEASED + COMPONENTS + HYBRIDS + STEP_SIZE_SWEEP + TARGET_SWEEP)
        ),
        7,
    ),
}


def named_study(name: str, seeds: int | None = None, **changes: Any) -> list[RunSettings]:
    """Return the runs of a study: a key of ``STUDIES``, or methods separated by commas (then ``seeds`` defaults to 3)."""
    methods, own = STUDIES.get(name, (tuple(name.split(",")), 3))
    return grid(methods, range(own if seeds is None else seeds), **changes)


def grid(methods: Sequence[str], seeds: Sequence[int], **changes: Any) -> list[RunSettings]:
    """Return the settings of every method with every seed, ``changes`` applied to all."""
    return [method_settings(method, **changes, seed=seed) for method in methods for seed in seeds]


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
) -> StudySummary:
    """Bring every run of a study to a record under ``target``.

    ``data`` is a tensor folder, clinical or dense (then ``weights`` is the file of encoder weights that the settings name, and the ERM
    runs, which calibrate the scores of the others, are made first). ``workers`` processes share the device (1: this process alone); each computes with
    ``threads`` threads, so that a record does not depend on the number of workers. After ``minutes`` no run is begun and those
    under way stop after their epoch; the next call goes on. A run that fails is reported in the summary and the others go on.

    ``engine`` is a key of ``ENGINES``; None takes processes for several workers and this process for one. "ray" works on the
    cluster at ``address`` (None: one started here), whose machines must see ``data`` and ``target`` under the same paths.
    """
    if workers < 1 or threads < 1:
        raise InputError("a study needs at least one worker and one thread")
    engine = engine or ("processes" if workers > 1 else "in_process")
    if engine not in ENGINES:
        raise InputError(f"no engine is called {engine!r}; there are {', '.join(ENGINES)}")
    began = time.time()
    fingerprint = read_manifest(Path(data))["fingerprint"]
    target = Path(target).absolute()
    jobs = [Job(settings, _folder(target, settings, fingerprint, device)) for settings in runs]
    if len({job.folder for job in jobs}) < len(jobs):
        raise InputError("the study lists the same run twice")
    summary = StudySummary()
    missing = [job for job in jobs if not Record.finished(job.folder)]
    summary.found = len(jobs) - len(missing)
    deadline = math.inf if minutes is None else began + 60 * minutes
    place = None if weights is None else Path(weights).absolute()
    workshop = Workshop(Path(data).absolute(), device, threads, deadline, address, place)
    waves = (
        ENGINES[engine](wave, workshop, workers, watch or (lambda name, report: None))
        for wave in _waves(missing)
    )
    for job, error in itertools.chain.from_iterable(waves):
        if error is None:
            summary.made += 1
        elif isinstance(error, RunPaused):
            summary.paused.append(job.name)
        else:
            summary.failed[job.name] = f"{type(error).__name__}: {error}"
    summary.records = [Record.load(job.folder) for job in jobs if Record.finished(job.folder)]
    summary.seconds = time.time() - began
    return summary


def _folder(target: Path, settings: RunSettings, fingerprint: str, device: str) -> Path:
    key = run_key(settings, fingerprint, torch.device(device).type)
    return target / f"{settings.method}-seed{settings.seed}-{key[:12]}"


def _waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Cut jobs into groups to be worked off one after the other: dense ERM runs come before the runs whose scores they calibrate."""
    first = [
        job
        for job in jobs
        if isinstance(job.settings.model, DenseModelSettings) and job.settings.method == "erm"
    ]
    rest = [job for job in jobs if job not in first]
    return [wave for wave in (first, rest) if wave]


def _in_process(jobs: Sequence[Job], workshop: Workshop, workers: int, watch: Watch) -> Iterable[Outcome]:
    """Work off the jobs one after another in this process."""
    before = torch.get_num_threads()
    problems: dict[int | None, Problem] = {}
    try:
        torch.set_num_threads(workshop.threads)
        for job in jobs:
            yield job, attempt(job, workshop, problems, watch)
    finally:
        torch.set_num_threads(before)


def _processes(jobs: Sequence[Job], workshop: Workshop, workers: int, watch: Watch) -> Iterable[Outcome]:
    """Work off the jobs in worker processes; a worker that dies is replaced and its run continued from the checkpoint."""
    context = multiprocessing.get_context("spawn")
    waiting, attempts = list(jobs), dict.fromkeys([job.folder for job in jobs], 0)
    with context.Manager() as manager:
        reports = manager.Queue()
        while waiting:
            pending: dict[Future[Exception | None], Job] = {}
            broken = False
            with ProcessPoolExecutor(
                min(workers, len(waiting)), context, initializer=_open_workshop, initargs=(workshop, reports)
            ) as pool:
                for job in waiting:
                    pending[pool.submit(_work, job)] = job
                waiting = []
                while pending:
                    done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                    pass_on(reports, watch)
                    for future in done:
                        job = pending.pop(future)
                        error = future.exception()
                        if isinstance(error, BrokenProcessPool):
                            broken = True
                            waiting.append(job)
                        else:
                            yield job, error if isinstance(error, Exception) else future.result()
            if broken:
                waiting, given_up = _after_a_death(waiting, attempts)
                for job in given_up:
                    yield (
                        job,
                        RecordError(f"its worker process died {ATTEMPTS} times; run it alone to see why"),
                    )
        pass_on(reports, watch)


def _after_a_death(jobs: Sequence[Job], attempts: dict[Path, int]) -> tuple[list[Job], list[Job]]:
    """Count an attempt for every job that had begun; return the jobs to go on with and those to give up."""
    for job in jobs:
        if job.folder.exists():
            attempts[job.folder] += 1
    keep = [job for job in jobs if attempts[job.folder] < ATTEMPTS]
    return keep, [job for job in jobs if attempts[job.folder] >= ATTEMPTS]


def _ray(jobs: Sequence[Job], workshop: Workshop, workers: int, watch: Watch) -> Iterable[Outcome]:
    """Work off the jobs on a Ray cluster, at most ``workers`` at a time."""
    from relif_core.studies.ray_engine import work_off

    return work_off(jobs, workshop, workers, watch, ATTEMPTS)


ENGINES: Mapping[str, Engine] = {"in_process": _in_process, "processes": _processes, "ray": _ray}


def attempt(
    job: Job, workshop: Workshop, problems: dict[int | None, Problem], watch: Watch
) -> Exception | None:
    """Run one job, or pause it where the time is used up; return the error that ended it instead of raising it."""
    try:
        if time.time() > workshop.deadline:
            return RunPaused(f"{job.name}: not begun, the time is used up; run the study again to go on")
        hours = job.settings.training.maximum_hours
        if hours not in problems:
            problems[hours] = open_problem(workshop.data, workshop.device, job.settings, workshop.weights)
        run(
            job.settings,
            problems[hours],
            job.folder,
            progress=lambda report: watch(job.name, report),
            deadline=workshop.deadline,
        )
    except Exception as error:
        return error
    finally:
        watch(job.name, None)
    return None


_worker: dict[str, Any] = {}


def _open_workshop(workshop: Workshop, reports: Any) -> None:
    """Prepare a worker process: its threads, its data on first use, and the line back to the study."""
    torch.set_num_threads(workshop.threads)
    _worker.update(workshop=workshop, problems={}, reports=reports)


def _work(job: Job) -> Exception | None:
    reports = _worker["reports"]
    return attempt(
        job, _worker["workshop"], _worker["problems"], lambda name, report: reports.put((name, report))
    )


def pass_on(reports: Any, watch: Watch) -> None:
    """Hand every waiting report to the watcher."""
    while True:
        try:
            watch(*reports.get_nowait())
        except queue.Empty:
            return
