"""The data sources that the package can turn into tensors: what each is, where to get it, and under which
terms.

Importing this package loads none of the modules that read a source; ``prepare`` loads the one it needs.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relif_core.errors import InputError
from relif_data.options import typed_options
from relif_data.sources import REGISTRY, OutputPolicy, Source, SourceFile

__all__ = ["REGISTRY", "OutputPolicy", "Source", "SourceFile", "prepare", "source"]


def source(name: str) -> Source:
    """Return the registry entry of a source; ``InputError`` names the known ones where ``name`` is none of
    them.
    """
    if name not in REGISTRY:
        raise InputError(f"no data source is called {name!r}; known are {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]


def prepare(
    name: str,
    source_path: Path | str | None,
    target: Path | str,
    *,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Path:
    """Turn the source ``name`` at ``source_path`` into tensors in the folder ``target`` and return that
    folder.

    ``options`` go to the source's own ``prepare``, text read by its signature (``options.typed_options``);
    ``progress`` is called with one line of text per step. Synthetic sources take no ``source_path`` (None).
    Raises ``InputError`` for an unknown name, a missing source path or an option that does not fit, and
    ``DataError`` for faults in the data.
    """
    entry = source(name)
    if source_path is None and not entry.synthetic:
        raise InputError(f"{name}: name the folder that holds the data (get them from {entry.official_page})")
    path = None if source_path is None else Path(source_path)
    module = importlib.import_module(entry.module)
    typed = typed_options(name, module.prepare, options)
    return Path(module.prepare(path, Path(target), progress=progress, **typed))
