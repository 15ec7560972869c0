"""MIMIC-III: raw tables, or the folders that the public benchmark makes of them, to clinical tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def prepare(
    source: Path | str, target: Path | str, *, progress: Callable[[str], None] | None = None, **options: Any
) -> Path:
    """Turn ``source`` into clinical tensors at ``target`` and return it.

    ``source`` is a folder of MIMIC-III tables (see ``preparation.prepare_raw`` for the options) or the benchmark's task folders
    (``benchmark_folders.prepare_benchmark_folder``), told apart by their contents. Errors as there.
    """
    from relif_core.datasets.mimic3.preparation import prepare_raw

    return prepare_raw(Path(source), Path(target), progress=progress, **options)
