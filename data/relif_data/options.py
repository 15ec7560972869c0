"""Options of a data source, read by its function's signature and checked before anything is read."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from relif_core.errors import InputError

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
#: The smallest value of the whole numbers that are not counts, which start at 1.
LEAST = {"seed": 0, "first_label_hour": 0}


def typed_options(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` as the types that the keyword parameters of ``function`` have.

    Text, as a shell gives it, becomes a number, a truth value (true, yes, on, 1; false, no, off, 0), None
    ("none"), one of the parameter's words, or the path of a file that exists.

    Args:
        name: The source, for messages.
        function: Takes the options; its annotations are the types.
        options: Text, or values of the types already.

    Raises:
        InputError: An option that ``function`` has not, or a value of another type or outside its range.

    >>> def prepare(source, *, seed: int = 0, decompensation: bool = False, hours: int | None = 48): ...
    >>> typed_options("eicu", prepare, {"decompensation": "no", "seed": "3", "hours": "none"})
    {'decompensation': False, 'seed': 3, 'hours': None}
    """
    parameters = inspect.signature(function).parameters.values()
    known = {item.name for item in parameters if item.kind is item.KEYWORD_ONLY} - {"progress"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise InputError(
            f"{name}: unknown option {', '.join(unknown)}; known are {', '.join(sorted(known)) or 'none'}"
        )
    hints = typing.get_type_hints(function)
    typed = {option: _typed(name, option, value, hints.get(option, Any)) for option, value in options.items()}
    shares = {option: value for option, value in typed.items() if option.endswith(("_share", "_fraction"))}
    if shares and not (min(shares.values()) >= 0 and sum(shares.values()) < 1):
        raise InputError(f"{name}: {', '.join(shares)}: shares must be at least 0 and together below 1")
    return typed


def _typed(source: str, option: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the first type of ``hint`` that takes it."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in kinds:
        try:
            return _as(kind, option, value)
        except (ValueError, TypeError):
            continue
    wanted = ", ".join(dict.fromkeys(_in_words(kind, option) for kind in kinds))
    raise InputError(f"{source}: option {option}={_shown(value)} does not fit; give {wanted}")


def _as(kind: Any, option: str, value: Any) -> Any:
    """Return ``value`` as a ``kind``; ``ValueError`` or ``TypeError`` where it is none."""
    text = value.strip() if isinstance(value, str) else None
    if kind is type(None) and (value is None or (text is not None and text.lower() in ("none", ""))):
        return None
    if kind is bool:
        if isinstance(value, bool):
            return value
        word = str(value if text is None else text).lower()
        if word in TRUE + FALSE:
            return word in TRUE
    if kind is int and not isinstance(value, bool) and (text is not None or int(value) == value):
        number = int(value)
        if number >= LEAST.get(option, 1):
            return number
    if kind is float and not isinstance(value, bool) and math.isfinite(float(value)):
        return float(value)
    if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
        return value
    if kind is Path and isinstance(value, str | Path) and Path(value).is_file():
        return Path(value)
    if kind is str and isinstance(value, str):
        return value
    if kind is Any or (typing.get_origin(kind) is not Literal and typing.get_args(kind) and text is None):
        return list(value)  # A collection; its members are the function's to judge.
    raise ValueError(value)


def _in_words(kind: Any, option: str) -> str:
    if kind is bool:
        return f"one of {', '.join(TRUE + FALSE)}"
    if kind is int:
        return f"a whole number >= {LEAST.get(option, 1)}"
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return {float: "a number", Path: "the path of a file", type(None): "none", str: "text"}.get(
        kind, "a list"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
