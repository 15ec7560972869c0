"""The door for arrays from outside: pandas, polars, torch, masked arrays and lists become NumPy arrays.

No library is imported here: each is known by its methods.
"""

import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from relif_core.errors import InputError, listed

#: Text that conversions leave where a label was missing.
MISSING_TEXT = ("", "nan", "NaN", "NaT", "None", "<NA>")


@dataclass(frozen=True, eq=False)
class Given:
    """An array from outside: its values, what is missing, what is masked, and a pandas Series' index.

    A masked entry was left out on purpose; a missing one (None, NaN object, NA, null) may be forgotten.
    """

    values: np.ndarray
    missing: np.ndarray | None = None
    masked: np.ndarray | None = None
    index: Any = None

    @property
    def absent(self) -> np.ndarray | None:
        """Return which entries are missing, or masked where there is a mask; None where none is known."""
        return self.missing if self.masked is None else self.masked

    def taken(self, places: np.ndarray) -> "Given":
        """Return the entries at ``places`` (positions or a mask); their own mask is used up."""
        missing = None if self.missing is None else self.missing[places]
        return Given(self.values[places], missing if missing is not None and missing.any() else None)


def given(values: Any, name: str) -> Given:
    """Return ``values`` as a NumPy array; ``InputError``, which calls them ``name``, if they make none."""
    try:
        if hasattr(values, "detach") and hasattr(values, "cpu"):
            tensor = values.detach().cpu()
            short = tensor.is_floating_point() and tensor.element_size() < 4
            return Given((tensor.float() if short else tensor).numpy())
        if isinstance(values, np.ma.MaskedArray):
            return Given(np.asarray(values.data), masked=np.ma.getmaskarray(values))
        index = None
        missing = None
        drop = getattr(values, "dropna", None) or getattr(values, "drop_nulls", None)
        if drop and hasattr(values, "to_numpy") and (hasattr(values, "isna") or hasattr(values, "is_null")):
            index = getattr(values, "index", None) if hasattr(values, "isna") else None
            missing = np.asarray(values.isna() if hasattr(values, "isna") else values.is_null(), dtype=bool)
            if missing.any() and missing.ndim == 1:
                whole = given(drop(), name).values
                filled = np.zeros(len(missing), dtype=whole.dtype)
                filled[~missing] = whole
                return Given(filled, missing, index=index)
            values = values.to_numpy()
        array = _array(values)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} cannot be read as an array ({type(error).__name__}: {error})") from error
    if array.dtype.kind == "O" and array.ndim == 1:
        absent = np.fromiter((_is_missing(item) for item in array), bool, len(array))
        missing = absent if absent.any() else None
        try:
            array = _of_one_kind(array, absent)
        except OverflowError:
            raise InputError(f"{name} holds whole numbers beyond 64 bits; give them as text") from None
    return Given(array, missing if missing is not None and missing.any() else None, index=index)


def _array(values: Any) -> np.ndarray:
    """Return ``np.asarray``, but a list of text and other things does not become all text."""
    array = np.asarray(values)
    mixed = isinstance(values, list | tuple) and not all(isinstance(item, str) for item in values)
    if array.dtype.kind == "T":  # text of NumPy that differs in length
        return array.astype(object)
    return np.array(values, dtype=object) if mixed and array.dtype.kind in "US" else array


def _is_missing(item: Any) -> bool:
    return (
        item is None
        or type(item).__name__ in ("NAType", "NaTType")
        or (isinstance(item, float | np.floating) and item != item)
    )


def _of_one_kind(array: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return objects that are all text, integers or real numbers as such an array; others as they are."""
    held = array[~missing]
    kinds = {type(item) for item in held.tolist()}
    for kind, dtype in (
        (str, None),
        (bool | np.bool_, bool),
        (numbers.Integral, np.int64),
        (numbers.Real | Decimal, np.float64),
    ):
        if kinds and all(issubclass(own, kind) for own in kinds):
            converted = held.astype(str if dtype is None else dtype)
            filled = np.zeros(len(array), dtype=converted.dtype)
            filled[~missing] = converted
            return filled
    return array


def is_number(value: Any, kind: type = numbers.Real) -> bool:
    """Tell a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def missing_text(array: np.ndarray) -> np.ndarray:
    """Tell which entries of a text array read like a missing one."""
    found = np.zeros(len(array), dtype=bool)
    if array.nbytes == 0:
        return ~found
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    first = native.view(np.uint32).reshape(len(array), -1)[:, 0]
    for start in {ord(word[0]) if word else 0 for word in MISSING_TEXT}:
        found |= first == start
    places = np.flatnonzero(found)
    found[places] = np.isin(array[places], MISSING_TEXT)
    return found


def is_frame(values: Any) -> bool:
    """Tell a data frame (pandas, polars) from a mapping."""
    # To ask a lazy frame, which has no to_numpy, for its columns is a warning.
    return hasattr(values, "to_numpy") and hasattr(values, "columns") and not isinstance(values, Mapping)


def columns(frame: Any, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the columns of a frame by name, ``leave`` aside; ``InputError`` where it has none or two."""
    names = list(frame.columns)
    for name in leave:
        if name not in names:
            raise InputError(f"the frame has no column {name!r}; it has {listed(names)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the frame has two columns {twice!r}; rename one")
    return {name: frame[name] for name in names if name not in leave}


def over_tasks(labels: Any, tasks: Iterable[str], rest: Any, what: str) -> Any:
    """Return labels by task: those of a column beside the tasks, or of rows that all tasks share, for each.

    ``InputError`` for a column that ``rest`` does not have.
    """
    if labels is None or isinstance(labels, Mapping):
        return labels
    if isinstance(labels, str):
        if labels not in rest:
            known = listed(rest) or "no other columns"
            raise InputError(f"{what} {labels!r} is no column beside the tasks; there are {known}")
        labels = rest[labels]
    return dict.fromkeys(tasks, labels)


def refuse_cells_as_names(path: object, names: Sequence[str]) -> None:
    """Refuse (``InputError``) names of columns that are cells: messages would repeat a person's row.

    A number with a decimal point heads a table without header; a name over several lines has an open quote.
    """
    decimal = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*")
    if cells := sum("\n" in name or decimal.fullmatch(name) is not None for name in names):
        raise InputError(
            f"{path}: {cells} of the {len(names)} names in its first line are numbers or run on in the next;"
            " put a line with the names of the columns above the data"
        )
