"""What a study begins before its deadline: nothing that cannot end by then, whatever the method costs."""

import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relif_core import provenance
from relif_core.cli import _fit_precision
from relif_core.errors import InputError
from relif_core.files import LOCK
from relif_core.settings import RunSettings, dense_settings
from relif_core.studies.grid import named_study
from relif_core.studies.jobs import COSTS, Ending, Job, Schedule


def begun(waiting: RunSettings, finished: RunSettings, seconds: float, left: float) -> bool:
    """Whether a run is begun ``left`` seconds before the deadline, after one that took ``seconds``."""
    made: dict[str, Any] = {"made": {"seconds": seconds, "training_seconds": seconds}}
    record: Any = SimpleNamespace(
        settings=finished, content=made, result={"epochs": finished.training.epochs}
    )
    schedule = Schedule([Job(waiting, Path("nowhere"))], time.time() + left, [record])
    return schedule.next() is not None


@pytest.mark.parametrize(
    ("method", "cost"), [("erm", 1.0), ("relif", COSTS["penalty"]), ("gradnorm", COSTS["gradients"])]
)
def test_a_first_run_of_a_slower_method_waits_for_its_own_time(
    small: Callable[..., RunSettings], method: str, cost: float
) -> None:
    assert begun(small(method), small("erm", seed=1), 100.0, 100 * cost + 5)
    assert not begun(small(method), small("erm", seed=1), 100.0, 100 * cost - 5)


def test_a_slow_methods_own_time_counts_where_it_is_known_and_tells_the_quick_ones(
    small: Callable[..., RunSettings],
) -> None:
    assert begun(small("gradnorm"), small("gradnorm", seed=1), 120.0, 125.0)
    assert not begun(small("gradnorm"), small("gradnorm", seed=1), 120.0, 115.0)
    assert begun(small("erm"), small("gradnorm"), 120.0, 120 / COSTS["gradients"] + 5)


def test_a_run_that_stopped_early_does_not_promise_that_the_next_method_does(
    small: Callable[..., RunSettings],
) -> None:
    finished, waiting = small("erm"), small("cats_as_released")
    early: Any = SimpleNamespace(settings=finished, content={"made": {"seconds": 10.0}}, result={"epochs": 1})
    early.content["made"]["training_seconds"] = 9.0
    for left, expected in ((25.0, None), (35.0, waiting)):
        job = Schedule([Job(waiting, Path("nowhere"))], time.time() + left, [early]).next()
        assert (job and job.settings) == expected


def test_what_waits_only_until_an_erm_run_has_begun_keeps_its_place(tmp_path: Path) -> None:
    """PCGrad goes before ERM of the next seed, though that is ready first; ReLiF waits for the record."""
    runs = [dense_settings(method, seed=seed) for method, seed in (
        ("erm", 0), ("relif", 0), ("pcgrad", 0), ("erm", 1),
    )]  # fmt: skip
    jobs = [Job(run, tmp_path / f"{run.method}{run.seed}") for run in runs]
    schedule = Schedule(jobs, time.time() + 100, [])
    assert schedule.next() is jobs[0]
    assert not schedule.holding
    assert schedule.next() is None
    assert schedule.holding
    jobs[0].folder.mkdir()
    with open(jobs[0].folder / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [schedule.next() for _ in range(3)] == [jobs[2], jobs[3], None]
        assert not schedule.holding, "ReLiF waits for a record: no worker gets ready for it meanwhile"
    schedule.ended(jobs[0], Ending("made"))
    assert schedule.next() is jobs[1]


@pytest.mark.parametrize(("flags", "expected"), [("avx2 fma", "float32"), ("avx512f amx_bf16", "bfloat16")])
def test_a_run_takes_the_precision_that_the_processor_has_unless_it_is_stated(
    small: Callable[..., RunSettings], monkeypatch: pytest.MonkeyPatch, flags: str, expected: str
) -> None:
    monkeypatch.setattr(provenance, "processor_instructions", lambda: flags)
    assert _fit_precision(small(), "cpu", stated=False).training.precision == expected
    assert _fit_precision(small(), "cpu", stated=True).training.precision == "float32"
    planned = named_study("table3")[0]
    if expected == "bfloat16":
        assert _fit_precision(planned, "cpu", stated=True) == planned
    else:
        with pytest.raises(InputError, match="bfloat16, which this processor has not; --set it to float32"):
            _fit_precision(planned, "cpu", stated=True)
