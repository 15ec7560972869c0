"""Ctrl-C, SIGTERM, kill -9 and a full disk: a study ends at once, leaves no process, and loses nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relif_core.settings import RunSettings
from relif_core.studies.grid import grid, run_study
from relif_core.studies.processes import _stop
from relif_core.training.stopping import GRACE, STOP
from tests.relif_core.studies.conftest import digests

#: Two seconds are the bar on a machine of its own (benchmarks tell); a test shares its processor.
SOON = 10.0
#: Stores nothing larger than ten kilobytes.
SMALL_FILES = (
    "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    " resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); "
)
#: Sends itself SIGTERM when the first epoch is shown.
STOPPED_AT_ONCE = """
import os, signal
from relif_core.studies.display import StudyDisplay
StudyDisplay.show = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
"""
SETTINGS = {"model.hidden": 12, "model.head_width": 8, "training.epochs": 12, "training.batch_size": 32}
CHANGES = {"model": {"hidden": 12, "head_width": 8}, "training": {"epochs": 12, "batch_size": 32}}


def runs() -> list[RunSettings]:
    return grid(["erm", "relif"], [0, 1], **CHANGES)


@pytest.fixture(scope="module")
def reference(icu_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    target = tmp_path_factory.mktemp("reference")
    run_study(runs(), icu_folder, target)
    return digests(target)


def relif(*arguments: object, before: str = "") -> subprocess.Popen[str]:
    """Start the command at the head of a session of its own."""
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    script = before + "from relif_core.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments), *settings],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            state, _, _, leading = (place / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(leading) == leader and state != "Z":
            found.append(int(place.name))
    return found


def until(true: Callable[[], object], seconds: float = 120.0) -> float:
    """Wait, and return for how long."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGINT), (2, signal.SIGTERM)]
)
def test_a_stopped_study_ends_soon_and_goes_on(
    icu_folder: Path, tmp_path: Path, reference: dict[str, str], workers: int, number: signal.Signals
) -> None:
    """SIGINT goes to the whole session, as from a terminal, SIGTERM to the study alone."""
    process = relif(
        "study", "erm,relif", "--seeds", 2, "--workers", workers, "--data", icu_folder, "--target", tmp_path
    )  # fmt: skip
    until(lambda: len(list(tmp_path.glob("*/.lock"))) == workers)
    time.sleep(0.3)
    begun = set(tmp_path.iterdir())
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    took = until(lambda: process.poll() is not None, SOON)
    assert until(lambda: not session(process.pid), SOON - took) < SOON
    output = process.communicate()[0]
    assert process.returncode == 128 + number
    assert "the same command goes on" in output
    assert "Traceback" not in output
    assert set(tmp_path.iterdir()) == begun
    assert not list(tmp_path.rglob("*.partial"))
    summary = run_study(runs(), icu_folder, tmp_path)
    assert not summary.failed
    assert digests(tmp_path) == reference


def test_the_time_for_checkpoints_runs_from_the_request_and_is_not_given_twice() -> None:
    reading, writing = os.pipe()
    calls: list[str] = []
    process = SimpleNamespace(
        sentinel=reading,
        **{name: lambda name=name: calls.append(name) for name in ("terminate", "kill", "join")},
    )
    deaf: Any = SimpleNamespace(process=process, line=SimpleNamespace(close=lambda: None), job="a job")
    try:
        assert STOP.grace() == GRACE
        STOP.set()
        began = time.monotonic()
        _stop([deaf])
        first = time.monotonic() - began
        _stop([deaf])
        assert first > GRACE - 0.1
        assert STOP.grace() == 0
        assert calls == ["terminate", "kill", "join"] * 2
        assert time.monotonic() - began < first + GRACE / 2
    finally:
        STOP.clear()
        os.close(reading)
        os.close(writing)


def test_a_stopped_run_writes_a_checkpoint(icu_folder: Path, tmp_path: Path) -> None:
    process = relif(
        "run", "--method", "erm", "--data", icu_folder, "--target", tmp_path, before=STOPPED_AT_ONCE
    )
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "the same command goes on" in output
    assert (tmp_path / "checkpoint.pt").is_file()


def test_workers_die_with_a_killed_study(icu_folder: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    process = relif(
        "study", "erm,relif", "--seeds", 2, "--workers", 2, "--data", icu_folder, "--target", tmp_path
    )  # fmt: skip
    until(lambda: len(list(tmp_path.glob("*/.lock"))) == 2)
    assert len(session(process.pid)) >= 3
    process.kill()
    process.communicate()
    assert until(lambda: not session(process.pid), SOON) < SOON
    assert not run_study(runs(), icu_folder, tmp_path).failed
    assert digests(tmp_path) == reference


def test_a_full_disk_is_named_and_loses_nothing(
    icu_folder: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    arguments = ("study", "erm,relif", "--seeds", 2, "--data", icu_folder, "--target", tmp_path)
    process = relif(*arguments, before=SMALL_FILES)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 70
    assert "checkpoint.pt cannot be written: it would be larger than a file may be here" in output
    assert "3 to go on with, 0 busy, 1 failed" in output
    assert not list(tmp_path.rglob("*.partial"))
    assert run_study(runs(), icu_folder, tmp_path).made == 4
    assert digests(tmp_path) == reference
