"""A folder of NumPy arrays under one manifest: what every data set looks like on disk.

``manifest.json`` names each array file with its type, shape, size and sha256 and is written last, and the
whole folder appears under its name in one rename, so a folder that can be opened is complete.
"""

import hashlib
import json
import mmap
import tokenize
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from relif_core import __version__
from relif_core.errors import DataError, listed
from relif_core.files import atomic_file, atomic_folder, inside, read_json, sha256_of, write_json

MANIFEST = "manifest.json"
#: Rows of a large array that are in memory at a time.
BLOCK_ROWS = 65_536
SPLITS = ("train", "validation", "test")
"""Names of the parts that the codes 0, 1 and 2 in the array ``split`` stand for."""


@dataclass(frozen=True)
class TensorFolder:
    """An opened tensor folder of some format; the arrays are memory-mapped and read-only."""

    format: ClassVar[str]
    folder: Path
    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open a folder of this format; ``DataError`` where it is incomplete or no such folder."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        if manifest.get("format") != cls.format:
            raise DataError(
                f"{folder} has format {manifest.get('format')!r}, not {cls.format!r}; make the tensors again"
            )
        arrays = _open_arrays(folder, manifest)
        return cls(folder=folder, manifest=manifest, arrays=arrays, **cls._schema(manifest))

    @classmethod
    def _schema(cls, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a subclass that its manifest states."""
        return {}

    @property
    def fingerprint(self) -> str:
        """The sha256 that identifies these data in records."""
        return self.manifest["fingerprint"]

    @property
    def dataset(self) -> str:
        """The registry name of the source."""
        return self.manifest["dataset"]

    def samples_of(self, split: str) -> np.ndarray:
        """Return the samples (stays or frames) of "train", "validation" or "test", in file order."""
        return np.flatnonzero(self.arrays["split"] == SPLITS.index(split))


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What every tensor folder says of itself, whatever it holds.

    Attributes:
        dataset: Key of the data set.
        title: Its name for readers.
        licence: Its licence in words.
        output_policy: "person" where the licence lets output per person leave the machine, or "aggregate".
        synthetic: Whether the data are simulated.
        sources: Name, bytes and sha256 of each source file.
        notes: Sentences for the manifest.
        options: Of the source, for the manifest.
    """

    dataset: str
    title: str
    licence: str
    output_policy: Literal["person", "aggregate"]
    synthetic: bool
    sources: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """Return these facts as a manifest states them."""
        names = ("dataset", "title", "licence", "output_policy", "synthetic")
        return {
            **{name: getattr(self, name) for name in names},
            "sources": [dict(source) for source in self.sources],
            "options": dict(self.options),
            "notes": list(self.notes),
        }


def fingerprint_of(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of everything in a manifest that determines what a model sees.

    The maker's version and the sources are left out: the same arrays under the same schema are the same data.
    """
    content = {
        key: value
        for key, value in manifest.items()
        if key not in ("fingerprint", "made_by", "sources", "notes")
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_array_folder(target: Path, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays and their manifest to a folder in one step.

    A folder with the same data set and sources is replaced.

    Args:
        target: The folder.
        manifest: Holds ``format``, ``dataset`` and ``sources`` (name, bytes and sha256 of each source file);
            the array index, the fingerprint and the maker's version are added.
        arrays: By name.

    Raises:
        DataError: ``target`` holds anything else, which is left alone, or a name leads out of it.
    """
    target = Path(target)
    refuse_to_overwrite(target, manifest)
    content: dict[str, Any] = dict(manifest)
    with atomic_folder(target) as folder:
        files: dict[str, dict[str, Any]] = {}
        for name, array in arrays.items():
            path = inside(folder, f"{name}.npy")
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, array)
            files[f"{name}.npy"] = {
                "type": str(array.dtype),
                "shape": list(array.shape),
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
        content["files"] = files
        content["made_by"] = f"relif_core {__version__}"
        content["fingerprint"] = fingerprint_of(content)
        write_json(folder / MANIFEST, content)
    return target


def require(place: str, holds: Any, problem: str) -> None:
    """Raise an error unless something holds.

    Args:
        place: Begins the message.
        holds: What must be true.
        problem: The rest of it.

    Raises:
        DataError: It does not hold.
    """
    if not holds:
        raise DataError(f"{place}: {problem}")


def whole_numbers(name: str, values: Any, kind: type[np.integer]) -> np.ndarray:
    """Return values as whole numbers of a type.

    Args:
        name: What they are, for the message.
        values: Of any type that holds them exactly.
        kind: The type.

    Raises:
        DataError: Some value is none of the type: a fraction, NaN, or outside its range.
    """
    given = np.asarray(values)
    if given.dtype == kind:
        return np.ascontiguousarray(given)
    wrong, whole = given.size, given
    if given.dtype.kind in "biuf":
        with np.errstate(invalid="ignore"):
            whole = given.astype(kind)
        wrong = int(np.count_nonzero(whole != given))
    if wrong:
        limits = np.iinfo(kind)
        raise DataError(
            f"{name}: {wrong} of {given.size} entries are no whole number from {limits.min} to {limits.max};"
            " code them so (0 where there is none and the mask is 0)"
        )
    return whole


def _save(path: Path, array: np.ndarray) -> None:
    """Write an array as ``np.save`` does, a block at a time, so that a mapped one need not fit in memory."""
    array = np.ascontiguousarray(array)
    with atomic_file(path) as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        for start in range(0, len(array), BLOCK_ROWS):
            # Not ``tofile``, which does not say why it could not write.
            stream.write(array[start : start + BLOCK_ROWS].tobytes())
            release(array)


def release(*arrays: np.ndarray) -> None:
    """Take the pages of arrays that lie in files out of this process's memory; they stay readable.

    Args:
        arrays: Memory-mapped ones, or views of them; others are left as they are.
    """
    for array in arrays:
        base: Any = array
        while base is not None and getattr(base, "_mmap", None) is None:
            base = getattr(base, "base", None)
        if base is not None and hasattr(base._mmap, "madvise"):
            base._mmap.madvise(mmap.MADV_DONTNEED)


def refuse_to_overwrite(target: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a target that holds another data set or other sources.

    Args:
        target: The folder.
        manifest: Names the data set, and the sources if they are known yet.

    Raises:
        DataError: ``target`` holds something else.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise DataError(f"{target} is a file; name a folder for the tensors")
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise DataError(
            f"{target} exists and holds no {MANIFEST}: it is no tensor folder; choose another target"
        )
    present = read_manifest(target)
    if present.get("dataset") != manifest["dataset"]:
        raise DataError(
            f"{target} holds data set {present.get('dataset')!r}, not {manifest['dataset']!r}; choose another"
            " target"
        )
    if present.get("sources") != manifest.get("sources", present.get("sources")):
        raise DataError(
            f"{target} holds {manifest['dataset']!r} made from other source files; "
            "choose another target or remove that folder first"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a tensor folder; ``DataError`` where it is missing or unreadable."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no {MANIFEST}; make the tensors with `relif data`")
    manifest = read_json(path, "make the tensors again")
    if not isinstance(manifest, dict):
        raise DataError(f"{path} is not a manifest; make the tensors again")
    return manifest


def read_array(path: Path, mend: str, *, mode: Literal["r"] | None = None) -> np.ndarray:
    """Return the array of a .npy file, mapped into memory where ``mode`` is "r".

    Args:
        path: The file.
        mend: What to do about a damaged one.
        mode: None reads it whole.

    Raises:
        DataError: It is no array, or a damaged one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a header that NumPy reads only by repairing it
            return np.load(path, mmap_mode=mode, allow_pickle=False)
    except (ValueError, SyntaxError, tokenize.TokenError, EOFError, OSError, UserWarning) as error:
        raise DataError(f"{path} cannot be read as an array ({error}); {mend}") from error


def _open_arrays(folder: Path, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Memory-map every array that a manifest names, keyed without suffix, or raise ``DataError``."""
    arrays = {}
    for name, expected in manifest["files"].items():
        path = inside(folder, name)
        if not path.is_file():
            raise DataError(f"{path} is missing; make the tensors again")
        array = read_array(path, "make the tensors again", mode="r")
        if str(array.dtype) != expected["type"] or list(array.shape) != expected["shape"]:
            raise DataError(
                f"{path} holds {array.dtype}{list(array.shape)}, its manifest says "
                f"{expected['type']}{expected['shape']}; make the tensors again"
            )
        arrays[name.removesuffix(".npy")] = array
    return arrays


def check_array_folder(folder: Path) -> dict[str, Any]:
    """Verify a tensor folder against its manifest, checksums included, and return the manifest.

    Raises:
        DataError: A file is missing, changed or not named by the manifest.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    missing = {"format", "dataset", "sources", "files", "fingerprint"} - manifest.keys()
    if missing:
        raise DataError(f"{folder / MANIFEST}: {listed(sorted(missing))} missing; make the tensors again")
    if fingerprint_of(manifest) != manifest["fingerprint"]:
        raise DataError(f"{folder / MANIFEST} was changed after it was written; make the tensors again")
    _open_arrays(folder, manifest)
    for name, expected in manifest["files"].items():
        if sha256_of(folder / name) != expected["sha256"]:
            raise DataError(
                f"{folder / name} differs from the checksum in its manifest; make the tensors again"
            )
    known = {*manifest["files"], MANIFEST}
    strangers = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and str(path.relative_to(folder)) not in known
    )
    if strangers:
        raise DataError(f"{folder} holds files that its manifest does not name: {listed(strangers)}")
    return manifest
