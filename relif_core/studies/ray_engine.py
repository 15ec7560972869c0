"""Studies on many machines: the jobs become tasks of a Ray cluster.

The cluster's machines need this package, and the study's data and target folders under the same paths (a shared file system).
A task whose machine dies is started again elsewhere and goes on from the run's checkpoint. Needs the package ``ray``.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from relif_core.errors import InputError, RecordError
from relif_core.studies.grid import Job, Watch, Workshop, attempt, pass_on

if TYPE_CHECKING:
    from relif_core.problems.base import Problem

#: Where the line back to the study lives: the machine that holds the cluster together.
HEAD = "node:__internal_head__"
_problems: dict[Workshop, dict[int | None, "Problem"]] = {}


def work_off(
    jobs: Sequence[Job], workshop: Workshop, workers: int, watch: Watch, attempts: int
) -> Iterator[tuple[Job, Exception | None]]:
    """Yield every job with None or the error that ended it; at most ``workers`` are under way at a time.

    ``workshop.address`` names a running cluster ("auto": the one of this machine); without it a cluster is started here and
    ended with the study. A job that took ``attempts`` workers with it is given up. On a GPU the ``workers`` share each device.

    Raises ``InputError`` where Ray is not installed or the cluster does not answer.
    """
    try:
        import ray
        from ray.exceptions import RayError
        from ray.util.queue import Queue
    except ImportError as error:
        raise InputError("engine 'ray' needs the package ray; install it (pip install ray)") from error
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address=workshop.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise InputError(f"no Ray cluster answers at {workshop.address!r}: {error}") from error
    reports = Queue(actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}})
    task = ray.remote(
        num_cpus=workshop.threads,
        num_gpus=1 / workers if workshop.device.startswith("cuda") else 0,
        max_retries=attempts - 1,
    )(_work)
    waiting = list(reversed(jobs))
    pending: dict[Any, Job] = {}
    try:
        while waiting or pending:
            while waiting and len(pending) < workers:
                job = waiting.pop()
                pending[task.remote(job, workshop, reports)] = job
            done, _ = ray.wait(list(pending), timeout=0.2)
            pass_on(reports, watch)
            for reference in done:
                job = pending.pop(reference)
                try:
                    yield job, ray.get(reference)
                except RayError as error:
                    yield job, RecordError(f"its worker died {attempts} times: {error}")
        pass_on(reports, watch)
    finally:
        reports.shutdown()
        if own:
            ray.shutdown()


def _work(job: Job, workshop: Workshop, reports: Any) -> Exception | None:
    """Run one job in a worker of the cluster, which keeps the data for the next one."""
    torch.set_num_threads(workshop.threads)
    problems = _problems.setdefault(workshop, {})
    return attempt(job, workshop, problems, lambda name, report: reports.put((name, report)))
