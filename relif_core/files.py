"""Atomic writing and checksums: a file or folder is either whole or absent."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from relif_core.errors import DataError, InputError, StorageError

#: What the system says where a file cannot be written, and what would mend it.
UNWRITABLE = {
    errno.ENOSPC: "the disk is full; free some space and start again",
    errno.EDQUOT: "the disk quota is used up; free some space and start again",
    errno.EFBIG: (
        "it would be larger than a file may be here (ulimit -f, or the file system); raise that limit"
    ),
    errno.EISDIR: "it is a folder; name a file",
    errno.EEXIST: "a file stands where its folder would be; choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "writing there is not permitted; choose another place or mend its permissions",
    errno.EPERM: "writing there is not permitted; choose another place or mend its permissions",
}
#: No manifest, record or table of this project is larger.
MOST_JSON = 256 << 20
#: A temporary file of this age in seconds is locked by its writer, or nobody's.
YOUNG = 1.0
#: The file of a run's folder that its process holds.
LOCK = ".lock"


class _Noting(io.FileIO):
    """A file that remembers why it could not be written, whatever the library above makes of the error."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.fault = error
            raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary neighbour of ``path`` for writing bytes; it becomes ``path`` if the block succeeds.

    Args:
        path: The file to write or replace.

    Raises:
        StorageError: The place cannot be written: no space, read-only, not permitted.
    """
    path = Path(path)
    with _named_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        raw = _Noting(temporary := _temporary(path), "xb")
    try:
        try:
            with io.BufferedWriter(raw) as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                yield stream
                with _named_faults(path):
                    stream.flush()
                    os.fsync(stream.fileno())
        except Exception as error:
            if raw.fault is None:
                raise
            with _named_faults(path):
                raise raw.fault from error
        with _named_faults(path):
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder of ``path``; it replaces ``path`` only if the block succeeds."""
    path = Path(path)
    with scratch_folder(path) as folder:
        yield folder
        with _named_faults(path):
            if path.exists():
                retired = _temporary(path)
                os.replace(path, retired)
                os.replace(folder, path)
                shutil.rmtree(retired)
            else:
                os.replace(folder, path)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder of ``path`` that goes with the block, and what dead writers left."""
    path = Path(path)
    with _named_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        os.mkdir(folder := _temporary(path))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def reserve(path: Path, size: int) -> None:
    """Take ``size`` bytes for a file, so that a disk that fills later is no crash of what maps it.

    Args:
        path: The file, which is made where it is missing.
        size: Its least size in bytes.

    Raises:
        StorageError: There is no room, or the place cannot be written.
    """
    with _named_faults(path), open(path, "ab") as stream:
        os.posix_fallocate(stream.fileno(), 0, size)


def sweep(path: Path) -> None:
    """Remove what killed writers of ``path`` left: the ``.partial`` neighbours that nobody holds."""
    for item in os.scandir(path.parent):
        if item.name.startswith(f".{path.name}.") and item.name.endswith(".partial"):
            with contextlib.suppress(OSError), _opened(item.path) as lock:
                if time.time() - os.fstat(lock).st_mtime > YOUNG:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(item.path) if item.is_dir(follow_symlinks=False) else os.unlink(item.path)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


@contextlib.contextmanager
def _named_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise StorageError(f"{path} cannot be written: {UNWRITABLE[error.errno]}") from error


def inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``.

    Args:
        folder: The folder.
        name: A path below it.

    Raises:
        DataError: The name or a symbolic link leaves the folder.
    """
    path = Path(folder) / name
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise DataError(f"{folder}: {name!r} leads out of the folder; refused")
    return path


def refuse_inside(target: Path, folder: Path) -> None:
    """Refuse a target within a folder that holds data alone.

    Args:
        target: Where something shall be written.
        folder: The data.

    Raises:
        InputError: ``target`` is ``folder`` or lies in it.
    """
    if Path(target).resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(f"{target} lies inside the data folder {folder}; choose another target")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, atomically.

    Args:
        path: The file.
        content: Plain values; NaN and infinity are refused.
    """
    write_file(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file, atomically.

    Args:
        path: The file.
        content: All of it; text goes in UTF-8, and as an escape what that has not (names of some files).
    """
    with atomic_file(path) as stream:
        stream.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def is_held(path: Path) -> bool:
    """Tell whether a process holds the lock of a file.

    Args:
        path: The file; one that is not there is not held.
    """
    if not path.is_file():
        return False
    with open(path, encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def read_json(path: Path, mend: str = "make it again") -> Any:
    """Return the content of a JSON file that a person or another program may have written.

    Args:
        path: The file.
        mend: What the message proposes.

    Raises:
        DataError: It is larger than ``MOST_JSON`` bytes, no text in UTF-8, or no JSON.
        OSError: It cannot be opened.
    """
    content = _limited(path, mend)
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); {mend}") from error


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a file that a user names.

    Args:
        path: The file.
        errors: As of ``bytes.decode``.

    Raises:
        InputError: It cannot be opened, is larger than ``MOST_JSON`` bytes, or no text in UTF-8.
    """
    try:
        return _limited(path, "is it the right file?").decode(errors=errors)
    except (OSError, DataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _limited(path: Path, mend: str) -> bytes:
    with open(path, "rb") as stream:
        content = stream.read(MOST_JSON + 1)
    if len(content) > MOST_JSON:
        raise DataError(f"{path} is larger than {MOST_JSON >> 20} MiB; {mend}")
    return content


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def described(path: Path) -> dict[str, Any]:
    """Return a file's name, bytes and sha256, as manifests list their sources."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def package_digest(root: Path = Path(__file__).parent, kinds: tuple[str, ...] = (".py",)) -> str:
    """Return the sha256 over a package's sources: which code made a result.

    Args:
        root: The package's folder (this one's).
        kinds: Suffixes of the files that count.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in kinds):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
