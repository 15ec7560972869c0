"""A study's runs in worker processes of this machine, one job and one pipe each.

Every worker runs one job at a time, so that its death is that job's. A worker ends with the process that
started it, however that one ends; it takes no Ctrl-C itself, and a SIGTERM asks its run to stop.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from relif_core.studies.jobs import Ending, Job, Outcome, Schedule, Watch, WorkerContext, run_job
from relif_core.training.stopping import GRACE, STOP

if TYPE_CHECKING:
    from relif_core.problems.base import Problem
    from relif_core.training.loop import EpochReport

#: Seconds between two looks at the stop request.
LOOK = 0.2
#: Of Linux's prctl: the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    line: Connection
    job: Job | None = None

    def begin(self, job: Job) -> None:
        """Hand a job over. If the worker has just died, its line's end tells, and the job is charged."""
        self.job = job
        with contextlib.suppress(OSError):
            self.line.send(job)


def work_off(schedule: Schedule, context: WorkerContext, workers: int, watch: Watch) -> Iterable[Outcome]:
    """Work off the jobs; a worker that dies is replaced and its run continued from the checkpoint.

    Args:
        schedule: As of every engine.
        context: As of every engine.
        workers: As of every engine.
        watch: As of every engine.
    """
    running: dict[Connection, _Worker] = {}
    spares = workers
    try:
        while True:
            yield from _listen(running, schedule, watch)
            idle = [worker for worker in running.values() if worker.job is None]
            while (idle or len(running) < workers) and (job := schedule.next()):
                worker = idle.pop() if idle else _start(context)
                running[worker.line] = worker
                worker.begin(job)
            if schedule.holding and len(running) < workers and spares:
                # Gets ready while a run that others wait for begins.
                spares -= 1
                worker = _start(context)
                running[worker.line] = worker
            if STOP.is_set() or all(worker.job is None for worker in running.values()):
                break
    finally:
        _stop(running.values())


def _start(context: WorkerContext) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, context, os.getpid()), daemon=True
    )
    # The worker inherits the mask: Ctrl-C in a terminal reaches every process, and the study alone answers.
    # (The tracker would lift the mask where it is not running yet.)
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return _Worker(process, ours)


def _listen(running: dict[Connection, _Worker], schedule: Schedule, watch: Watch) -> Iterator[Outcome]:
    """Take in what the workers have to say, their deaths included."""
    for line in wait(list(running), LOOK) if running else ():
        worker = running[line]  # type: ignore[index]
        try:
            name, news = worker.line.recv()
        except (EOFError, OSError):
            del running[worker.line]
            worker.process.join()
            if (job := worker.job) and (outcome := schedule.died(job, _cause(worker.process.exitcode))):
                watch(job.name, None)
                yield outcome
            continue
        if isinstance(news, Ending):
            job, worker.job = worker.job, None
            watch(name, None)
            yield schedule.ended(job, news)  # type: ignore[arg-type]
        else:
            watch(name, news)


def _stop(running: Collection[_Worker]) -> None:
    """End the workers; a run under way has what is left of ``GRACE`` for its checkpoint."""
    busy = {worker.process.sentinel: worker.process for worker in running if worker.job is not None}
    try:
        for process in busy.values():
            process.terminate()
        until = time.monotonic() + STOP.grace()
        while busy and (left := until - time.monotonic()) > 0:
            for sentinel in wait(list(busy), left):
                del busy[sentinel]  # type: ignore[arg-type]
    finally:
        for worker in running:
            worker.process.kill()
            worker.line.close()
        for worker in running:
            worker.process.join()


def end_with_parent(parent: int) -> None:
    """Make this worker end when the process that started it does, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _cause(status: int | None) -> str:
    return signal.Signals(-status).name if status is not None and status < 0 else f"exit status {status}"


def _serve(line: Connection, context: WorkerContext, parent: int) -> None:
    """Run in a worker: one job after another from the line, until it closes."""
    end_with_parent(parent)
    signal.signal(signal.SIGTERM, _stop_soon)
    import torch

    torch.set_num_threads(context.threads)
    opened: dict[WorkerContext, Problem] = {}

    def tell(name: str, news: "EpochReport | Ending | None") -> None:
        line.send((name, news))

    with contextlib.suppress(EOFError, BrokenPipeError):
        while not STOP.is_set():
            job = line.recv()
            tell(job.name, run_job(job, context, opened, tell))
    # Taking torch down would last longer than a stop may.
    os._exit(0)


def _stop_soon(*_: object) -> None:
    """Let the run write its checkpoint; the alarm ends the process where that takes too long."""
    STOP.set()
    signal.setitimer(signal.ITIMER_REAL, GRACE)
