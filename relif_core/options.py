"""Values as a user writes them, ``name=value``, read by the types of what takes them and refused by name.

The one reader of a data source's options (``-o``), settings (``--set``) and a page's parameters (``-p``).
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from relif_core.domains import holds
from relif_core.errors import InputError, listed

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def read_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Read ``name=value`` pairs; the values stay text.

    Raises:
        InputError: A pair has no name or no ``=``, or a name stands twice.

    >>> read_pairs(["seed=3", "layout=hourly"])
    {'seed': '3', 'layout': 'hourly'}
    """
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"{pair!r} is no setting; write name=value")
        if name in options:
            raise InputError(f"{name} is set twice; set it once")
        options[name] = text
    return options


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted names into nested mappings.

    >>> nested({"training.epochs": 5, "seed": 1})
    {'training': {'epochs': 5}, 'seed': 1}

    Raises:
        InputError: A name is set together with a part of it.
    """
    content: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split(".")
        place = content
        for step in path:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise InputError(f"{name} is set together with {step}, which holds it; set one of them")
        if isinstance(place.get(last), dict):
            raise InputError(f"{name} is set together with a part of it; set one of them")
        place[last] = value
    return content


def typed_options(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as values of the types that the keyword parameters of a function have.

    Whole numbers are counts, from 1 on, where their domain does not hold 0; shares lie together below 1.

    Args:
        name: What has the options, for messages.
        function: Its keyword parameters are the options.
        options: As :func:`typed_value` takes them.

    >>> def prepare(source, *, seed: int = 0, decompensation: bool = False, hours: int | None = 48): ...
    >>> typed_options("eicu", prepare, {"decompensation": "no", "seed": "3", "hours": "none"})
    {'decompensation': False, 'seed': 3, 'hours': None}

    Raises:
        InputError: An unknown option, a value of another type, shares below 0 or together 1 and more.
    """
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    known = {item.name: hints.get(item.name, Any) for item in parameters if item.kind is item.KEYWORD_ONLY}
    known.pop("progress", None)
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise InputError(
            f"{name}: unknown option {listed(unknown)}; known are {', '.join(sorted(known)) or 'none'}"
        )
    typed = {
        option: typed_value(f"{name}: option {option}", known[option], value, 0 if holds(option, 0) else 1)
        for option, value in options.items()
    }
    shares = {option: value for option, value in typed.items() if option.endswith(("_share", "_fraction"))}
    if shares and not (min(shares.values()) >= 0 and sum(shares.values()) < 1):
        raise InputError(f"{name}: {listed(shares)}: shares must be at least 0 and together below 1")
    return typed


def typed_value(what: str, hint: Any, value: Any, least: int | None = None) -> Any:
    """Return a value as the first type of ``hint`` that takes it.

    Text, as a shell gives it, becomes a number, a truth value (true, yes, on, 1; false, no, off, 0), None
    ("none"), one of the type's words, or the path of a file that exists.

    Args:
        what: Begins the message.
        hint: The type.
        value: Text, or a value of the type already.
        least: The smallest whole number; None: any.

    Raises:
        InputError: No type takes it.
    """
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if union else (hint,)
    for kind in kinds:
        try:
            return _as(kind, value, least)
        except (ValueError, TypeError, OverflowError):
            continue
    wanted = listed(dict.fromkeys(_in_words(kind, least) for kind in kinds))
    shown = repr(value)
    raise InputError(f"{what}={shown[:40] + '…' * (len(shown) > 40)} does not fit; give {wanted}")


def _as(kind: Any, value: Any, least: int | None) -> Any:
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
        if least is None or number >= least:
            return number
    if kind is float and not isinstance(value, bool) and math.isfinite(float(value)):
        return float(value) + 0.0  # -0.0 is 0.0
    if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
        return value
    if kind is Path and isinstance(value, str | Path) and Path(value).is_file():
        return Path(value)
    if kind is str and isinstance(value, str):
        return value
    if kind is Any or (dataclasses.is_dataclass(value) and type(value) is kind):
        return value
    if typing.get_origin(kind) is not Literal and typing.get_args(kind) and text is None:
        return list(value)  # A collection; its members are the function's to judge.
    raise ValueError(value)


def _in_words(kind: Any, least: int | None) -> str:
    if kind is bool:
        return f"one of {', '.join(TRUE + FALSE)}"
    if kind is int:
        return "a whole number" if least is None else f"a whole number >= {least}"
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    words = {float: "a number", Path: "the path of a file", type(None): "none", str: "text"}
    return words.get(kind, str(kind.__name__) if hasattr(kind, "__dataclass_fields__") else "a list")
