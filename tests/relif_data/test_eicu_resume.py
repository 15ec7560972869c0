"""A reading of eICU tables that was killed goes on where it was, and never mixes old files with new ones."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relif_core.errors import DataError
from relif_core.tensors.clinical import check_tensors
from relif_data import resume
from relif_data.eicu import prepare, raw_tables
from relif_data.simulated_tables import write_raw
from relif_data.synthetic_icu import simulate


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return simulated tables of 30 stays."""
    return write_raw(simulate(30, hours=48, seed=1), tmp_path / "raw", "eicu")


def interrupt(monkeypatch: pytest.MonkeyPatch, source: Path, target: Path, table: str) -> None:
    """Let a reading die after half of the named table has entered the grid."""
    original = raw_tables.read_events

    def dying(wanted: Any, path: Path, grid: Any, trust: int, progress: Any) -> Any:
        result = original(wanted, path, grid, trust, progress)
        if wanted.name == table:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(raw_tables, "read_events", dying)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, target)


def test_finished_tables_are_not_read_again(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path
) -> None:
    """The continued reading keeps finished tables, gives the same tensors, and leaves nothing behind."""
    whole = check_tensors(prepare(source, tmp_path / "whole")).fingerprint
    target = tmp_path / "out"
    interrupt(monkeypatch, source, target, "nurseCharting")
    assert not target.exists()
    said: list[str] = []
    assert check_tensors(prepare(source, target, progress=said.append)).fingerprint == whole
    kept = [line.split(":")[0] for line in said if "kept from the interrupted run" in line]
    assert "vitalPeriodic" in kept
    assert "nurseCharting" not in kept
    assert not resume.work_folder(target).exists()


def test_a_changed_table_starts_over(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:
    """Other options, another cohort or another file under a begun table's name keep nothing."""
    target = tmp_path / "out"
    interrupt(monkeypatch, source, target, "nurseCharting")
    path = source / "vitalPeriodic.csv.gz"
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    said: list[str] = []
    prepare(source, target, progress=said.append)
    assert not any("kept" in line for line in said)
    interrupt(monkeypatch, source, tmp_path / "other", "nurseCharting")
    said.clear()
    prepare(source, tmp_path / "other", maximum_hours=48, progress=said.append)
    assert not any("kept" in line for line in said)


def test_a_damaged_state_starts_over(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:
    """A state file that is cut off counts for nothing."""
    target = tmp_path / "out"
    interrupt(monkeypatch, source, target, "nurseCharting")
    (resume.work_folder(target) / resume.STATE).write_text('{"key": ')
    said: list[str] = []
    check_tensors(prepare(source, target, progress=said.append))
    assert not any("kept" in line for line in said)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


@pytest.mark.parametrize("damage", [Path.unlink, cut, lambda path: path.write_bytes(b"")])
def test_a_lost_grid_starts_over(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    """Where the values of finished tables are gone, or cut off, the tables are read again."""
    whole = check_tensors(prepare(source, tmp_path / "whole")).fingerprint
    target = tmp_path / "out"
    interrupt(monkeypatch, source, target, "nurseCharting")
    damage(resume.work_folder(target) / "keys.npy")
    said: list[str] = []

    def died(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # Death between the new grid and the first table changes nothing.
        patch.setattr(resume.Work, "kept", died)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, target)
    assert check_tensors(prepare(source, target, progress=said.append)).fingerprint == whole
    assert not any("kept" in line for line in said)


def test_a_grid_that_cannot_be_opened_stays(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path
) -> None:
    """Memory that fails once is an error with the file's name; the next call goes on with what was read."""
    whole = check_tensors(prepare(source, tmp_path / "whole")).fingerprint
    target = tmp_path / "out"
    interrupt(monkeypatch, source, target, "nurseCharting")
    keys = resume.work_folder(target) / "keys.npy"
    before = keys.read_bytes()

    def exhausted(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "open_memmap", exhausted)
        with pytest.raises(DataError, match=r"keys\.npy, which an interrupted run left, cannot be opened"):
            prepare(source, target)
    assert keys.read_bytes() == before
    said: list[str] = []
    assert check_tensors(prepare(source, target, progress=said.append)).fingerprint == whole
    assert any("kept from the interrupted run" in line for line in said)


def test_a_killed_process_leaves_nothing_that_reads_as_whole(source: Path, tmp_path: Path) -> None:
    """Kill -9 after the first tables: no target, and the next call finishes with the same fingerprint."""
    whole = check_tensors(prepare(source, tmp_path / "whole")).fingerprint
    target = tmp_path / "out"
    script = (
        "import os, signal, sys\n"
        "from relif_data.eicu import prepare\n"
        "def say(line):\n"
        "    if line.startswith('nurseCharting'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare(sys.argv[1], sys.argv[2], progress=say)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(source), str(target)], check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()
    assert check_tensors(prepare(source, target)).fingerprint == whole


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:
    """Space for the grid is reserved before reading, so that a full disk is an error and no crash."""

    def refuse(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(resume.os, "posix_fallocate", refuse)
        with pytest.raises(DataError, match=r"free space on that disk"):
            prepare(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("relif_core.tensors.folder._save", full)
        with pytest.raises(DataError, match=r"out cannot be written .*free space"):
            prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert check_tensors(prepare(source, tmp_path / "out")).folder.is_dir(), "and the next call goes on"


def test_the_work_lies_where_a_linked_target_lies(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "tensors")
    assert resume.work_folder(tmp_path / "link") == tmp_path / "disk" / ".tensors.work"


def test_two_makers_of_one_target_do_not_share_their_arrays(tmp_path: Path) -> None:
    """The second to begin neither empties nor fills what the first writes, and no file stays."""
    first, second = (resume.Work(tmp_path / "out", {}, {}) for _ in range(2))
    mine = first.array("values", np.float32, (3,))
    mine[:] = 1
    assert second.array("values", np.float32, (3,)).tolist() == [0, 0, 0]
    assert mine.tolist() == [1, 1, 1]
    assert not list(resume.work_folder(tmp_path / "out").iterdir())


def test_every_file_of_the_package_decides_whether_a_reading_goes_on() -> None:
    """A table of channels in another format would otherwise mix old readings with new ones."""
    suffixes = {
        path.suffix
        for path in Path(resume.__file__).parent.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {".py", ".json", ".toml"} <= suffixes
    assert suffixes <= {*resume.DECIDING, ".typed", ".md"}
