"""A file is whole or absent, readable by whom the umask lets, and a place that cannot be written is named."""

import errno
import fcntl
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relif_core.errors import DataError, InputError, StorageError
from relif_core.files import (
    UNWRITABLE,
    atomic_file,
    atomic_folder,
    inside,
    is_held,
    read_json,
    read_text,
    refuse_inside,
    sweep,
    write_file,
    write_json,
)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_the_umask_is_respected(tmp_path: Path, umask: None) -> None:
    write_json(tmp_path / "a.json", {})
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "c").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o700


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def half(error: BaseException) -> None:
        with atomic_file(tmp_path / "a.json") as stream:
            stream.write(b"half")
            raise error

    write_json(tmp_path / "a.json", 1)
    for error in (ValueError(), KeyboardInterrupt(), PermissionError(13, "of another file")):
        with pytest.raises(type(error)):
            half(error)
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    script = (
        "import resource, signal; from pathlib import Path; from relif_core.files import UNWRITABLE,"
        " atomic_file\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\nwith atomic_file(Path('x')) as stream:"
        " stream.write(bytes(100_000))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "StorageError: x cannot be written: it would be larger than a file may be here" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_within_a_folder_is_named_and_leaves_the_old_folder(tmp_path: Path) -> None:
    script = """
import resource, signal, sys, numpy as np
from pathlib import Path
from relif_core.files import reserve, scratch_folder
from relif_core.tensors.folder import write_array_folder
manifest = {"format": "x", "dataset": "x", "sources": []}
write_array_folder(Path("set"), manifest, {"a": np.zeros(3)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for write in (
    lambda: write_array_folder(Path("set"), manifest, {"a": np.zeros(100_000)}),
    lambda: reserve(Path("mapped"), 100_000),
):
    try:
        write()
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("StorageError") == 2
    assert "a.npy cannot be written: it would be larger than a file may be here" in done.stdout
    assert "mapped cannot be written: it would be larger" in done.stdout
    assert (tmp_path / "set" / "a.npy").stat().st_size == 152
    assert {path.name for path in tmp_path.iterdir()} == {"set", "mapped"}


@pytest.mark.parametrize("number", UNWRITABLE)
def test_every_reason_against_writing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(
        StorageError, match=rf"a.json cannot be written: {re.escape(UNWRITABLE[number][:20])}"
    ):
        write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_named_and_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no")

    (tmp_path / "lock").touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"a\.json cannot be written: its file system lacks"):
        write_json(tmp_path / "a.json", {})
    with (
        pytest.raises(StorageError, match="b cannot be written: its file system lacks"),
        atomic_folder(tmp_path / "b"),
    ):
        pass
    with pytest.raises(OSError, match="no"):
        is_held(tmp_path / "lock")
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(StorageError, match="stands where a folder is needed"):
        write_json(tmp_path / "a" / "b.json", {})
    with pytest.raises(StorageError, match="stands where"), atomic_folder(tmp_path / "a" / "b"):
        pass
    assert (tmp_path / "a").read_text() == "mine"


def test_a_character_that_utf_8_has_not_is_written_as_its_escape(tmp_path: Path) -> None:
    write_file(tmp_path / "a.txt", os.fsdecode(b"caf\xe9 \xc3\xa9"))
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "caf\\udce9 é"


def test_what_dead_writers_left_is_swept_and_what_is_written_stays(tmp_path: Path) -> None:
    dead, living, young, other = (tmp_path / f".{name}.partial" for name in ("a.1", "a.2", "a.3", "b.4"))
    for path in (dead, living, young, other):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    os.utime(young)
    with open(living) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(tmp_path / "a")
    assert sorted(tmp_path.iterdir()) == sorted([living, young, other])


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "disk" / "set").mkdir(parents=True)
    (tmp_path / "disk" / "set" / "old").touch()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "set")
    (tmp_path / "ahead").symlink_to(tmp_path / "disk" / "none yet")
    for name in ("link", "ahead"):
        with atomic_folder(tmp_path / name) as folder:
            (folder / "new").touch()
        assert (tmp_path / name).is_symlink()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["new"]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["none yet", "set"]


def test_a_file_is_no_folder_to_replace_and_no_folder_to_write_in(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")

    def replace() -> None:
        with atomic_folder(tmp_path / "file"):
            raise AssertionError("the block ran")

    for write in (
        replace,
        lambda: write_json(tmp_path / "file" / "a.json", 1),
        lambda: write_json(tmp_path / "file" / "b" / "a.json", 1),
        lambda: write_json(tmp_path / ("a" * 250), 1),
    ):
        with pytest.raises(StorageError, match=r"cannot be written: (a|it is a) file|its name is too long"):
            write()
    assert (tmp_path / "file").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(StorageError, match="it is a pipe or a device; name a file"):
            write_file(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_bytes_of_a_path_that_are_no_text_are_written_and_read_back(tmp_path: Path) -> None:
    content = {"command": os.fsdecode(b"relif run --target bad\xff"), "title": "λ"}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert "λ" in (tmp_path / "a.json").read_text()


def test_links_in_a_circle_are_no_crash(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refuse_inside(tmp_path / "a", tmp_path / "folder")
    assert inside(tmp_path, "a") == tmp_path / "a"


def test_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    assert inside(tmp_path / "folder", "a/b") == tmp_path / "folder" / "a" / "b"
    for name in ("../x", "/etc/passwd", "link/x"):
        with pytest.raises(DataError, match="leads out of the folder"):
            inside(tmp_path / "folder", name)
    with pytest.raises(InputError, match="inside the data folder"):
        refuse_inside(tmp_path / "folder" / "link" / "folder" / "runs", tmp_path / "folder")


@pytest.mark.parametrize("content", [b"12345", b"\xff"])
def test_a_text_that_is_none_or_too_large_is_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relif_core.files.MOST_JSON", 4)
    write_file(tmp_path / "a", "1234")
    assert read_text(tmp_path / "a") == "1234"
    write_file(tmp_path / "a", content)
    with pytest.raises(InputError, match="a cannot be read: "):
        read_text(tmp_path / "a")
