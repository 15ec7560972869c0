"""MIMIC-III: raw tables, or the folders that the public benchmark makes of them, to clinical tensors.

``prepare`` is the way in. ``preparation`` reads raw tables, ``benchmark_folders`` the benchmark's own output, ``effects`` counts what each
repair changes, ``benchmark_tables`` shows the intermediate results, ``raw_tables`` writes simulated cohorts as raw tables.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def prepare(
    source: Path | str, target: Path | str, *, progress: Callable[[str], None] | None = None, **options: Any
) -> Path:
    """Turn ``source`` into clinical tensors at ``target`` and return it.

    ``source`` is a folder of MIMIC-III tables (options: ``preparation.prepare_raw``) or the benchmark's task folders (options:
    ``benchmark_folders.prepare_benchmark_folder``), told apart by their contents. Errors as there.
    """
    from relif_core.datasets.mimic3.benchmark_folders import is_benchmark_folder, prepare_benchmark_folder
    from relif_core.datasets.mimic3.preparation import prepare_raw

    if is_benchmark_folder(Path(source)):
        return prepare_benchmark_folder(Path(source), Path(target), progress=progress, **options)
    return prepare_raw(Path(source), Path(target), progress=progress, **options)
