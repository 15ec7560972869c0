"""What an interrupted reading of eICU tables leaves, so that the next call reads the missing tables only.

The hourly grid lies in a file of a hidden folder beside the target. A cell keeps the greatest key that any
event offered, so reading a table a second time changes nothing: a table that was interrupted is simply read
again. ``state.json`` names the tables that were begun and those that are finished, with their counts; it
counts only while the cohort, the code and the begun files are the same.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from relif_core.errors import DataError
from relif_core.files import package_digest, write_json
from relif_data.eicu.events import TableCount
from relif_data.eicu.stream import ReadFile

KEYS, STATE = "keys.npy", "state.json"


def work_folder(target: Path) -> Path:
    """Return the hidden folder beside a target in which an interrupted reading waits."""
    return Path(target).parent / f".{Path(target).name}.eicu-work"


class GridStore:
    """A reading's work folder; ``key`` is what determines the grid besides events: another starts over."""

    def __init__(self, folder: Path, key: Mapping[str, Any], tables: Mapping[str, Path]) -> None:
        self.folder, self.tables = Path(folder), tables
        self.key = {**key, "code": package_digest()}
        self.begun: dict[str, list[int]] = {}
        self.finished: dict[str, dict[str, Any]] = {}
        state = self._state()
        same = state.get("key") == self.key and (self.folder / KEYS).is_file()
        if same and all(self._stamp(name) == stamp for name, stamp in state["begun"].items()):
            self.begun, self.finished = state["begun"], state["finished"]
        else:
            remove_work(self.folder)

    def open_keys(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the grid's int64 keys: those of the interrupted reading, or zeros with reserved space."""
        path = self.folder / KEYS
        try:
            if self.begun:
                return np.lib.format.open_memmap(path, mode="r+")
            self.folder.mkdir(parents=True, exist_ok=True)
            keys = np.lib.format.open_memmap(path, mode="w+", dtype=np.int64, shape=shape)
            with open(path, "r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise full_disk(self.folder, error) from error
        return keys

    def kept(self, name: str) -> tuple[TableCount, ReadFile] | None:
        """Return the counts and file entry of a table that an interrupted reading had finished, else None."""
        if name not in self.finished:
            return None
        count, file = self.finished[name]["count"], self.finished[name]["file"]
        return TableCount(**count | {"units": Counter(count["units"])}), ReadFile(**file)

    def begin(self, name: str) -> None:
        """Note that a table's events are about to enter the grid."""
        self.begun[name] = self._stamp(name)
        self._write()

    def finish(self, name: str, count: TableCount, file: ReadFile, keys: np.ndarray) -> None:
        """Note that a table is in the grid, once the grid is on disk."""
        if isinstance(keys, np.memmap):
            keys.flush()
        self.finished[name] = {
            "count": vars(count) | {"units": dict(count.units)},
            "file": file.as_dict(),
        }
        self._write()

    def _stamp(self, name: str) -> list[int]:
        """Size and time of change of a table's file, zeros where it is gone."""
        path = self.tables.get(name)
        status = path.stat() if path is not None and path.is_file() else None
        return [0, 0] if status is None else [status.st_size, status.st_mtime_ns]

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) and {"key", "begun", "finished"} <= state.keys() else {}

    def _write(self) -> None:
        try:
            write_json(self.folder / STATE, {"key": self.key, "begun": self.begun, "finished": self.finished})
        except OSError as error:
            raise full_disk(self.folder, error) from error


def remove_work(folder: Path) -> None:
    """Remove a work folder, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)


def full_disk(place: Path, error: OSError) -> DataError:
    """Return the ``DataError`` for a place that could not be written."""
    return DataError(
        f"{place} cannot be written ({error}); free space on that disk or choose another target, then run the"
        " same command again"
    )
