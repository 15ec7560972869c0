"""Many records in one file, ``runs.npz``: same contents and arrays in a fraction of bytes and time.

Equal names, types and shapes are stacked over records, so that what runs share (subjects, labels) is stored
once by the compressor; numbers are kept as planes of their bytes, which compress apart. A record read back
has the digest that it had.
"""

import io
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from relif_core.errors import RecordError
from relif_core.files import atomic_file
from relif_core.record import FORMAT, Record

RUNS = "runs.npz"
_INDEX = "index.json"
#: What reading an archive raises whose bytes were changed or cut off.
DAMAGED = (
    OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error
)  # fmt: skip


def save_packed(records: Sequence[Record], folder: Path) -> Path:
    """Write records to ``folder/runs.npz``, in their order."""
    stacks: dict[tuple[str, str, tuple[int, ...]], list[int]] = {}
    for place, record in enumerate(records):
        for name, array in record.arrays.items():
            stacks.setdefault((name, array.dtype.str, array.shape), []).append(place)
    index = {
        "format": FORMAT,
        "contents": [record.content for record in records],
        "stacks": [[name, kind, shape, places] for (name, kind, shape), places in stacks.items()],
    }
    path = Path(folder) / RUNS
    with atomic_file(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(_entry(_INDEX), json.dumps(index, separators=(",", ":"), ensure_ascii=False))
        for number, ((name, kind, _), places) in enumerate(stacks.items()):
            whole = np.stack([records[place].arrays[name] for place in places])
            planes = whole.reshape(-1).view(np.uint8).reshape(-1, np.dtype(kind).itemsize).T
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(planes), allow_pickle=False)
            archive.writestr(_entry(f"{number}.npy"), buffer.getvalue())
    return path


def load_packed(folder: Path) -> list[Record]:
    """Read the records of ``folder/runs.npz``; ``RecordError`` names a file that is damaged or no such."""
    path = Path(folder) / RUNS
    try:
        with zipfile.ZipFile(path) as archive:
            index = json.loads(archive.read(_INDEX))
            if index["format"] != FORMAT:
                raise RecordError(
                    f"{path} has format {index['format']!r}, this version reads {FORMAT!r}; publish again"
                )
            arrays: list[dict[str, np.ndarray]] = [{} for _ in index["contents"]]
            for number, (name, kind, shape, places) in enumerate(index["stacks"]):
                planes = np.load(io.BytesIO(archive.read(f"{number}.npy")), allow_pickle=False)
                whole = np.ascontiguousarray(planes.T).reshape(-1).view(kind).reshape(len(places), *shape)
                for row, place in zip(whole, places, strict=True):
                    arrays[place][name] = row
    except (*DAMAGED, KeyError, TypeError) as error:
        raise RecordError(f"{path} cannot be read ({error}); publish the records again") from error
    return [Record(content, own) for content, own in zip(index["contents"], arrays, strict=True)]


def read_arrays(path: Path, mend: str = "publish the records again") -> dict[str, np.ndarray]:
    """Return the arrays of a kept ``.npz``; ``RecordError`` names a file that is damaged or missing."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing; {mend}") from error
    except DAMAGED as error:
        raise RecordError(f"{path} cannot be read ({error}); {mend}") from error


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry without a date, so that equal records make equal bytes."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_LZMA
    return entry
