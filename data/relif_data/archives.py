"""Reading the files of an archive or folder into memory, refusing whatever does not stay inside."""

import functools
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from relif_core.errors import DataError
from relif_core.files import inside

ARCHIVE_SUFFIXES = (".tar.xz", ".tar.gz", ".tgz", ".zip")
#: A set of the challenge unpacks to some 40 MB.
LARGEST_CONTENT = 2**28

#: What the readers raise for damage; a name of a zip archive may be no UTF-8.
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error),
    *(EOFError, OSError, RuntimeError, UnicodeDecodeError),
)


def read_members(path: Path, largest: int = LARGEST_CONTENT) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every regular file of a folder or .tar.xz, .tar.gz, .tgz or .zip archive.

    Names use ``/`` and are relative to the folder or archive; hidden files and the ``__MACOSX`` folder are
    passed over. Nothing is written to disk.

    Args:
        path: Folder or archive.
        largest: Bytes that all contents together may have.

    Raises:
        DataError: An archive that is broken, cut short or too large, or a member that is a link or a device,
            has an absolute path or climbs out (``..``).
    """
    path = Path(path)
    total = 0
    try:
        for name, size, read in _members(path):
            total += size
            if total > largest:
                raise DataError(
                    f"{path}: unpacks to more than {largest} bytes; this is not the expected archive"
                )
            yield name, read()
    except _BROKEN as error:
        raise DataError(f"{path}: broken or incomplete archive ({error}); download it again") from error


def _members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Yield name, size and reader of every file; no reader gives more bytes than the size says."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if file.is_file() and not _hidden(name):
                yield name, file.stat().st_size, inside(path, name).read_bytes
    elif path.name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _require_inside(path, entry.filename)
                if (entry.external_attr >> 16) & 0o170000 == 0o120000:
                    raise DataError(f"{path}: member {entry.filename!r} is a link; refused")
                if not entry.is_dir() and not _hidden(entry.filename):
                    yield entry.filename, entry.file_size, functools.partial(archive.read, entry)
    elif path.name.endswith(ARCHIVE_SUFFIXES):
        with (
            lzma.open(path) if path.name.endswith(".xz") else gzip.open(path) as content,
            tarfile.open(fileobj=content, mode="r|") as archive,
        ):
            for member in archive:
                _require_inside(path, member.name)
                if not (member.isfile() or member.isdir()):
                    raise DataError(f"{path}: member {member.name!r} is a link or device; refused")
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and not _hidden(member.name):
                    yield member.name, member.size, stream.read
            # The checksum stands at the very end, which the archive's reader does not reach by itself.
            while content.read(2**20):
                pass
    else:
        raise DataError(f"{path}: neither a folder nor one of {', '.join(ARCHIVE_SUFFIXES)}")


def _hidden(name: str) -> bool:
    parts = name.split("/")
    return "__MACOSX" in parts or any(part.startswith(".") and part != "." for part in parts)


def _require_inside(path: Path, name: str) -> None:
    """Check that a member's name stays in the folder it is unpacked into, on any system."""
    parts = name.replace("\\", "/").split("/")
    absolute = parts[0] == "" or parts[0][1:2] == ":"
    if absolute or ".." in parts:
        raise DataError(f"{path}: member {name!r} climbs out of the archive; refused")
