"""What files hold: values of this package as JSON values and back, and one refusal of what is damaged."""

import contextlib
import functools
import json
import math
import numbers
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

import numpy as np

from relif_core.audit.door import is_number
from relif_core.errors import RecordError, listed


@contextlib.contextmanager
def damaged(what: str, mend: str) -> Iterator[None]:
    """Turn what reading content of a wrong kind raises into a ``RecordError``: ``what`` (why); ``mend``."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        why = error if isinstance(error, ValueError) else repr(error)
        raise RecordError(f"{what} ({why}); {mend}") from error


def plain(value: Any) -> Any:
    """Return dataclasses and mappings as dicts, tuples and arrays as lists, and NaN as None."""
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(own) for name, own in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [plain(own) for own in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def picked(thing: Any, *names: str) -> dict[str, Any]:
    """Return some attributes by name, arrays as lists."""
    return {name: plain(getattr(thing, name)) for name in names}


def json_object(text: str, *schemas: str) -> dict[str, Any]:
    """Return a JSON object of one of the schemas; ``ValueError`` for others."""
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}, not an object")
    if content["schema"] not in schemas:
        raise ValueError(
            f"schema {content['schema']!r}, this version reads {listed(map(repr, schemas), ' and ')}"
        )
    return content


class Stored:
    """What files hold as one JSON object; each class tells its schemas and what to say of a damaged file."""

    _schemas: ClassVar[tuple[str, ...]]
    _damage: ClassVar[tuple[str, str]]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild what :meth:`to_json` wrote.

        Raises:
            RecordError: Text that is no JSON, of another schema, or holds what this class never writes.
        """
        with damaged(*cls._damage):
            return cls._from(json_object(text, *cls._schemas))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of :meth:`to_json`.

        Raises:
            InputError: No such file.
            RecordError: As :meth:`from_json`; the message names the file.
        """
        from relif_core.files import read_text

        try:
            return cls.from_json(read_text(Path(path)))
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from error

    @classmethod
    def _from(cls, content: dict[str, Any]) -> Self:
        """Return the object of a JSON object; ``ValueError`` and its like for one that is damaged."""
        raise NotImplementedError


def rebuilt(kind: Any, value: Any, name: str, unknowable: tuple[str, ...] = ()) -> Any:
    """Return a JSON value as the kind that it was: a number, text, tuple, dict or dataclass of them.

    What is of a class already stays as it is. Numbers are finite; None is NaN in the fields that
    ``unknowable`` names. The ``ValueError`` for another kind names the field and never the value, which may
    be a person's.
    """
    parts = get_args(kind)
    if isinstance(kind, UnionType):
        (kind,) = (part for part in parts if part is not NoneType)
        return None if value is None else rebuilt(kind, value, name, unknowable)
    if kind is float and value is None and name in unknowable:
        return math.nan
    if isinstance(kind, type) and kind not in _FITS and isinstance(value, kind):
        return value
    if is_dataclass(kind):
        return _object(kind, value, name, unknowable)
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        parts = parts[:1] * len(value) if parts[-1] is ... else parts
        if len(parts) == len(value):
            both = zip(parts, value, strict=True)
            return tuple(rebuilt(part, own, name, unknowable) for part, own in both)
    if get_origin(kind) is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: rebuilt(parts[1], own, name, unknowable) for key, own in value.items()}
    if kind in _FITS and _FITS[kind](value):
        return value
    raise ValueError(f"{name} is no {getattr(kind, '__name__', kind)} that this version writes")


_FITS: dict[Any, Any] = {
    str: lambda value: isinstance(value, str),
    int: lambda value: (type(value) is int or is_number(value, numbers.Integral)) and abs(value) < 2**63,
    float: lambda value: (type(value) is float or is_number(value)) and abs(value) <= sys.float_info.max,
}


def _object(kind: Any, value: Any, name: str, unknowable: tuple[str, ...]) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is a {type(value).__name__}, not an object")
    kinds, needed = _fields(kind)
    if wrong := sorted(needed - value.keys()) or sorted(value.keys() - kinds.keys()):
        raise ValueError(f"{name}: {wrong[0]!r} is missing or unknown")
    return kind(**{field: rebuilt(kinds[field], own, field, unknowable) for field, own in value.items()})


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the kinds of a dataclass's fields, and those without a default."""
    hints = get_type_hints(kind)
    every = fields(kind)
    needed = {item.name for item in every if item.default is MISSING and item.default_factory is MISSING}
    return {item.name: hints[item.name] for item in every}, needed
