"""A study is the set of its records: however it was worked off, stopped or killed."""

import contextlib
import errno
import fcntl
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relif_core.errors import InputError
from relif_core.files import UNWRITABLE
from relif_core.problems.clinical import ClinicalProblem
from relif_core.record import Record
from relif_core.settings import RunSettings, changed
from relif_core.studies.grid import (
    STUDIES,
    named_study,
    read_seeds,
    refuse_other_study,
    run_study,
)
from relif_core.studies.jobs import ATTEMPTS, Ending, Outcome, Schedule
from relif_core.tensors.clinical import ClinicalTensors
from relif_core.training.loop import run
from tests.relif_core.studies.conftest import digests, small_grid

Small = Callable[..., RunSettings]

#: Imports torch once; every line on its input forks a child, in its own process group, that runs the study.
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


def test_finished_runs_are_found(icu_folder: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    run_study(small_grid()[:2], icu_folder, tmp_path)
    summary = run_study(small_grid(), icu_folder, tmp_path)
    assert (summary.found, summary.made) == (2, 2)
    assert [(record.method, record.seed) for record in summary.records] == [
        ("erm", 0), ("relif", 0), ("erm", 1), ("relif", 1),
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
    """Kill -9 at twenty random moments, then one quiet run: the records of an uninterrupted study."""
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


def holder(folder: Path) -> int | None:
    """The worker process that has a run's folder."""
    for worker in multiprocessing.active_children():
        with contextlib.suppress(OSError):
            open_files = {os.readlink(place) for place in Path(f"/proc/{worker.pid}/fd").iterdir()}
            if str(folder / ".lock") in open_files:
                return worker.pid
    return None


def test_a_killed_worker_is_replaced(icu_folder: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    killed: list[str] = []
    ended: list[str] = []

    def kill_once(name: str, report: object) -> None:
        if report is None:
            ended.append(name)
        for folder in tmp_path.iterdir() if not killed and report is not None else ():
            if (worker := holder(folder)) is not None:
                killed.append(name)
                os.kill(worker, signal.SIGKILL)
                return

    summary = run_study(small_grid(), icu_folder, tmp_path, workers=2, watch=kill_once)
    assert killed
    assert sorted(ended) == sorted({*ended})  # a death is not an end
    assert not summary.failed
    assert digests(tmp_path) == reference


def test_a_death_is_charged_to_the_run_that_the_worker_had_alone(icu_folder: Path, tmp_path: Path) -> None:
    """One run takes three workers with it; the others, under way beside it, are not even resumed."""
    runs = small_grid()
    deaths: list[float] = []

    def kill(name: str, report: object) -> None:
        guilty = next(tmp_path.glob("erm-seed0-*"), None)
        if name == "erm seed 0" and report is not None and guilty and (worker := holder(guilty)):
            deaths.append(time.monotonic())
            os.kill(worker, signal.SIGKILL)

    summary = run_study(runs, icu_folder, tmp_path, workers=2, watch=kill)
    assert len(deaths) == ATTEMPTS
    assert list(summary.failed) == ["erm seed 0"]
    assert "died 3 times, last of SIGKILL" in summary.failed["erm seed 0"]
    assert [record.content["made"]["resumed"] for record in summary.records] == [False] * 3


def test_a_busy_run_is_busy(icu_folder: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    run_study(small_grid(), icu_folder, tmp_path / "whole")
    folder = next((tmp_path / "whole").glob("erm-seed0-*")).name
    (tmp_path / "runs" / folder).mkdir(parents=True)
    with open(tmp_path / "runs" / folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        summary = run_study(small_grid(), icu_folder, tmp_path / "runs")
    assert (summary.busy, summary.made, summary.failed, summary.paused) == (["erm seed 0"], 3, {}, [])


@pytest.mark.parametrize("file", ["arrays.npz", "record.json"])
def test_a_damaged_record_is_named_and_made_again(
    icu_folder: Path, tmp_path: Path, reference: dict[str, str], file: str
) -> None:
    run_study(small_grid(), icu_folder, tmp_path)
    damaged = next(tmp_path.glob("relif-seed1-*")) / file
    damaged.write_bytes(damaged.read_bytes()[:-10])
    summary = run_study(small_grid(), icu_folder, tmp_path)
    assert list(summary.damaged) == ["relif seed 1"]
    assert (summary.found, summary.made, summary.failed) == (3, 1, {})
    assert digests(tmp_path) == reference


def test_the_record_of_another_run_is_not_taken_for_this_ones(icu_folder: Path, tmp_path: Path) -> None:
    """A folder copied under another run's name: that run is refused, not told to be found."""
    run_study(small_grid()[:2], icu_folder, tmp_path)
    erm, relif = sorted(tmp_path.iterdir())
    shutil.rmtree(relif)
    shutil.copytree(erm, relif)
    summary = run_study(small_grid()[:2], icu_folder, tmp_path)
    assert (summary.found, summary.made, [record.method for record in summary.records]) == (1, 0, ["erm"])
    assert "holds the record of another run" in summary.failed["relif seed 0"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_target_that_cannot_be_written_ends_the_study_at_its_first_run(
    icu_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(number, "no", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    summary = run_study(small_grid(), icu_folder, tmp_path / "runs")
    assert list(summary.failed) == ["erm seed 0"]
    assert f"cannot be written: {UNWRITABLE[number]}" in summary.failed["erm seed 0"]
    assert len(summary.paused) == 3


def test_every_run_is_told_once_whatever_runs_share_its_name(
    icu_folder: Path, tmp_path: Path, small: Small
) -> None:
    """Two runs of a method and seed: one fails, the other has not begun; and a busy one ends meanwhile."""
    wild = small("erm", training={"learning_rate": 1e30, "gradient_clip": 1e30})
    runs = [wild, small("erm"), small("erm", seed=1)]

    def engine(schedule: Schedule, *_: object) -> Iterator[Outcome]:
        jobs = list(schedule.waiting)
        run(jobs[2].settings, ClinicalProblem(ClinicalTensors.open(icu_folder)), jobs[2].folder)
        yield jobs[0], Ending("failed", "diverged")
        yield jobs[2], Ending("busy")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relif_core.studies.grid.ENGINES", {"in_process": engine})
        summary = run_study(runs, icu_folder, tmp_path)
    assert (summary.failed, summary.paused) == ({"erm seed 0": "diverged"}, ["erm seed 0"])
    assert (summary.busy, [record.seed for record in summary.records]) == ([], [1])


def test_what_a_killed_writer_left_is_removed(icu_folder: Path, tmp_path: Path) -> None:
    run_study(small_grid()[:1], icu_folder, tmp_path / "a")
    folder = next((tmp_path / "a").iterdir()).name
    (tmp_path / "b" / folder).mkdir(parents=True)
    (tmp_path / "b" / folder / ".checkpoint.pt.0123abcd.partial").write_bytes(b"half")
    run_study(small_grid()[:1], icu_folder, tmp_path / "b")
    assert not list(tmp_path.rglob("*.partial"))


def test_other_studies_and_data_folders_are_no_target(icu_folder: Path, tmp_path: Path) -> None:
    run_study(small_grid()[:1], icu_folder, tmp_path)
    refuse_other_study(small_grid(), icu_folder, tmp_path)
    longer = [changed(settings, {"training": {"epochs": 4}}) for settings in small_grid()]
    with pytest.raises(InputError, match=r"another study \(erm-seed0-.*training.epochs 3 there, 4 here"):
        refuse_other_study(longer, icu_folder, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a folder for the records"):
        refuse_other_study(small_grid(), icu_folder, tmp_path / "file")
    with pytest.raises(InputError, match="lies inside the data folder"):
        run_study(small_grid(), icu_folder, icu_folder / "runs")


def test_the_time_budget_stops_and_goes_on(
    icu_folder: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    first = run_study(small_grid(), icu_folder, tmp_path, minutes=0.0)
    assert first.paused == ["erm seed 0", "relif seed 0", "erm seed 1", "relif seed 1"]
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


def test_studies_of_the_plan_alone_have_looks_and_each_look_holds_the_last() -> None:
    planned = {name: study for name, study in STUDIES.items() if study.looks}
    assert list(planned) == ["table3", "power", "b3"]
    for study in planned.values():
        assert study.looks[-1] == study.seeds[0]
        assert all({*early} < {*later} for early, later in itertools.pairwise(study.looks))
    folders = [folder for study in STUDIES.values() for folder in study.folders]
    assert len({*folders}) == len(folders)


@pytest.mark.parametrize("name", STUDIES)
def test_named_studies_list_their_runs_by_value(name: str) -> None:
    runs = named_study(name)
    seeds = (
        STUDIES[name].seeds * len(STUDIES[name].blocks)
        if len(STUDIES[name].seeds) == 1
        else STUDIES[name].seeds
    )
    assert [(run.method, run.seed) for run in runs] == [
        (method, seed)
        for methods, each in zip(STUDIES[name].blocks, seeds, strict=True)
        for seed in each
        for method in methods
    ]
    assert len(set(runs)) == len(runs)


def test_the_settings_of_the_planned_studies() -> None:
    table, power = named_study("table3"), named_study("power", block=1)
    assert {(run.model.hidden, run.training.epochs, run.training.patience) for run in table} == {
        (256, 100, 30)
    }
    assert len(table) == 49
    assert {(run.model.hidden, run.training.epochs, run.training.patience) for run in power} == {
        (128, 40, 40)
    }
    assert {run.training.precision for run in table} == {"bfloat16"}
    assert {run.training.precision for run in power} == {"float32"}
    assert sorted({run.seed for run in power}) == list(range(100, 130))
    assert {run.training for run in named_study("b3")} == {run.training for run in power}
    assert named_study("power", [7], 1, training={"epochs": 2})[0].training.patience == 40


def test_names_that_there_are_not_list_those_that_there_are() -> None:
    assert [(run.method, run.seed) for run in named_study("erm,pcgrad", [0])] == [("erm", 0), ("pcgrad", 0)]
    with pytest.raises(InputError, match=r"'nosuch' \(studies are table3, power, .*fairgrad"):
        named_study("nosuch")
    with pytest.raises(InputError, match="blocks 1 to 3, not 4"):
        named_study("power", block=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", "no seed"), ("1,,2", "no seed"), ("", "no seed"), ("-3", "no seed"), ("3--1", "no seed"),
        ("1.5", "no seed"), ("²", "no seed"), ("0", "there is none"), ("9-5", "runs backwards"),
        ("100-110,105", "seed 105 is listed twice"), ("0-99999", "more than 10,000"),
        ("99999999999-99999999999", "above the largest seed"), ("400", "400-400 for this seed"),
        ("9" * 5000, "'9{40}' is no seed"),
    ],
)  # fmt: skip
def test_bad_seeds_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_seeds(text)


@given(st.sets(st.integers(0, 10**6), min_size=2, max_size=50))
def test_listed_seeds_are_read_back(seeds: set[int]) -> None:
    assert read_seeds(",".join(map(str, seeds))) == list(seeds)


def test_records_name_their_damage(icu_folder: Path, tmp_path: Path, small: Small) -> None:
    from relif_core.errors import RecordError

    run_study([small()], icu_folder, tmp_path)
    folder = next(path.parent for path in tmp_path.rglob("record.json"))
    text = (folder / "record.json").read_text()
    for old, new in (('"seed": 0', '"seed": 7'), ('"result"', '"results"'), ('"key"', '"old"')):
        (folder / "record.json").write_text(text.replace(old, new, 1))
        with pytest.raises(RecordError, match="was changed after it was written"):
            Record.load(folder)
    (folder / "record.json").write_text(text)
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
    (folder / "file").touch()
    with pytest.raises(RecordError, match=r"file cannot be read .*name a run's folder"):
        Record.load(folder / "file")
