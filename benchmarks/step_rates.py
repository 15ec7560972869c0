"""How fast a rented device makes steps: of ERM and ReLiF, against a plain loop, and by several workers."""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.dense_step import against_loader
from relif_core.errors import DataError
from relif_core.problems import open_problem
from relif_core.problems.dense import DenseProblem
from relif_core.settings import RunSettings, changed
from relif_core.training.epochs import TEST_EVERY
from relif_core.training.loop import TrainingLoop

#: ReLiF's step against ERM's at most, an epoch of the plain loop against this project's at least.
BARS = {"relif_over_erm": 1.05, "plain_over_own": 5.0}
#: Seconds that several workers have for starting and making their measured steps.
PATIENCE = 150.0
#: Steps that a measurement takes after its warm-up.
STEPS = 20


def measure(
    settings: RunSettings, folder: Path, given: argparse.Namespace, weights: Path | None, until: float
) -> dict[str, Any]:
    """Time ERM's and ReLiF's step, evaluations, the plain loop and the steps of several workers.

    Returns:
        Milliseconds of a step of both (of ERM's without a CUDA graph too), their ratio, what an epoch of the
        plain loop takes over this project's in one process and in all (dense data), which of the bars are
        met, ``steps_per_second`` of every number of workers tried, the best number, and ``run_seconds`` of an
        ERM run that shares the device with as many.
    """
    repeats = 2 if given.rehearsal else STEPS
    problem = open_problem(folder, given.device, settings, weights).for_run(settings, folder)
    where = torch.device(given.device)
    steps: dict[str, float] = {}
    loops: dict[str, TrainingLoop] = {}
    for method, capture in (("erm", False), ("relif", True), ("erm", True)):
        # As many weights, and the same work; ReLiF's scores are not on their scale here, which costs nothing.
        own = changed(settings, {"method": method, "penalty": method == "relif"})
        loop = TrainingLoop(own, problem, capture=capture)
        batches = _endless(loop)
        taken = [_timed(lambda: loop.step(next(batches)), where) for _ in range(repeats + 3)]  # noqa: B023
        name = method if capture else "eager"
        steps[name], loops[name] = statistics.median(taken[3:]), loop
    ratio = steps["relif"] / steps["erm"]
    plain: dict[str, float] = {}
    bars = {"relif_over_erm": ratio <= BARS["relif_over_erm"]}
    if isinstance(problem, DenseProblem):
        files = given.scratch / "files" / folder.name
        feed, epoch = against_loader(loop, problem, files, plain=loops["eager"], turns=1, most=repeats)
        plain = {
            "plain_over_own": epoch["DataLoader"] / epoch["this project"],
            "plain_over_own_batches": feed["DataLoader"] / feed["this project"],
            "plain_images_per_second": 1 / epoch["DataLoader"],
        }
        bars["plain_over_own"] = plain["plain_over_own"] >= BARS["plain_over_own"]
    every = settings.training.evaluate_every
    evaluation = {}
    # The first of a shape costs more: the quickest convolutions are looked for.
    for split, loop.epoch in (("first", 0), ("both", TEST_EVERY * every), ("validation", every)):
        evaluation[split] = _timed(loop.select, where)
    count = sum(1 for _ in problem.training_batches(settings.training.batch_size, 0, 0))
    rates = {
        number: rate(settings, folder, given.device, weights, number, repeats, until - time.time())
        for number in given.try_workers
    }
    # Of what is as fast the fewest, since their runs end sooner.
    enough = [number for number, rate in rates.items() if 0 < rate >= 0.95 * max(rates.values())]
    best = max(rates) if given.rehearsal else min(enough, default=0)
    if not rates.get(best):
        raise DataError(f"{folder}: no worker could make its steps; see what it printed above")
    if plain:
        images = rates[best] * settings.training.batch_size
        plain["plain_over_all_workers"] = images / plain["plain_images_per_second"]
    epochs = settings.training.epochs
    evaluations = epochs / every * evaluation["validation"] + (epochs / TEST_EVERY + 3) * evaluation["both"]
    return {
        "eager_erm_step_ms": 1e3 * steps["eager"],
        "erm_step_ms": 1e3 * steps["erm"],
        "relif_step_ms": 1e3 * steps["relif"],
        "relif_over_erm": ratio,
        **plain,
        "bars_met": bars,
        "evaluation_seconds": evaluation,
        "steps_per_second": rates,
        "workers": best,
        # Evaluations keep the host busy more than the device.
        "run_seconds": best * epochs * count / rates[best] + evaluations,
    }


def rate(
    settings: RunSettings,
    folder: Path,
    device: str,
    weights: Path | None,
    workers: int,
    repeats: int,
    left: float,
) -> float:
    """Return the steps per second that worker processes make together; 0 where one fails or is too slow."""
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(workers), context.SimpleQueue()
    crew = [
        context.Process(
            target=_pace, args=(settings, folder, device, weights, repeats, gate, results), daemon=True
        )
        for _ in range(workers)
    ]
    for process in crew:
        process.start()
    until = time.monotonic() + min(PATIENCE, left)
    for process in crew:
        process.join(max(0.0, until - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
    if any(process.exitcode for process in crew):
        return 0.0
    return repeats * workers / max(results.get() for _ in crew)


def _pace(
    settings: RunSettings,
    folder: Path,
    device: str,
    weights: Path | None,
    repeats: int,
    gate: Any,
    results: Any,
) -> None:
    torch.set_num_threads(1)
    try:
        problem = open_problem(folder, device, settings, weights).for_run(settings, folder)
        loop = TrainingLoop(settings, problem)
        batches = _endless(loop)
        for _ in range(3):
            loop.step(next(batches))
        gate.wait(120)
    except BaseException:
        gate.abort()
        raise
    results.put(_timed(lambda: [loop.step(next(batches)) for _ in range(repeats)], torch.device(device)))


def _endless(loop: TrainingLoop) -> Iterator[Mapping[str, torch.Tensor]]:
    loop.model.train()
    epoch = 0
    while True:
        yield from loop.problem.training_batches(loop.settings.training.batch_size, 0, epoch)
        epoch += 1


def _timed(call: Callable[[], object], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    before = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - before
