"""A study is the set of its records: however it was worked off, stopped or killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relif_core.errors import InputError
from relif_core.record import Record, load_records
from relif_core.settings import RunSettings
from relif_core.studies.grid import STUDIES, grid, named_study, run_study

Small = Callable[..., RunSettings]

#: Imports torch once; every line on its input forks a child that works on the study, in a process group of its own.
FORK_SERVER = """
import os, sys
from pathlib import Path
from relif_core.studies.grid import run_study, grid
runs = grid(["erm", "relif"], [0, 1], model={"hidden": 12, "head_width": 8},
            training={"epochs": 3, "batch_size": 32, "learning_rate": 3e-3})
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        run_study(runs, Path(sys.argv[1]), Path(sys.argv[2]))
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def small_grid() -> list[RunSettings]:
    return grid(
        ["erm", "relif"], [0, 1], model={"hidden": 12, "head_width": 8},
        training={"epochs": 3, "batch_size": 32, "learning_rate": 3e-3},
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    return {record.key: record.digest() for record in load_records(folder)}


@pytest.fixture(scope="module")
def reference(icu_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the small study, made without interruption in one process."""
    target = tmp_path_factory.mktemp("reference")
    summary = run_study(small_grid(), icu_folder, target)
    assert (summary.made, summary.found, summary.failed) == (4, 0, {})
    return digests(target)


def test_finished_runs_are_found(icu_folder: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    run_study(small_grid()[:2], icu_folder, tmp_path)
    summary = run_study(small_grid(), icu_folder, tmp_path)
    assert (summary.found, summary.made) == (2, 2)
    assert [(record.method, record.seed) for record in summary.records] == [
        ("erm", 0), ("erm", 1), ("relif", 0), ("relif", 1),
    ]  # fmt: skip
    assert digests(tmp_path) == reference


def test_worker_processes_make_the_same_records(
    icu_folder: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    seen: list[str] = []
    summary = run_study(
        small_grid(), icu_folder, tmp_path, workers=2, watch=lambda name, report: seen.append(name)
    )
    assert (summary.made, summary.failed) == (4, {})
    assert digests(tmp_path) == reference
    assert set(seen) == {"erm seed 0", "erm seed 1", "relif seed 0", "relif seed 1"}


def test_a_study_killed_twenty_times_goes_on(
    icu_folder: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    """kill -9 at twenty random moments, then one quiet run: the records of an uninterrupted study."""
    moments = random.Random(0)
    target = tmp_path / "records"
    command = [sys.executable, "-c", FORK_SERVER, str(icu_folder), str(target)]
    killed = 0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:  # fmt: skip
        assert server.stdin
        assert server.stdout
        for _ in range(20):
            server.stdin.write("study\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            time.sleep(moments.uniform(0.02, 0.6))
            try:
                os.kill(child, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
            assert server.stdout.readline() == "gone\n"
        server.stdin.close()
    assert killed == 20
    summary = run_study(small_grid(), icu_folder, target)
    assert not summary.failed
    assert digests(target) == reference


def test_a_killed_worker_is_replaced(icu_folder: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    killed: list[int] = []

    def kill_once(name: str, report: object) -> None:
        if not killed and report is not None:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            killed.append(int(workers[-1]))
            os.kill(killed[0], signal.SIGKILL)

    summary = run_study(small_grid(), icu_folder, tmp_path, workers=2, watch=kill_once)
    assert killed
    assert not summary.failed
    assert digests(tmp_path) == reference


def test_the_time_budget_stops_and_goes_on(
    icu_folder: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    first = run_study(small_grid(), icu_folder, tmp_path, minutes=0.0)
    assert first.paused == ["erm seed 0", "erm seed 1", "relif seed 0", "relif seed 1"]
    assert run_study(small_grid(), icu_folder, tmp_path).made == 4
    assert digests(tmp_path) == reference


def test_a_failing_run_leaves_the_others(icu_folder: Path, tmp_path: Path, small: Small) -> None:
    wild = small("erm", training={"learning_rate": 1e30, "gradient_clip": 1e30})
    summary = run_study([wild, small("erm", seed=1)], icu_folder, tmp_path)
    assert summary.made == 1
    assert "DivergenceError" in summary.failed["erm seed 0"]
    assert len(summary.records) == 1


def test_bad_studies_are_refused(icu_folder: Path, tmp_path: Path, small: Small) -> None:
    with pytest.raises(InputError, match="same run twice"):
        run_study([small(), small()], icu_folder, tmp_path)
    with pytest.raises(InputError, match="at least one worker"):
        run_study([small()], icu_folder, tmp_path, workers=0)


def test_named_studies() -> None:
    methods, seeds = STUDIES["erm_relif"]
    assert len(named_study("erm_relif")) == len(methods) * seeds
    assert [(run.method, run.seed) for run in named_study("erm,pcgrad", 1)] == [("erm", 0), ("pcgrad", 0)]


def test_records_name_their_damage(icu_folder: Path, tmp_path: Path, small: Small) -> None:
    from relif_core.errors import RecordError

    run_study([small()], icu_folder, tmp_path)
    folder = next(path.parent for path in tmp_path.rglob("record.json"))
    whole = (folder / "arrays.npz").read_bytes()
    (folder / "arrays.npz").write_bytes(whole[:-10])
    with pytest.raises(RecordError, match="differs from its checksum"):
        Record.load(folder)
    (folder / "arrays.npz").unlink()
    with pytest.raises(RecordError, match="is missing"):
        Record.load(folder)
    (folder / "record.json").write_text("{")
    with pytest.raises(RecordError, match="not valid JSON"):
        Record.load(folder)
    (folder / "record.json").unlink()
    with pytest.raises(RecordError, match="has not finished"):
        Record.load(folder)
