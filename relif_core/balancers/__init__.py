"""Task balancers: how the losses of several tasks become one update.

Which there are stands in :mod:`relif_core.methods`; :func:`make_balancer` makes one. The interface is
:class:`~relif_core.balancers.base.Balancer`.
"""

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from relif_core.balancers.base import Balancer
from relif_core.errors import InputError
from relif_core.files import sha256_of
from relif_core.methods import METHODS, balancer_keys

__all__ = ["Balancer", "balancer_class", "make_balancer"]


def balancer_class(name: str) -> type[Balancer]:
    """Return the class of a balancer.

    Args:
        name: A balancer's key in ``METHODS``, for one from outside the package followed by "@" and the digest
            of its file.

    Raises:
        InputError: There is no such balancer, its file has changed since or cannot be imported, or it is no
            ``Balancer``.
    """
    key, at, digest = name.partition("@")
    if key not in METHODS or not METHODS[key].source:
        raise InputError(
            f"unknown balancer {key!r}; known are {', '.join(balancer_keys())}"
            + ("; add its file with --balancer path/to/file.py:Class" if at else "")
        )
    place, _, title = METHODS[key].source.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(f"relif_core.balancers.{place}"), title)
    try:
        found = sha256_of(Path(place))[:12]
    except OSError as error:
        raise InputError(f"{place} cannot be read ({error.strerror}); put it back") from error
    if digest and found != digest:
        raise InputError(
            f"{place} is another version ({found}) of balancer {key!r} than the settings name ({digest})"
        )
    return _load(place, title, found)


@functools.cache
def _load(place: str, title: str, digest: str) -> type[Balancer]:
    name = f"relif_balancer_{digest}"
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{place} cannot be imported ({type(error).__name__}: {error}); mend it") from error
    kind = getattr(module, title)
    if not (isinstance(kind, type) and issubclass(kind, Balancer)):
        raise InputError(f"{place}: {title} is no relif_core.balancers.Balancer; make it a subclass")
    return kind


def make_balancer(name: str, tasks: int, seed: int = 0, **options: Any) -> Balancer:
    """Return a new balancer.

    Args:
        name: As :func:`balancer_class` takes it.
        tasks: Number of tasks T, at least 1.
        seed: Seed of the balancer's own random generator.
        **options: Settings of this balancer (its class documents them).

    Raises:
        InputError: The name or an option is unknown, or a setting is outside its range.

    >>> make_balancer("fairgrad", tasks=4, alpha=1.0).needs_gradients
    True
    """
    kind = balancer_class(name)
    try:
        return kind(tasks, seed, **options)
    except TypeError as error:
        raise InputError(f"balancer {name!r}: {error}") from error
