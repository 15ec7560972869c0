"""Conventions that several clinical sources share: cohorts, hourly rows, label classes, splits, options."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from relif_core.errors import DataError, InputError, listed
from relif_core.tensors.clinical import CohortStep, Task
from relif_data.tables import refuse_lost

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

MORTALITY_HOUR, DECOMPENSATION_HOURS = 48, 24
"""When the benchmark predicts death in hospital, and how far ahead death at every hour."""

LEVEL_SHARE = 0.1
"""Share of rows whose text may be none of a group's levels."""
ADULT_AGE_BANDS = ("18-44", "45-64", "65-79", "80+")
"""``AGE_BANDS`` as the sources name them whose cohorts begin at 18 years."""
AGE_BANDS = ("< 45", "45–64", "65–79", "≥ 80")
"""Age bands, in years, of the subgroup audits."""


def benchmark_tasks(mortality: str, phenotypes: tuple[str, ...]) -> tuple[Task, ...]:
    """Return the four tasks of Harutyunyan et al. 2019: title of the first, names in the last are given."""
    return (
        Task("mortality", mortality, "binary", "stay", horizon_hours=MORTALITY_HOUR),
        Task("decompensation", f"Death within {DECOMPENSATION_HOURS} hours", "binary", "hourly"),
        REMAINING_STAY,
        Task("phenotypes", "Phenotypes", "multilabel", "stay", len(phenotypes), phenotypes),
    )


def require_integer(name: str, value: object, least: int) -> None:
    """Check that the option ``name`` is an integer of at least ``least``, or ``InputError``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name}={value!r}: give an integer of at least {least}")


def refuse_unknown_levels(place: object, column: str, unknown: int, known: Sequence[str], rows: int) -> None:
    """Check that nine tenths of a column's texts, or all but ten, are known levels, or ``DataError``."""
    words = f"({listed(known)}); export the column as it is delivered, or empty it"
    refuse_lost(
        f"{place}: {column} of", unknown, rows, f"rows is none of this source's texts {words}", LEVEL_SHARE
    )


def refuse_changed(prepare: Any, options: Mapping[str, Any], reason: str) -> None:
    """Check that keyword options of ``prepare`` have their default values, or ``InputError``."""
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


class CohortFlow:
    """Applies the rules of a cohort in order to ``frame`` and counts in ``steps`` what each removes.

    Args:
        frame: All stays.
        rule: What they are.
        subject: The column that names a stay's subject.
    """

    def __init__(self, frame: pl.DataFrame, rule: str, subject: str = "subject") -> None:
        self.frame, self.subject = frame, subject
        self.steps = [CohortStep(rule, 0, frame.height, frame[subject].drop_nulls().n_unique())]

    def keep(self, rule: str, condition: pl.Expr | pl.Series) -> pl.DataFrame:
        """Keep the stays for which ``condition`` is true (null counts as false); return the others.

        Raises:
            DataError: No stay is left.
        """
        marked = self.frame.select(kept=condition)["kept"].fill_null(False)
        removed, self.frame = self.frame.filter(~marked), self.frame.filter(marked)
        subjects = self.frame[self.subject].drop_nulls().n_unique()
        self.steps.append(CohortStep(rule, removed.height, self.frame.height, subjects))
        if not self.frame.height:
            raise DataError(f"no stay is left after the cohort rule {rule!r}; check the tables")
        return removed


def offsets_of(rows: np.ndarray) -> np.ndarray:
    """Return int64 [stays + 1]: stay i of ``rows[i]`` hourly rows owns rows ``offsets[i]:offsets[i + 1]``."""
    return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)


def hours_of(offsets: np.ndarray) -> np.ndarray:
    """Return the hour at which each row ends and its label stands: 1 for a stay's first row, [rows]."""
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets)) + 1


def value_columns(filled: np.ndarray, codes: Sequence[Sequence[float]]) -> np.ndarray:
    """Return channels [rows, channels] as float32 [rows, value columns].

    ``codes`` has for each channel nothing, for a number, or the code of each of its one-hot columns.
    """
    columns = (filled[:, channel, None] for channel in range(filled.shape[1]))
    parts = [
        column == np.array(code, np.float32) if len(code) else column
        for column, code in zip(columns, codes, strict=True)
    ]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def forward_fill(
    values: np.ndarray, observed: np.ndarray, offsets: np.ndarray, normal: np.ndarray
) -> np.ndarray:
    """Return values with unobserved cells at the stay's last observed value, or the channel's normal one.

    Row r of a stay depends on its rows 0..r only: no value moves back in time or between stays.

    ``values`` and ``observed`` are [rows, channels] in time order, ``normal`` is [channels], and stay i owns
    rows ``offsets[i]:offsets[i + 1]``.
    """
    rows = len(values)
    first = np.repeat(offsets[:-1], np.diff(offsets))
    position = np.arange(rows)
    filled = np.empty(values.shape, dtype=np.float32)
    for channel in range(values.shape[1]):
        last = np.maximum.accumulate(np.where(observed[:, channel] != 0, position, -1))
        seen = last >= first
        filled[:, channel] = np.where(seen, values[np.maximum(last, 0), channel], normal[channel])
    return filled
