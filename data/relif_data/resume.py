"""What an interrupted reading of raw tables leaves behind, so that the same command goes on with the rest.

A hidden folder beside the target holds what was made of each table, and ``state.json``: the tables that were
begun and those that are finished. It counts only while the code, ``key`` and a table's files are the same.
"""

import contextlib
import os
import shutil
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relif_core.errors import DataError, StorageError
from relif_core.files import package_digest, read_json, write_json
from relif_core.tensors.folder import MANIFEST, read_manifest, refuse_to_overwrite
from relif_data.tables import Table

STATE = "state.json"
#: Suffixes of the package's files that decide what a reading makes.
DECIDING = (".py", ".csv", ".json", ".toml")
#: What is kept of a ``Table`` that was read.
COUNTS = ("files", "rows", "ragged", "unreadable")


class Work:
    """The work folder of one reading.

    Args:
        target: The folder to be made; the work folder lies beside it.
        key: What determines the result of reading a table besides its files, as JSON.
        tables: The source tables.
    """

    def __init__(self, target: Path, key: Mapping[str, Any], tables: Mapping[str, Table]) -> None:
        self.folder, self.tables = work_folder(target), tables
        code = package_digest(Path(__file__).parent, DECIDING)
        self.key = {**key, "code": code, "polars": pl.__version__}
        self.state: dict[str, dict[str, Any]] = {"begun": {}, "finished": {}}
        try:
            state = read_json(self.folder / STATE)
            if state["key"] == self.key:
                self.state = {name: state[name] for name in self.state}
        except (OSError, DataError, TypeError, KeyError):
            pass
        if not self.state["begun"]:
            self.clear()

    def changed(self) -> bool:
        """Say whether a table that was begun has other files now."""
        return any(self._stamp(name) != stamp for name, stamp in self.state["begun"].items())

    def kept(self, name: str) -> dict[str, Any] | None:
        """Return what ``finish`` noted of an unchanged table, and restore its counts; None for another."""
        found = self.state["finished"].get(name)
        if found is None or self.state["begun"].get(name) != self._stamp(name):
            return None
        for count in COUNTS:
            setattr(self.tables[name], count, found[count])
        result: dict[str, Any] = found["result"]
        return result

    def begin(self, name: str) -> None:
        """Note that reading a table begins."""
        self.state["begun"][name] = self._stamp(name)
        self.state["finished"].pop(name, None)
        self._write()

    def finish(self, name: str, result: Mapping[str, Any]) -> None:
        """Note that a table is read and what was made of it is on disk."""
        counts = {count: getattr(self.tables[name], count) for count in COUNTS}
        self.state["finished"][name] = {**counts, "result": dict(result)}
        self._write()

    def array(self, name: str, dtype: Any, shape: tuple[int, ...], *, old: bool = False) -> np.ndarray:
        """Return an array in a file of the folder, its space reserved so that a full disk is no crash.

        Args:
            name: The file without suffix.
            dtype: Type of the numbers.
            shape: Shape; zeros at first.
            old: Open the one that an interrupted reading left. Where there is none, or one of another size,
                no table counts as read any more.

        Raises:
            DataError: The disk is full, or what was left cannot be opened; it stays where it is.
        """
        # What nobody resumes belongs to this process and goes with it: two makers of a target share none.
        path = self.folder / (f"{name}.npy" if old else f"{name}.{os.getpid()}.npy")
        if old:
            found = _left_array(path, dtype, shape)
            if found is not None:
                return found
            if self.state["begun"]:  # On disk too, before an empty array lies where the tables' values were.
                self.state = {"begun": {}, "finished": {}}
                self._write()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            with open(path, "r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
            if not old:
                path.unlink()
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                self.folder.rmdir()
            raise full_disk(self.folder, error) from error
        return array

    def clear(self) -> None:
        """Forget everything and remove the folder."""
        self.state = {"begun": {}, "finished": {}}
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def last_step(self, target: Path) -> Iterator[None]:
        """Within this block the target is written; the work is done, or of no use, when it is left."""
        try:
            yield
        except OSError as error:
            raise full_disk(target, error) from error
        except DataError:
            self.clear()
            raise
        self.clear()

    def _stamp(self, name: str) -> list[Any] | None:
        return self.tables[name].stamp() if name in self.tables else None

    def _write(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / STATE, {"key": self.key, **self.state})
        except (OSError, StorageError) as error:
            raise full_disk(self.folder, error) from error


def _left_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Open the array of an interrupted reading; None where there is none, or it is damaged or another one."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        if (array.dtype, array.shape) != (np.dtype(dtype), shape):
            return None
        return np.lib.format.open_memmap(path, mode="r+")
    except (FileNotFoundError, ValueError, SyntaxError, tokenize.TokenError):
        return None
    except OSError as error:
        raise DataError(
            f"{path}, which an interrupted run left, cannot be opened ({error}); free memory and run the same"
            f" command again, or remove {path.parent} to begin anew"
        ) from error


def refuse_other_sources(target: Path, dataset: str, tables: Mapping[str, Table]) -> None:
    """Check before hours of reading that a target holds nothing else, by its sources' names and sizes.

    Raises:
        DataError: It holds another data set, or one made of other files.
    """
    refuse_to_overwrite(target, {"dataset": dataset})
    if not (target / MANIFEST).is_file():
        return
    held = {file["name"]: file["bytes"] for file in read_manifest(target).get("sources", ())}
    if held != {path.name: path.stat().st_size for table in tables.values() for path in table.paths}:
        raise DataError(
            f"{target} holds {dataset!r} made from other source files; choose another target or remove that"
            " folder first"
        )


def work_folder(target: Path) -> Path:
    """Return the hidden folder beside a target in which an interrupted reading waits."""
    place = Path(target).resolve()
    return place.with_name(f".{place.name}.work")


def full_disk(place: Path, error: BaseException) -> DataError:
    """Return the ``DataError`` for a place that could not be written."""
    return DataError(
        f"{place} cannot be written ({str(error).strip()}); free space on that disk or choose another target,"
        " then run the same command again"
    )
