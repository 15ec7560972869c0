"""The full profile of a page says what it is going to do before it does it; the quick one prints nothing."""

import fcntl
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relif_book.evidence.runs import make_runs
from relif_core.errors import RecordError
from relif_core.files import LOCK
from relif_core.studies import grid as grids

SMALL = {"model": {"hidden": 8, "head_width": 8}, "training": {"epochs": 2, "batch_size": 32}}


def test_the_full_profile_prints_its_plan_then_its_progress(
    icu_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(profile: str, methods: list[str]) -> list[str]:
        page: Any = SimpleNamespace(profile=profile, device="cpu")
        summary = make_runs(page, grids.grid(methods, range(2), **SMALL), icu_folder, tmp_path / "runs")
        assert len(summary.records) == 2 * len(methods)
        return capsys.readouterr().out.splitlines()

    assert made("quick", ["erm"]) == []
    plan, hours, *progress = made("full", ["erm", "relif"])
    assert plan == "4 runs of 2 methods, 2 made before; an epoch of each of 2 methods is timed first"
    assert re.fullmatch(r"2 runs take at most \d\.\d hours on cpu, 1 at a time; .+", hours)
    assert [line.partition(": ended after epoch 2 of 2")[0][:5] for line in progress] == ["relif", "relif"]
    assert made("full", ["erm", "relif"]) == ["4 runs of 2 methods, 4 made before"]


def test_a_run_that_another_page_makes_is_waited_for(
    icu_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page: Any = SimpleNamespace(profile="quick", device="cpu")
    runs = grids.grid(["erm", "relif"], [0], **SMALL)
    record = make_runs(page, runs[:1], icu_folder, tmp_path).records[0]
    (folder,) = tmp_path.glob("erm*")
    folder.rename(tmp_path / "aside")
    folder.mkdir()

    def finished_meanwhile(seconds: float) -> None:
        assert len(list(tmp_path.glob("relif*/record.json"))) == 1, "the other run is made first"
        lock.close()
        for part in (tmp_path / "aside").iterdir():
            part.replace(folder / part.name)

    monkeypatch.setattr("relif_book.evidence.runs.time.sleep", finished_meanwhile)
    with open(folder / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        summary = make_runs(page, runs, icu_folder, tmp_path)
    assert [one.method for one in summary.records] == ["erm", "relif"]
    assert summary.records[0].content == record.content


def test_a_failed_run_is_an_error_by_name(
    icu_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "relif_book.evidence.runs.run_study", lambda *_, **__: grids.StudySummary(failed={"erm-0": "NaN"})
    )
    page: Any = SimpleNamespace(profile="quick", device="cpu")
    with pytest.raises(RecordError, match="erm-0: NaN"):
        make_runs(page, grids.grid(["erm"], [0]), icu_folder, tmp_path)
