"""What an audit reads: checked scores and labels, tolerances per pair, sorted pools with prefix sums."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from relif_core.audit.sorting import sorting_order
from relif_core.errors import InputError

Pair = tuple[str, str]
Tolerance = float | Mapping[Pair, float]

_BLOCK = 1024
_HALF = np.uint64(32)
_LOWER_HALF = np.uint64(2**32 - 1)


@dataclass(frozen=True, eq=False)
class Pool:
    """The scores of one task in ascending order; every exact quantity is read from this.

    ``values`` is float64 [n], ascending, without negative zeros.
    """

    values: np.ndarray

    @property
    def size(self) -> int:
        """Return the number of scores."""
        return len(self.values)

    @cached_property
    def prefix(self) -> np.ndarray:
        """Return prefix sums [n+1]: ``prefix[k]`` is the sum of the k smallest scores.

        Summed within blocks and then over blocks, so that rounding grows with the block length and the number of
        blocks instead of their product.
        """
        n = len(self.values)
        sums = np.zeros(n + 1)
        whole = n - n % _BLOCK
        blocks = sums[1 : whole + 1].reshape(-1, _BLOCK)
        np.cumsum(self.values[:whole].reshape(-1, _BLOCK), axis=1, out=blocks)
        if len(blocks) > 1:
            blocks[1:] += np.cumsum(blocks[:-1, -1])[:, None]
        if whole < n:
            sums[whole + 1 :] = np.cumsum(self.values[whole:]) + sums[whole]
        return sums


def task_pairs(tasks: Sequence[str]) -> list[Pair]:
    """Return the unordered task pairs (i, j), i before j in task order."""
    return list(itertools.combinations(tasks, 2))


def checked_scores(scores: Mapping[str, Any], least: int = 2) -> dict[str, np.ndarray]:
    """Return the scores as one-dimensional float arrays, or say what is wrong with them.

    Each array keeps float32 or float64; other real kinds become float64.

    Raises:
        InputError: fewer than ``least`` tasks, a task name that is no text, an empty pool, a wrong shape, a kind that is
            not numeric, NaN, or a score outside [0, 1].
    """
    if not isinstance(scores, Mapping):
        raise InputError(f"scores must map task names to score arrays, not be a {type(scores).__name__}")
    if len(scores) < least:
        raise InputError(
            f"an audit compares tasks and needs at least {'two' if least > 1 else 'one'}, got {len(scores)}: {list(scores)}"
        )
    return {task: _checked_pool(task, values) for task, values in scores.items()}


def _checked_pool(task: str, values: Any) -> np.ndarray:
    if not isinstance(task, str):
        raise InputError(f"task names must be text, got {task!r}")
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(
            f"task {task!r}: scores must be one-dimensional, got shape {array.shape}; pass one score per valid sample"
        )
    if array.size == 0:
        raise InputError(f"task {task!r}: the pool is empty; leave the task out or audit another split")
    if array.dtype.kind not in "fiub":
        raise InputError(f"task {task!r}: scores must be real numbers, got an array of {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    low, high = array.min(), array.max()
    if math.isnan(low):
        count = int(np.isnan(array).sum())
        raise InputError(
            f"task {task!r}: {count} of {array.size} scores are NaN; drop them before auditing, with their subjects"
        )
    if low < 0 or high > 1:
        count = int(((array < 0) | (array > 1)).sum())
        raise InputError(
            f"task {task!r}: {count} of {array.size} scores lie outside [0, 1] (smallest {low:g}, largest {high:g}); "
            "map the output to an audit score first"
        )
    return array


def checked_tolerances(tolerance: Tolerance, tasks: Sequence[str]) -> dict[Pair, float]:
    """Return one tolerance per task pair, in pair order.

    A number holds for every pair; a mapping must name every pair once, as (i, j) or (j, i).

    Raises:
        InputError: a tolerance that is negative, NaN, infinite or no number, a missing, unknown or doubled pair.
    """
    pairs = task_pairs(tasks)
    if not isinstance(tolerance, Mapping):
        value = checked_tolerance(tolerance, "tolerance")
        return dict.fromkeys(pairs, value)
    given: dict[frozenset[str], float] = {}
    for key, value in tolerance.items():
        if not (isinstance(key, tuple) and len(key) == 2 and key[0] != key[1] and set(key) <= set(tasks)):
            raise InputError(f"tolerance names {key!r}, which is no pair of the audited tasks {list(tasks)}")
        if frozenset(key) in given:
            raise InputError(
                f"tolerance names the pair {tuple(sorted(key))} twice; keep one of the two orders"
            )
        given[frozenset(key)] = checked_tolerance(value, f"tolerance of pair {key}")
    for pair in pairs:
        if frozenset(pair) not in given:
            raise InputError(f"tolerance of pair {pair} is missing; name every task pair or pass one number")
    return {pair: given[frozenset(pair)] for pair in pairs}


def checked_tolerance(value: Any, name: str) -> float:
    """Return ``value`` as a float that can serve as a tolerance: finite and at least 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} must be a number or a mapping from task pairs to numbers, got {value!r}"
        ) from None
    if math.isnan(number):
        raise InputError(f"{name} is NaN; fix it on calibration data before auditing")
    if number < 0:
        raise InputError(f"{name} is negative ({number:g}); a tolerance is a distance, at least 0")
    if math.isinf(number):
        raise InputError(f"{name} is infinite; no gap could exceed it")
    return number


def checked_labels(
    labels: Mapping[str, Any], scores: Mapping[str, np.ndarray], name: str
) -> dict[str, np.ndarray]:
    """Return one label per score for every task: subject ids or group labels, integers or text.

    Raises:
        InputError: a task without labels, labels that are misaligned with the scores or of another kind.
    """
    if not isinstance(labels, Mapping):
        raise InputError(f"{name} must map task names to arrays aligned with the scores")
    checked = {}
    for task, values in scores.items():
        if task not in labels:
            raise InputError(f"task {task!r}: {name} are missing; give one per score")
        array = np.asarray(labels[task])
        if array.shape != values.shape:
            raise InputError(
                f"task {task!r}: {name} are misaligned, {array.shape} against scores of shape {values.shape}; "
                "give one per score, in the same order"
            )
        if array.dtype.kind == "O":
            array = _plain(array, task, name)
        if array.dtype.kind not in "iubU":
            raise InputError(f"task {task!r}: {name} must be integers or text, got an array of {array.dtype}")
        if array.dtype == np.uint64 and array.max() >= 2**63:
            raise InputError(f"task {task!r}: {name} exceed 64-bit signed integers; pass them as text")
        checked[task] = array.astype(np.int64) if array.dtype in (bool, np.uint64) else array
    if len({array.dtype.kind == "U" for array in checked.values()}) > 1:
        raise InputError(f"{name} are integers for one task and text for another; use one kind for all tasks")
    return checked


def _plain(array: np.ndarray, task: str, name: str) -> np.ndarray:
    kinds = {type(item) for item in array.tolist()}
    if kinds <= {str}:
        return array.astype(str)
    if kinds <= {int}:
        return array.astype(np.int64)
    raise InputError(
        f"task {task!r}: {name} hold values of kind {sorted(kind.__name__ for kind in kinds)}; "
        "make all of them integers or all of them text"
    )


def sorted_pool(values: np.ndarray) -> Pool:
    """Sort one task's scores, once."""
    return _pool(np.sort(values))


def sorted_pool_with_codes(values: np.ndarray, codes: np.ndarray) -> tuple[Pool, np.ndarray]:
    """Sort one task's scores and carry each score's subject code along."""
    if values.dtype == np.float32:
        return _float32_pool_with_codes(values, codes)
    order = sorting_order(values)
    return _pool(values[order]), codes[order]


def _float32_pool_with_codes(values: np.ndarray, codes: np.ndarray) -> tuple[Pool, np.ndarray]:
    """As ``sorted_pool_with_codes``: the bits of a score and its code share one integer, so that a plain sort moves both.

    The bits of a float32 that is not negative sort as its value does. Codes stay below 2³²: no pool holds that many samples.
    """
    keys = (values + np.float32(0)).view(np.uint32).astype(np.uint64)
    keys <<= _HALF
    keys |= codes.view(np.uint64)
    keys.sort()
    ordered = (keys >> _HALF).astype(np.uint32).view(np.float32)
    keys &= _LOWER_HALF
    return _pool(ordered), keys.view(np.int64)


def _pool(ordered: np.ndarray) -> Pool:
    ordered = ordered.astype(np.float64, copy=False)
    ordered += 0.0  # a negative zero becomes a positive one, whose bits sort as its value does
    return Pool(ordered)
