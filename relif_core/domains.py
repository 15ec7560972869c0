"""The domain of every number by its name: one table for settings, classes and sources' options."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from relif_core.errors import InputError

#: What a value must do in words, the test of it (NaN fails every comparison), and the settings it is for.
_TABLE: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "be positive and finite",
        lambda value: 0 < value < math.inf,
        "learning_rate huber_width hinge_width minimum maximum",
    ),
    (
        "be finite and not negative",
        lambda value: 0 <= value < math.inf,
        "weight_decay gradient_clip minimum_improvement slope step_size initial warmup proportional_gain"
        " integral_gain pair_seed first_label_hour",
    ),
    (
        "be at least 1 and below 2^31",
        lambda value: 1 <= value < 2**31,
        "hidden layers head_width epochs patience evaluate_every maximum_hours prototypes neighbours"
        " pool_size pairs",
    ),
    ("be at least 2 and below 2^31", lambda value: 2 <= value < 2**31, "batch_size"),
    ("lie in [0, 1]", lambda value: 0 <= value <= 1, "tolerance target distance_floor"),
    ("lie in [0, 2^32)", lambda value: 0 <= value < 2**32, "seed"),
    ("lie in [0, 1)", lambda value: 0 <= value < 1, "dropout"),
    ("lie in (0, 1]", lambda value: 0 < value <= 1, "ema"),
)
DOMAINS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    name: (must, test) for must, test, names in _TABLE for name in names.split()
}


def holds(name: str, value: Any) -> bool:
    """Tell whether a name has a domain and a value lies in it.

    Args:
        name: Of a setting or an option.
        value: Its value.
    """
    try:
        return name in DOMAINS and bool(DOMAINS[name][1](value))
    except (TypeError, ValueError):
        return False  # It is no number.


def check_domains(owner: str, **values: Any) -> None:
    """Refuse settings outside their domain.

    >>> check_domains("Controller", target=0.16, ema=0.1, kind="feedback")

    Args:
        owner: What has the settings, for the message.
        **values: Settings by name; None and a name without a domain are outside none.

    Raises:
        InputError: Naming owner, setting, what it must be, and its value.
    """
    for name, value in values.items():
        if value is not None and name in DOMAINS and not holds(name, value):
            raise InputError(f"{owner}.{name} must {DOMAINS[name][0]}, got {value!r}")
