"""Conventions that several clinical sources share: label classes, splits, checks of options."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relif_core.errors import DataError, InputError, listed
from relif_core.tensors.clinical import Task

LENGTH_OF_STAY_DAYS = (1, 2, 3, 4, 5, 6, 7, 8, 14)
"""Lower bounds in days of the length-of-stay classes after the first (ten, Harutyunyan et al. 2019)."""

LENGTH_OF_STAY_CLASSES = (
    "< 1 day",
    *(f"{day}–{day + 1} days" for day in range(1, 8)),
    "8–14 days",
    "≥ 14 days",
)

REMAINING_STAY = Task(
    "los", "Remaining length of stay", "binned", "hourly", 10, LENGTH_OF_STAY_CLASSES, unit="days"
)
"""The hourly task of every source with whole stays."""

LEVEL_SHARE, FEW = 0.1, 10
"""Share of rows, and number of them, whose text may be none of a group's levels."""
ADULT_AGE_BANDS = ("18-44", "45-64", "65-79", "80+")
"""``AGE_BANDS`` as the sources name them whose cohorts begin at 18 years."""
AGE_BANDS = ("< 45", "45–64", "65–79", "≥ 80")
"""Age bands, in years, of the subgroup audits."""


def require_integer(name: str, value: object, least: int) -> None:
    """Refuse (``InputError``) an option ``name`` that is no integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name}={value!r}: give an integer of at least {least}")


def refuse_unknown_levels(place: object, column: str, unknown: int, known: Sequence[str], rows: int) -> None:
    """Raise ``DataError`` where a tenth of a column's texts, and more than ten, are no known level."""
    if unknown > max(LEVEL_SHARE * rows, FEW):
        raise DataError(
            f"{place}: {column} of {unknown:,} of {rows:,} rows is none of this"
            f" source's texts ({listed(known)}); export the column as it is delivered, or empty it"
        )


def refuse_changed(prepare: Any, options: Mapping[str, Any], reason: str) -> None:
    """Refuse (``InputError``) keyword options of ``prepare`` that were given a value of their own."""
    changed = [name for name, value in options.items() if value != prepare.__kwdefaults__[name]]
    if changed:
        raise InputError(f"{listed(changed)}: {reason}; leave the option off")


def age_band(age: np.ndarray) -> np.ndarray:
    """Return the index into ``AGE_BANDS`` of ages in years."""
    return np.searchsorted((45, 65, 80), age, side="right").astype(np.uint8)


def length_of_stay_class(days: np.ndarray) -> np.ndarray:
    """Return the class 0..9 of durations in days: class k starts at the k-th bound, which belongs to it."""
    return np.searchsorted(LENGTH_OF_STAY_DAYS, days, side="right").astype(np.int16)


def split_by_subject(subjects: np.ndarray, validation: float, test: float, seed: int) -> np.ndarray:
    """Draw train (0), validation (1) and test (2) codes, uint8 [stays], one for all stays of a subject.

    Subjects are shuffled in sorted order: the result depends on the set of ids and the seed, not on the order
    of the stays.

    Args:
        subjects: Ids [stays].
        validation: Share of the distinct subjects, rounded.
        test: Likewise.
        seed: Of the draw.
    """
    distinct, inverse = np.unique(subjects, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    codes = np.zeros(len(distinct), dtype=np.uint8)
    held_out = round(test * len(distinct))
    codes[order[:held_out]] = 2
    codes[order[held_out : held_out + round(validation * len(distinct))]] = 1
    return codes[inverse]
