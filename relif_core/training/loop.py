"""One run: a data set, a model, a balancer, the surrogate and the controller become a record (Algorithm 2).

A run saves its whole state every half minute or so and goes on from there when it is started again; batch
order depends on (seed, epoch) alone and the generator states travel with the checkpoint, so an interrupted
run ends where an uninterrupted one does (exactly so on CPU with the same number of threads).
"""

import contextlib
import ctypes
import fcntl
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from relif_core.balancers import make_balancer
from relif_core.controller import controller_of
from relif_core.errors import DataError, DivergenceError, InputError, RecordError, RunBusy, RunPaused
from relif_core.files import LOCK, atomic_file, named_faults, write_file, write_json
from relif_core.models import TaskLosses
from relif_core.penalties import make_penalty
from relif_core.problems.base import Evaluation, Problem
from relif_core.provenance import sources
from relif_core.record import Record, run_key
from relif_core.settings import REVISION, RunSettings
from relif_core.training.batch_pass import BatchPass, PassedBatch
from relif_core.training.device_controller import DeviceController
from relif_core.training.epochs import TEST_EVERY, EpochAudits
from relif_core.training.outcome import record_of
from relif_core.training.stopping import STOP

CHECKPOINT = "checkpoint.pt"
#: What a run whose numbers left the finite ones leaves in place of a record: it counts against its method.
FAILED = "failed.json"
#: A run writes no checkpoint while its last one is younger, unless it ends.
CHECKPOINT_SECONDS = 30.0
#: Seconds between two looks for the record that an ended run waits for.
WAIT = 0.5
#: Of ``mallopt``: what is mapped apart, what is given back, what is asked for ahead (bytes).
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2
#: The selected weights of a finished run.
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class EpochReport:
    """What a display shows after an epoch: mean task losses, penalty R, λ, r̄ and validation utility."""

    epoch: int
    epochs: int
    losses: dict[str, float]
    penalty: float
    weight: float
    smoothed_rate: float
    worst: float
    macro: float
    best_epoch: int


Progress = Callable[[EpochReport], None]
#: What a checkpoint carries of a loop: the states of these, and the values of those.
_PARTS = ("model", "balancer", "surrogate", "controller", "optimizer", "schedule")
_PLAIN_STATE = (
    "epoch", "steps", "total", "best_epoch", "best_worst", "best_weights", "best_temperatures",
    "last_temperatures", "seconds", "history", "trace", "sources",
)  # fmt: skip


def run(
    settings: RunSettings,
    problem: Problem,
    folder: Path,
    progress: Progress | None = None,
    deadline: float = math.inf,
    checkpoint_seconds: float | None = None,
) -> Record:
    """Train, select, evaluate and write one record into ``folder``; return it.

    A finished record of the same key is returned as it is; a checkpoint of the same key is continued. The
    reported numbers come from the epoch with the best validation Worst. Once ``STOP`` is set the run stops
    after the step in progress and leaves a checkpoint; epochs leave one every ``CHECKPOINT_SECONDS``.

    Args:
        settings: What to train.
        problem: The data and what is learnt on them.
        folder: Of this run alone.
        progress: Told of every epoch.
        deadline: ``time.time()`` after which the run stops with its epoch and leaves a checkpoint.
        checkpoint_seconds: Instead of ``CHECKPOINT_SECONDS``.

    Raises:
        RecordError: The folder belongs to another run or is in use by another process.
        DivergenceError: The losses leave the finite numbers.
        RunPaused: The deadline has passed or ``STOP`` is set; start the run again to go on.
        InputError: The settings are of another revision than this code computes, or the run does not fit in
            memory.
        DataError: Before the first step: an empty split, a task without labels or classes, too few batches.
    """
    folder = Path(folder)
    key = run_key(settings, problem.data_fingerprint, problem.device.type)
    with _held(folder), _memory_named(settings):
        if Record.finished(folder):
            record = Record.load(folder)
            if record.key != key:
                raise RecordError(
                    f"{folder} holds the record of another run ({record.key[:12]}); choose another folder"
                )
            return record
        if settings.revision != REVISION:
            raise InputError(
                f"{settings.method}, seed {settings.seed}: its settings are of revision {settings.revision},"
                f" this version computes revision {REVISION}; leave the revision out, or check out the"
                " version that made the record"
            )
        began = time.time()
        own = problem.for_run(settings, folder.parent)
        try:
            own.check(settings.training.batch_size)
        except DataError as error:
            raise DataError(f"{settings.method}, seed {settings.seed}, before epoch 1: {error}") from error
        keep_freed_memory()
        loop = TrainingLoop(settings, own)
        resumed = _restore(loop, folder / CHECKPOINT, key)
        loop.sources = list(dict.fromkeys([*loop.sources, sources()["source"]]))
        saved = time.monotonic()
        age = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
        while not loop.finished:
            with _failure_noted(settings, folder):
                if whole := loop.train_epoch():
                    loop.select()
            # Asked once, so that nothing is paused unsaved.
            asked, late = STOP.is_set(), time.time() > deadline
            if loop.finished or late or asked or time.monotonic() - saved >= age:
                _save(loop, folder / CHECKPOINT, key)
                saved = time.monotonic()
            if whole and progress is not None:
                progress(loop.report())
            if (late or asked) and not loop.finished:
                reason = "asked to stop" if asked else "the time is used up"
                place = f"after epoch {loop.epoch}" if whole else f"in epoch {loop.epoch + 1}"
                raise RunPaused(f"{folder}: {reason} {place}; run again to go on")
        while own.waits():
            if STOP.is_set() or time.time() > deadline:
                raise RunPaused(
                    f"{folder}: trained; the run that calibrates it is under way; run again to go on"
                )
            time.sleep(WAIT)
        with _failure_noted(settings, folder):
            record = record_of(loop, key, began, resumed)
        weights = {name: value.contiguous() for name, value in loop.model.state_dict().items()}
        write_file(folder / WEIGHTS, save(weights))
        # Not after the record: killed in between, the run would count as failed and as made.
        (folder / FAILED).unlink(missing_ok=True)
        record.save(folder)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return record


class TrainingLoop:
    """The moving parts of one run. ``train_epoch`` and ``select`` advance it by one epoch."""

    def __init__(self, settings: RunSettings, problem: Problem, *, capture: bool = True) -> None:
        training = settings.training
        self.settings, self.problem = settings, problem
        torch.manual_seed(settings.seed)
        self.model = problem.build_model(settings.model)
        self.balancer = make_balancer(
            settings.balancer, tasks=len(problem.task_names), seed=settings.seed
        ).to(problem.device)
        self.surrogate = make_penalty(settings.surrogate).to(problem.device)
        self.batch_pass = BatchPass(
            self.model,
            self.surrogate if settings.penalty else None,
            training.precision,
            problem.task_names,
            by_task=self.balancer.needs_gradients,
            batch_size=training.batch_size,
            capture=capture,
        )
        self.controller = controller_of(**asdict(settings.controller))
        self.steering = self._steering()
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.model.parameters()), "weight_decay": training.weight_decay},
                *self.balancer.parameter_groups(training.weight_decay),
            ],
            lr=training.learning_rate,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=training.epochs)
        self.epoch = 0
        #: Steps of the epoch in progress and the sum [T + 1] of what they returned.
        self.steps = 0
        self.total = torch.empty(0)
        self.best_epoch = 0
        self.best_worst = -math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.best_temperatures: dict[str, float] = {}
        self.last_temperatures: dict[str, float] = {}
        self.audits = EpochAudits(problem.task_names)
        self.score_calibration: dict[str, Any] | None = None
        self.seconds = 0.0
        #: Digests of the sources that took part, in order: several where the code changed between calls.
        self.sources: list[str] = []
        self.history: dict[str, list[Any]] = {
            name: [] for name in ("losses", "penalty", "weight", "smoothed_rate", "worst", "macro", "scores")
        }
        self.trace: dict[str, list[float]] = {"weight": [], "violation_rate": [], "smoothed_rate": []}

    @property
    def finished(self) -> bool:
        """True after the last epoch, or when ``patience`` epochs brought no improvement."""
        training = self.settings.training
        return self.epoch >= training.epochs or (self.epoch - self.best_epoch) >= training.patience

    def train_epoch(self) -> bool:
        """Run an epoch's steps, or what a stopped run has left of them; note its mean losses and penalty.

        A task's mean is over the batches that have a label of it; NaN where none has.

        Returns:
            False where ``STOP`` was set before the last step: the epoch goes on at the next call.
        """
        began = time.perf_counter()
        self.model.train()
        self.surrogate.train()
        if not self.steps:
            self.total = torch.zeros(2, len(self.problem.task_names) + 1, device=self.problem.device)
        self.epoch += 1
        for batch in itertools.islice(self._batches(), self.steps, None):
            if STOP.is_set():
                self.epoch -= 1
                self._settle()
                self.seconds += time.perf_counter() - began
                return False
            self.total += self.step(batch)
            self.steps += 1
        self.steps = 0
        self._settle()
        self.schedule.step()
        sums, counts = self.total.tolist()
        if not all(math.isfinite(value) for value in sums):
            raise self._divergence("losses are not finite")
        means = [value / count if count else math.nan for value, count in zip(sums, counts, strict=True)]
        self.history["losses"].append(means[:-1])
        self.history["penalty"].append(means[-1])
        self.seconds += time.perf_counter() - began
        return True

    def step(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Make one optimisation step.

        Returns:
            [2, T + 1] without gradient: the task losses and the unweighted penalty, and below each 1 where
            the batch has it, else 0.
        """
        training = self.settings.training
        self.optimizer.zero_grad(set_to_none=True)
        passed = self.batch_pass(batch)
        losses, penalty, rate = passed.losses, passed.penalty, passed.rate
        seen, counted = losses.values.new_zeros(1), losses.present.new_ones(1)
        if penalty is not None and rate is not None and passed.valid is not None:
            seen, counted = penalty.detach().view(1), passed.valid.view(1)
            weight: float | Tensor
            if self.steering is not None:
                weight = self.steering.update(rate).to(penalty.dtype)
            else:
                weight = self.controller.update(rate.item())
                self._note_step(weight, rate.item(), self._smoothed_rate())
            penalty = weight * penalty
        self._backward(passed, penalty)
        clip = training.gradient_clip if self.balancer.gradient_clip is None else self.balancer.gradient_clip
        if clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        values = torch.cat([losses.values.detach(), seen])
        return torch.stack([values, torch.cat([losses.present, counted]).to(values)])

    def select(self) -> None:
        """Evaluate on validation, audit the epoch and keep the weights where Worst improved enough.

        An epoch that is not evaluated has no utility in the history.
        """
        if self.epoch % self.settings.training.evaluate_every and not self.finished:
            self._note_epoch(math.nan, math.nan, [None] * len(self.problem.task_names))
            return
        evaluation = self._evaluate("validation")
        worst, macro = evaluation.utility.worst, evaluation.utility.macro
        self.last_temperatures = self.audits.add("validation", self.epoch, evaluation)
        if self.epoch % TEST_EVERY == 0:
            test = self._evaluate("test")
            self.audits.add("test", self.epoch, test, self.last_temperatures)
        if worst > self.best_worst + self.settings.training.minimum_improvement:
            self.best_worst, self.best_epoch = worst, self.epoch
            self.best_temperatures = self.last_temperatures
            self.best_weights = self._weights()
        self._note_epoch(worst, macro, [task.score for task in evaluation.utility.tasks.values()])

    def _note_epoch(self, worst: float, macro: float, scores: list[float | None]) -> None:
        self.history["worst"].append(worst)
        self.history["macro"].append(macro)
        self.history["scores"].append(scores)
        self.history["weight"].append(self.controller.weight if self.settings.penalty else 0.0)
        self.history["smoothed_rate"].append(self._smoothed_rate())

    def report(self) -> EpochReport:
        """Return the last epoch's numbers for a progress display."""
        last = {name: values[-1] for name, values in self.history.items()}
        return EpochReport(
            epoch=self.epoch,
            epochs=self.settings.training.epochs,
            losses=dict(zip(self.problem.task_names, last["losses"], strict=True)),
            best_epoch=self.best_epoch,
            **{name: last[name] for name in ("penalty", "weight", "smoothed_rate", "worst", "macro")},
        )

    def final_evaluations(self) -> dict[str, Evaluation]:
        """Return the selected model on "validation" and "test" and the last epoch's on "last", test again.

        The selected weights, with their audit scores calibrated, stay in place.

        Raises:
            DivergenceError: Validation Worst was undefined in every epoch.
        """
        if not self.best_weights:
            raise DivergenceError(
                f"{self.settings.method}, seed {self.settings.seed}: validation Worst was undefined in every"
                " epoch; give a validation split with both classes of some task"
            )
        last = self._weights()
        self.model.load_state_dict(self.best_weights)
        with self._precision():
            self.score_calibration = self.problem.calibrate_scores(self.model)
        found = {split: self._evaluate(split) for split in ("validation", "test")}
        found["last"] = found["test"]
        if self.best_epoch != self.epoch:
            selected = self._weights()
            self.model.load_state_dict(last)
            self.problem.calibrate_scores(self.model, self.score_calibration)
            found["last"] = self._evaluate("test")
            self.model.load_state_dict(selected)
        self.audits.add("test", self.best_epoch, found["test"], self.best_temperatures)
        self.audits.add("test", self.epoch, found["last"], self.last_temperatures)
        return found

    def raw_scores(self, split: str) -> dict[str, np.ndarray]:
        """Return the problem's raw scores of the model as it is."""
        with self._precision():
            return self.problem.raw_scores(self.model, split)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in _PARTS}
        state |= {name: getattr(self, name) for name in _PLAIN_STATE}
        state["audits"] = self.audits.readings
        state["random"] = torch.get_rng_state()
        if self.problem.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.problem.device)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.steering = self._steering()
        for name in _PLAIN_STATE:
            setattr(self, name, state[name])
        self.audits.readings = state["audits"]
        torch.set_rng_state(state["random"].cpu())
        if self.problem.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.problem.device)

    def _weights(self) -> dict[str, Tensor]:
        """Return a copy of the model's weights."""
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _batches(self) -> Iterator[Mapping[str, Tensor]]:
        training = self.settings.training
        return self.problem.training_batches(training.batch_size, self.settings.seed, self.epoch - 1)

    def _divergence(self, reason: str) -> DivergenceError:
        """Return the error for numbers that are not finite in this epoch; data that hold NaN come first."""
        place = f"{self.settings.method}, seed {self.settings.seed}, epoch {self.epoch}"
        for batch in self._batches():
            for name, values in batch.items():
                if values.is_floating_point() and not values.isfinite().all():
                    return DivergenceError(
                        f"{place}: {name!r} of the training data holds NaN or infinity; make the tensors"
                        " again"
                    )
        return DivergenceError(f"{place}: {reason}; lower the learning rate or the gradient clip")

    def _weigh(self, losses: TaskLosses, gram: Tensor | None) -> Tensor:
        if gram is not None and not gram.isfinite().all():
            raise self._divergence("the Gram matrix of the task gradients is not finite")
        return self.balancer(losses.values.detach(), gram, losses.present)

    def _backward(self, passed: PassedBatch, penalty: Tensor | None) -> None:
        """Leave the balanced gradient in ``.grad`` of every parameter, the weighted penalty's included."""
        gradients = passed.gradients
        if gradients is None:
            objective = (self._weigh(passed.losses, None) * passed.losses.values).sum()
            (objective if penalty is None else objective + penalty).backward()
            return
        shared, matrix, heads = self.model.shared_parameters(), gradients.shared, gradients.heads
        gram = _gram(matrix)
        if self.balancer.gradient_scope == "all":
            # Heads of different tasks share no parameter, so they add to the diagonal only.
            norms = [sum((part.square().sum() for part in head), gram.new_zeros(())) for head in heads]
            gram += torch.diag(torch.stack(norms))
        weights = self._weigh(passed.losses, gram)
        combined = (weights.to(matrix.dtype) @ matrix).split([parameter.numel() for parameter in shared])
        for parameter, gradient in zip(shared, combined, strict=True):
            # A copy in the parameter's own memory layout, which optimisers expect (channels-last weights).
            parameter.grad = torch.empty_like(parameter).copy_(gradient.view_as(parameter))
        for index, task in enumerate(self.problem.task_names):
            factor = weights[index] if self.balancer.weighted_heads else 1.0
            for parameter, gradient in zip(self.model.head_parameters(task), heads[index], strict=True):
                parameter.grad = gradient * factor
        if penalty is not None and penalty.requires_grad:
            penalty.backward()

    def _evaluate(self, split: str) -> Evaluation:
        try:
            with self._precision():
                return self.problem.evaluate(self.model, split)
        except DivergenceError as error:
            raise self._divergence(str(error)) from error

    def _precision(self) -> torch.autocast:
        """Return the autocast region in which this run trains and evaluates."""
        enabled = self.settings.training.precision == "bfloat16"
        return torch.autocast(self.problem.device.type, torch.bfloat16, enabled=enabled)

    def _steering(self) -> DeviceController | None:
        """Return what moves λ on a GPU, where it stays: the host learns of it once an epoch."""
        on_gpu = self.problem.device.type == "cuda"
        return DeviceController(self.controller, self.problem.device) if on_gpu else None

    def _settle(self) -> None:
        """Bring the device's λ and its trace to the host."""
        for step in self.steering.settle() if self.steering is not None else ():
            self._note_step(*step)

    def _note_step(self, weight: float, rate: float, smoothed: float) -> None:
        for values, value in zip(self.trace.values(), (weight, rate, smoothed), strict=True):
            values.append(value)

    def _smoothed_rate(self) -> float:
        rate = self.controller.smoothed_rate if self.settings.penalty else None
        return math.nan if rate is None else rate


def _gram(rows: Tensor, *, pairs: bool | None = None) -> Tensor:
    """Return the inner products [T, T] of rows [T, n]: one GEMM, or (on a GPU) a dot product of each pair."""
    if not (rows.device.type != "cpu" if pairs is None else pairs):
        return rows @ rows.T
    gram = rows.new_empty(len(rows), len(rows))
    for i, row in enumerate(rows):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = torch.dot(row, rows[j])
    return gram


def _save(loop: TrainingLoop, path: Path, key: str) -> None:
    with atomic_file(path) as stream:
        torch.save({"key": key, "state": loop.state_dict()}, stream)


def _restore(loop: TrainingLoop, path: Path, key: str) -> bool:
    """Load a checkpoint if there is one; tell whether there was."""
    if not path.is_file():
        return False
    try:
        saved = torch.load(path, map_location=loop.problem.device, weights_only=True)
        if (own := saved["key"]) == key:
            loop.load_state_dict(saved["state"])
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        shown = str(error)[:200].partition("\n")[0]
        raise RecordError(f"{path} cannot be read ({shown}); remove it and the run starts over") from error
    if own != key:
        raise RecordError(f"{path} belongs to another run ({own[:12]}); choose another folder")
    return True


@contextlib.contextmanager
def _failure_noted(settings: RunSettings, folder: Path) -> Iterator[None]:
    """Write down method, seed and error of a run that diverges."""
    try:
        yield
    except DivergenceError as error:
        content = {"method": settings.method, "seed": settings.seed, "error": str(error)}
        write_json(folder / FAILED, content)
        raise


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that a training step frees, for the next step.

    The GNU C library hands large arrays back to the system as soon as they are freed; every step then asks
    for the same pages again and has them zeroed, a fifth of its time. No number depends on it. Other C
    libraries have no such call and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, size in ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26)):
            mallopt(parameter, size)


@contextlib.contextmanager
def _memory_named(settings: RunSettings) -> Iterator[None]:
    """Say of a failed allocation, on a processor or a GPU, which run asked for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not short:
            raise
        raise InputError(
            f"{settings.method}, seed {settings.seed}: memory is too small for this model and batch"
            f" ({str(error)[:300].partition(chr(10))[0]}); lower training.batch_size, or take a smaller model"
        ) from error


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process; the lock goes with the process, however it ends."""
    with named_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a", encoding="utf-8")  # noqa: SIM115 - closed by the next line
    with lock:
        try:
            with named_faults(folder):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusy(
                f"{folder} is being written by another process; wait for it or choose another folder"
            ) from error
        # Nobody else writes here now: what a killed run was writing is refuse.
        for refuse in folder.glob(".*.partial"):
            refuse.unlink()
        yield
