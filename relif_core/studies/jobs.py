"""The runs of a study as jobs, the order in which every engine takes them, and one attempt at one of them."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from relif_core.errors import RecordError, RunBusy, RunPaused, StorageError
from relif_core.files import LOCK, is_held
from relif_core.problems import kind_of_settings
from relif_core.record import Record
from relif_core.settings import RunSettings, as_json
from relif_core.training.stopping import STOP

if TYPE_CHECKING:
    from relif_core.problems.base import Problem
    from relif_core.training.loop import EpochReport

#: A worker that dies is replaced; a run that took this many workers with it is given up.
ATTEMPTS = 3
#: Seconds of a run for one of training, where a record does not tell them: evaluation and audits come on top.
EVALUATION = 1.3
#: What an epoch of a kind of method costs at most, in epochs of plain training (measured: 2.8 and 1.05).
COSTS = {"gradients": 3.0, "penalty": 1.2}


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
class WorkerContext:
    """What every worker of a study needs: the data, the device, and until when a run may go on.

    Attributes:
        address: Of a Ray cluster, for the engine "ray" alone.
        weights: File of encoder weights, for dense problems alone.
        checkpoint_seconds: None leaves ``training.loop.CHECKPOINT_SECONDS`` as it is.
    """

    data: Path
    device: str = "cpu"
    threads: int = 1
    deadline: float = math.inf
    address: str | None = None
    weights: Path | None = None
    checkpoint_seconds: float | None = None


@dataclass(frozen=True)
class Ending:
    """How an attempt at a job ended; plain text, so that it crosses from a worker whatever raised it."""

    state: Literal["made", "paused", "busy", "failed", "no_storage"]
    message: str = ""


#: Called with a job's name and its newest epoch, or with None when the job ends.
Watch = Callable[[str, "EpochReport | None"], None]
Outcome = tuple[Job, Ending]


class Schedule:
    """Hands out the jobs of a study in their order and keeps the clock.

    Nothing is begun that would not end before ``deadline``: a job takes as long as the longest finished run
    of its settings; where there is none, as the slowest epoch of its model and training would over all its
    epochs, by what a method of its kind costs (``COSTS``). Before the first run has ended an epoch of plain
    training lasts ``epoch_seconds``; where that is 0, the very first run has no measure. A run that has a
    checkpoint is continued while there is time. A dense run waits for the ERM run of its seed, which
    calibrates its scores; where nothing in it reads them, only until that run has begun, and nothing of less
    value goes before it then. Once ``STOP`` is set, or the target cannot be written, nothing is begun.
    """

    def __init__(
        self, jobs: Sequence[Job], deadline: float, finished: Iterable[Record], epoch_seconds: float = 0.0
    ) -> None:
        self.waiting = list(jobs)
        #: Whether the last look found a job that waits for another to begin, and only for that.
        self.holding = False
        self._deadline = deadline
        self._epoch_seconds = epoch_seconds
        self._under_way: dict[Job, float | None] = {}
        self._deaths: Counter[Job] = Counter()
        self._seconds: dict[str, list[float]] = {}
        for record in finished:
            made = record.content["made"]
            seconds = made.get("seconds", EVALUATION * made["training_seconds"])
            self._note(record.settings, seconds, record.result["epochs"])

    def next(self) -> Job | None:
        """Take the next job that can be begun now; None where there is none."""
        self.holding = False
        now = time.time()
        if STOP.is_set() or now >= self._deadline:
            return None
        for job in self.waiting:
            if (ready := self._ready(job)) is None:
                self.holding = True
                return None
            continued = (job.folder / "checkpoint.pt").is_file()
            if ready and (continued or now + self._estimate(job.settings) <= self._deadline):
                self.waiting.remove(job)
                self._under_way[job] = None if continued else now
                return job
        return None

    def ended(self, job: Job, ending: Ending) -> Outcome:
        """Take note of an ended job; return both.

        Args:
            job: The job.
            ending: How it ended.
        """
        began = self._under_way.pop(job)
        if ending.state == "made" and began is not None:
            self._note(job.settings, time.time() - began, _epochs_of(job))
        if ending.state == "no_storage":
            self._deadline = -math.inf
        return job, ending

    def died(self, job: Job, cause: str) -> Outcome | None:
        """Charge a worker's death to the job it ran alone, which waits for another worker or is given up.

        Args:
            job: The job.
            cause: For the message.

        Returns:
            How a job ended that is given up.
        """
        self._deaths[job] += 1
        if self._deaths[job] == ATTEMPTS:
            message = f"its worker process died {ATTEMPTS} times, last of {cause}; run it alone to see why"
            return self.ended(job, Ending("failed", message))
        del self._under_way[job]
        self.waiting.insert(0, job)
        return None

    def _ready(self, job: Job) -> bool | None:
        """Tell whether a job may begin; None: once the run that it waits for, handed out, has begun."""
        kind = kind_of_settings(job.settings)
        if any(kind.waits_for(job.settings, other.settings) for other in self.waiting):
            return False
        awaited = [other for other in self._under_way if kind.waits_for(job.settings, other.settings)]
        if not awaited or not kind.at_end(job.settings):
            return not awaited
        return all(is_held(other.folder / LOCK) for other in awaited) or None

    def _note(self, settings: RunSettings, seconds: float, epochs: int) -> None:
        same, similar = _kinds(settings)
        self._seconds.setdefault(same, []).append(seconds)
        self._seconds.setdefault(similar, []).append(seconds / epochs / _cost(settings))

    def _estimate(self, settings: RunSettings) -> float:
        same, similar = _kinds(settings)
        epoch = max(self._seconds.get(similar, ()), default=self._epoch_seconds) * _cost(settings)
        return max(self._seconds.get(same, ()), default=epoch * settings.training.epochs)


def _kinds(settings: RunSettings) -> tuple[str, str]:
    """Return what runs share that last equally long, and those whose epochs differ by method alone."""
    content = as_json(settings)
    del content["seed"]
    return json.dumps(content, sort_keys=True), json.dumps(
        [content["model"], content["training"]], sort_keys=True
    )


def _cost(settings: RunSettings) -> float:
    from relif_core.balancers import balancer_class

    gradients = balancer_class(settings.balancer).needs_gradients
    return COSTS["gradients"] if gradients else COSTS["penalty"] if settings.penalty else 1.0


def _epochs_of(job: Job) -> int:
    """Return how many epochs a finished job ran; all of its settings where its record cannot be read."""
    try:
        return int(Record.load(job.folder).result["epochs"])
    except RecordError:
        return job.settings.training.epochs


def run_job(job: Job, context: WorkerContext, opened: dict[WorkerContext, "Problem"], watch: Watch) -> Ending:
    """Run one job, or go on with it, and tell how it ended; nothing is raised but what ends the process.

    Args:
        job: The job.
        context: Where it runs.
        opened: Keeps the opened data from one job to the next.
        watch: Told what happens.
    """
    from relif_core.problems import open_problem
    from relif_core.training.loop import run

    try:
        if context not in opened:
            opened[context] = open_problem(context.data, context.device, job.settings, context.weights)
        run(
            job.settings,
            opened[context],
            job.folder,
            lambda report: watch(job.name, report),
            context.deadline,
            context.checkpoint_seconds,
        )
    except RunPaused as error:
        return Ending("paused", str(error))
    except RunBusy as error:
        return Ending("busy", str(error))
    except StorageError as error:
        return Ending("no_storage", str(error))
    except Exception as error:
        return Ending("failed", f"{type(error).__name__}: {error}")
    return Ending("made")


def in_process(schedule: Schedule, context: WorkerContext, workers: int, watch: Watch) -> Iterable[Outcome]:
    """Work off the jobs one after another in this process.

    Args:
        schedule: As of every engine.
        context: As of every engine.
        workers: As of every engine.
        watch: As of every engine.
    """
    import torch

    before = torch.get_num_threads()
    opened: dict[WorkerContext, Problem] = {}
    try:
        torch.set_num_threads(context.threads)
        while job := schedule.next():
            ending = run_job(job, context, opened, watch)
            watch(job.name, None)
            yield schedule.ended(job, ending)
    finally:
        torch.set_num_threads(before)


#: An engine works off a schedule with a number of workers and yields every job that ended.
Engine = Callable[[Schedule, WorkerContext, int, Watch], Iterable[Outcome]]
