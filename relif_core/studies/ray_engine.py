"""Studies on many machines: the jobs become tasks of a Ray cluster.

The cluster's machines need this package, and the study's data and target folders under the same paths (a
shared file system). A task whose machine dies is started again elsewhere and goes on from the run's
checkpoint. Needs the package ``ray``.
"""

import contextlib
import logging
import queue
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from relif_core.errors import InputError, listed
from relif_core.studies.jobs import ATTEMPTS, Ending, Job, Outcome, Schedule, Watch, WorkerContext, run_job
from relif_core.training.stopping import STOP

if TYPE_CHECKING:
    from relif_core.problems.base import Problem

#: Where the line back to the study lives: the machine that holds the cluster together.
HEAD = "node:__internal_head__"
#: Seconds that a cluster has to answer.
ANSWER = 10
_opened: dict[WorkerContext, "Problem"] = {}


def work_off(schedule: Schedule, context: WorkerContext, workers: int, watch: Watch) -> Iterator[Outcome]:
    """Work off the jobs, at most ``workers`` at a time; on a GPU they share each device.

    A job that took ``ATTEMPTS`` workers with it is given up.

    Args:
        schedule: The jobs.
        context: Its ``address`` names a running cluster ("auto": this machine's); without one, a cluster
            starts here and ends with the study.
        workers: Number of jobs at a time.
        watch: Told what happens.

    Raises:
        InputError: Ray is not installed, the cluster does not answer, or no machine of it can hold a run.
    """
    try:
        import ray
        from ray.exceptions import RayError
        from ray.util.queue import Queue
    except ImportError as error:
        raise InputError("engine 'ray' needs the package ray; install it (pip install ray)") from error
    own = not ray.is_initialized()
    needs = {"CPU": context.threads, "GPU": 1 / workers if context.device.startswith("cuda") else 0}
    if own:
        _reach(context.address)
        try:
            # "local": a cluster of this study's own, whatever else runs on this machine.
            ray.init(address=context.address or "local", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster answers at {context.address!r}: {error}") from error
    pending: dict[Any, Job] = {}
    try:
        _can_hold(ray.nodes(), needs)
        reports = Queue(actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}})
        task = ray.remote(num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=ATTEMPTS - 1)(_work)
        while not STOP.is_set():
            while len(pending) < workers and (job := schedule.next()):
                pending[task.remote(job, context, reports)] = job
            if not pending:
                break
            done, _ = ray.wait(list(pending), timeout=0.2)
            with contextlib.suppress(queue.Empty):
                while True:
                    watch(*reports.get_nowait())
            for reference in done:
                job = pending.pop(reference)
                watch(job.name, None)
                try:
                    ending = ray.get(reference)
                except RayError as error:
                    ending = Ending("failed", f"its worker died {ATTEMPTS} times: {error}")
                yield schedule.ended(job, ending)
        for force in (False, True) if pending else ():
            for reference in pending:
                ray.cancel(reference, force=force)
            ray.wait(list(pending), num_returns=len(pending), timeout=STOP.grace())
        reports.shutdown()
    finally:
        if own:
            ray.shutdown()


def _reach(address: str | None) -> None:
    """Refuse (``InputError``) a HOST:PORT where nothing listens: Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at {address!r} ({error}); give HOST:PORT of its head, as `ray start"
            " --head` printed it"
        ) from error


def _can_hold(nodes: list[dict[str, Any]], needs: dict[str, float]) -> None:
    """Refuse (``InputError``) a cluster without a machine large enough: a run would wait for ever."""
    offers = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(offer.get(name, 0) >= amount for name, amount in needs.items()) for offer in offers):
        most = {name: max((offer.get(name, 0) for offer in offers), default=0) for name in needs}
        wanted = listed(f"{amount:g} {name}" for name, amount in needs.items() if amount)
        raise InputError(
            f"a run needs {wanted} on one machine, and no machine of the cluster has them (at most"
            f" {most['CPU']:g} CPU, {most['GPU']:g} GPU); lower --threads, or use --device cpu"
        )


def _work(job: Job, context: WorkerContext, reports: Any) -> Ending:
    """Run one job in a worker of the cluster, which keeps the data for the next one."""
    import torch

    torch.set_num_threads(context.threads)
    STOP.clear()
    # What a cancelled task gets.
    before = signal.signal(signal.SIGINT, lambda *_: STOP.set())
    try:
        return run_job(job, context, _opened, lambda name, report: reports.put((name, report)))
    finally:
        signal.signal(signal.SIGINT, before)
