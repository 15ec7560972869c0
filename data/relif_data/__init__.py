"""The data sources that can become tensors: what each is, where to get it, and under which terms.

Importing this package loads none of the modules that read a source; ``prepare`` loads the one it needs.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relif_core.errors import InputError
from relif_core.options import typed_options
from relif_data.sources import REGISTRY, OutputPolicy, Source

__all__ = ["REGISTRY", "OutputPolicy", "Source", "prepare", "source"]


def source(name: str) -> Source:
    """Return a source's registry entry; ``InputError`` names the known ones where ``name`` is none."""
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
    """Turn a source into tensors in the folder ``target`` and return it.

    Args:
        name: The source's key.
        source_path: Its files; None for a synthetic source.
        target: Folder of the tensors.
        progress: Called with a line of text per step.
        **options: Of the source's own ``prepare``; text is read by its signature (``relif_core.options``).

    Raises:
        InputError: An unknown name, a missing or needless source path, or an option that does not fit.
        DataError: Faults in the data.
    """
    entry = source(name)
    if source_path is not None and entry.synthetic:
        raise InputError(f"{name} is simulated and reads no {source_path}; give - (in Python None) instead")
    if source_path is None and not entry.synthetic:
        raise InputError(f"{name}: name the folder that holds the data (get them from {entry.official_page})")
    path = None if source_path is None else Path(source_path)
    module = importlib.import_module(entry.module)
    typed = typed_options(name, module.prepare, options)
    return Path(module.prepare(path, Path(target), progress=progress, **typed))
