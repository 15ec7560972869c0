"""What an audit reads: checked scores and labels, tolerances per pair, sorted pools with prefix sums."""

import itertools
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from relif_core.audit.door import Given, columns, given, is_frame, is_number, missing_text
from relif_core.audit.sorting import sorted_with_order
from relif_core.audit.subject_ids import subject_codes
from relif_core.errors import InputError, listed

Pair = tuple[str, str]
Tolerance = float | Mapping[Pair, float]

#: Scores may leave [0, 1] by so many units in the last place.
FEW_ULP = 8

_BLOCK = 1024
_HALF = np.uint64(32)
_LOWER_HALF = np.uint64(2**32 - 1)


@dataclass(frozen=True, eq=False)
class Pool:
    """The scores of one task in ascending order; every exact quantity is read from this.

    Attributes:
        values: float64 [n], ascending, without negative zeros.
        weights: [n] of sum 1, where samples are weighted.
        codes: [n], each score's subject, where subjects are known.
    """

    values: np.ndarray
    weights: np.ndarray | None = None
    codes: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Return the number of scores."""
        return len(self.values)

    @cached_property
    def prefix(self) -> np.ndarray:
        """Return prefix sums [n+1]: ``prefix[k]`` is the sum of the k smallest scores.

        Summed within blocks and then over blocks, so that rounding grows with the block length and the number
        of blocks instead of their product.
        """
        n = len(self.values)
        sums = np.zeros(n + 1)
        if n <= _BLOCK:
            np.cumsum(self.values, out=sums[1:])
            return sums
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


class Scores(dict[str, np.ndarray]):
    """Checked scores by task, and what labels need to know to be aligned with them.

    ``given`` holds the arrays as they came; ``kept`` per task which entries are in the pool, None where all
    are; ``notes`` what was put right.
    """

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Given] = {}
        self.kept: dict[str, np.ndarray | None] = {}
        self.notes: list[str] = []


def checked_scores(scores: Any, least: int = 2) -> Scores:
    """Return the scores of at least so many tasks as one-dimensional arrays; ``InputError`` for others.

    Each array keeps float32 or float64; other real kinds become float64. Masked scores are in no pool. In a
    data frame every column is a task and an empty cell is in no pool. Scores that rounding took a few units
    in the last place out of [0, 1] are put back, with a note.
    """
    frame = is_frame(scores)
    if frame:
        scores = columns(scores)
    if not isinstance(scores, Mapping):
        raise InputError(
            "scores must map task names to score arrays, or be a data frame of them, not a"
            f" {type(scores).__name__}"
        )
    if len(scores) < least:
        raise InputError(
            f"an audit compares tasks and needs at least {'two' if least > 1 else 'one'}, got {len(scores)}:"
            f" {listed(scores)}"
        )
    checked = Scores()
    for task, values in scores.items():
        if not isinstance(task, str):
            raise InputError(f"task names must be text, got {task!r}")
        found = given(values, f"task {task!r}: scores")
        if task in (indices := getattr(scores, "indices", {})):
            found = replace(found, index=indices[task])
        checked.given[task] = found
        checked.kept[task] = _kept(found, frame)
        checked[task] = _checked_pool(task, found, checked.kept[task], checked.notes)
    return checked


def _kept(found: Given, frame: bool) -> np.ndarray | None:
    if found.masked is not None:
        return ~found.masked
    if not frame or found.values.dtype.kind not in "fiubO" or found.values.ndim != 1:
        return None
    missing = np.isnan(found.values) if found.values.dtype.kind == "f" else np.zeros(len(found.values), bool)
    return ~missing if found.missing is None else ~(missing | found.missing)


def _checked_pool(task: str, found: Given, kept: np.ndarray | None, notes: list[str]) -> np.ndarray:
    array = found.values
    if array.ndim != 1:
        raise InputError(
            f"task {task!r}: scores must be one-dimensional, got shape {array.shape}; pass one score per"
            " valid sample"
        )
    if kept is not None:
        found = found.taken(kept)
        array = found.values
    if array.size == 0:
        raise InputError(f"task {task!r}: the pool is empty; leave the task out or audit another split")
    if found.missing is not None:
        raise InputError(
            f"task {task!r}: {int(found.missing.sum())} of {array.size} scores are missing; drop them before"
            " auditing, with their subjects"
        )
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"task {task!r}: scores must be real numbers, got an array of {array.dtype}; name the score"
            " columns alone"
        )
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    low, high = array.min(), array.max()
    if math.isnan(low):
        count = int(np.isnan(array).sum())
        raise InputError(
            f"task {task!r}: {count} of {array.size} scores are NaN; drop them before auditing, with their"
            " subjects"
        )
    if low < 0 or high > 1:
        count = int(((array < 0) | (array > 1)).sum())
        slack = FEW_ULP * np.finfo(array.dtype).eps
        if low < -slack or high > 1 + slack:
            raise InputError(
                f"task {task!r}: {count} of {array.size} scores lie outside [0, 1] (smallest {low!s}, largest"
                f" {high!s}); map the output to an audit score first"
            )
        notes.append(
            f"task {task!r}: {count} of {array.size} scores lay outside [0, 1] by rounding and were put back"
        )
        array = np.clip(array, 0, 1)
    return array


def checked_tolerances(tolerance: Tolerance, tasks: Sequence[str]) -> dict[Pair, float]:
    """Return one tolerance per task pair, in pair order; ``InputError`` for a pair without one.

    A number holds for every pair; a mapping must name every pair once, as (i, j) or (j, i).
    """
    pairs = task_pairs(tasks)
    if not isinstance(tolerance, Mapping):
        value = checked_tolerance(tolerance, "tolerance")
        return dict.fromkeys(pairs, value)
    found = {frozenset(pair): value for pair, value in pair_tolerances(tolerance, "tolerance", tasks).items()}
    for pair in pairs:
        if frozenset(pair) not in found:
            raise InputError(f"tolerance of pair {pair} is missing; name every task pair or pass one number")
    return {pair: found[frozenset(pair)] for pair in pairs}


def pair_tolerances(
    tolerances: Mapping[Pair, float], name: str, tasks: Sequence[str] | None = None
) -> dict[Pair, float]:
    """Return tolerances by pair (of ``tasks``), checked; ``InputError`` for none or one given twice.

    Messages call a tolerance ``name``.
    """
    checked: dict[Pair, float] = {}
    for pair, value in tolerances.items():
        known = isinstance(pair, tuple) and all(isinstance(task, str) for task in pair)
        if not (
            known and len(pair) == 2 and pair[0] != pair[1] and (tasks is None or set(pair) <= set(tasks))
        ):
            which = "two tasks" if tasks is None else f"the audited tasks {listed(tasks)}"
            raise InputError(f"{name} names {pair!r}, which is no pair of {which}")
        if pair[::-1] in checked:
            raise InputError(f"{name} names the pair {tuple(sorted(pair))} twice; keep one of the two orders")
        checked[pair] = checked_tolerance(value, f"{name} of pair {pair}")
    return checked


def checked_tolerance(value: Any, name: str) -> float:
    """Return ``value`` as a float in [0, 1], fit for a tolerance; refuse others (``InputError``)."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if not is_number(value):
        raise InputError(f"{name} must be a number or a mapping from task pairs to numbers, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number):
        raise InputError(f"{name} is NaN; fix it on calibration data before auditing")
    if number < 0:
        raise InputError(f"{name} is negative ({number:g}); a tolerance is a distance, at least 0")
    if math.isinf(number):
        raise InputError(f"{name} is infinite; no gap could exceed it")
    if number > 1:
        raise InputError(
            f"{name} is {number!r}, and no gap between scores in [0, 1] can exceed it; "
            "if it is a percentage, divide it by 100"
        )
    return number + 0.0  # a negative zero becomes a positive one


def checked_labels(labels: Any, scores: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return one label per score for every task: subject ids or group labels, integers or text.

    ``InputError`` for labels that are misaligned with the scores, missing or of another kind.
    """
    checked = {}
    for task in scores:
        array = labels_of(of_task(labels, task, scores, name), f"task {task!r}: ", name)
        if array.dtype == np.uint64 and array.max() >= 2**63:
            raise InputError(f"task {task!r}: {name} exceed 64-bit signed integers; pass them as text")
        checked[task] = array.astype(np.int64) if array.dtype in (bool, np.uint64) else array
    if len({array.dtype.kind == "U" for array in checked.values()}) > 1:
        raise InputError(f"{name} are integers for one task and text for another; use one kind for all tasks")
    return checked


def labels_of(array: np.ndarray, place: str, name: str) -> np.ndarray:
    """Return ids or labels [n], integers or text; ``InputError`` for others."""
    if array.ndim != 1:
        raise InputError(f"{place}{name} must be one-dimensional, got shape {array.shape}")
    if array.dtype.kind == "O" and array.size:
        kinds = sorted({type(item).__name__ for item in array.tolist()})
        raise InputError(
            f"{place}{name} hold values of kind {listed(kinds)}; make all of them integers or all of"
            " them text"
        )
    if array.dtype.kind not in "iubU" and array.size:
        raise InputError(f"{place}{name} must be integers or text, got an array of {array.dtype}")
    return array


def of_task(values: Any, task: str, scores: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return a task's rows of a mapping (:func:`aligned`); ``InputError`` where it has none."""
    if not isinstance(values, Mapping):
        raise InputError(f"{name} must map task names to arrays aligned with the scores")
    if task not in values:
        raise InputError(f"task {task!r}: {name} are missing; give one per score")
    return aligned(values[task], task, scores, name)


def aligned(values: Any, task: str, scores: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return the rows of ``values`` [n, ...] that belong to a task's scores, in their order, none missing.

    Where scores and values are both pandas Series (or frames), rows are matched by index. ``InputError`` for
    another number of rows than scores; messages call them ``name``.
    """
    own = given(values, f"task {task!r}: {name}")
    there = scores.given[task] if isinstance(scores, Scores) else Given(scores[task])
    own = in_order(own, there.index, name, "scores", f"task {task!r}: ")
    shape = there.values.shape
    if own.values.shape[:1] != shape:
        raise InputError(
            f"task {task!r}: {name} are misaligned, {own.values.shape} against scores of shape {shape}; "
            "give one per score, in the same order"
        )
    kept = scores.kept[task] if isinstance(scores, Scores) else None
    if kept is not None:
        own = Given(own.values, own.absent).taken(kept)
    return present(own, f"task {task!r}: ", name)


def pool_index(scores: Mapping[str, np.ndarray], task: str) -> Any:
    """Return the pandas index of a task's pool, None where it has none."""
    index, kept = (scores.given[task].index, scores.kept[task]) if isinstance(scores, Scores) else (None,) * 2
    return index if index is None or kept is None else index[kept]


def present(found: Given, place: str, name: str) -> np.ndarray:
    """Return the values, or refuse (``InputError``) those of which some are missing or masked."""
    missing, array = found.absent, found.values
    if missing is None and array.ndim == 1 and array.dtype.kind in "fU":
        missing = np.isnan(array) if array.dtype.kind == "f" else missing_text(array)
    if missing is not None and missing.any():
        raise InputError(
            f"{place}{int(missing.sum())} of {len(array)} {name} are missing (first at position "
            f"{int(np.argmax(missing))}); fill them in, or leave those samples out"
        )
    return array


def in_order(own: Given, index: Any, name: str, others: str, place: str = "") -> Given:
    """Return ``own`` in the order of the pandas index that ``others`` have; as it is where one has none.

    ``InputError`` for indices that do not match.
    """
    if own.index is None or index is None or index.equals(own.index):
        return own
    if not (own.index.is_unique and index.is_unique):
        raise InputError(
            f"{place}{name} and {others} have different indices with repeated entries; "
            "reset both indices in the same order"
        )
    places = own.index.get_indexer(index)
    if (places < 0).any():
        raise InputError(
            f"{place}{int((places < 0).sum())} of {len(places)} {others} have an index entry that"
            f" {name} lack; take both from one frame, or pass arrays in the same order"
        )
    return own.taken(places)


def row_index(values: Any) -> Any:
    """Return the index of a pandas Series or frame, None of anything else."""
    return getattr(values, "index", None) if hasattr(values, "isna") else None


def checked_tasks(tasks: Any) -> tuple[str, ...]:
    """Return the names of at least two tasks, each once, or refuse (``InputError``) anything else."""
    names = () if isinstance(tasks, str) or not isinstance(tasks, Iterable) else tuple(tasks)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < 2:
        raise InputError(
            f"an audit compares tasks and needs at least two, named by text, got {listed(names or [tasks])}"
        )
    if len(set(names)) < len(names):
        raise InputError(f"the tasks {listed(names)} name one twice; name each once")
    return names


def checked_numbers(values: Any, name: str, dimensions: int) -> np.ndarray:
    """Return real numbers of so many dimensions as float64; ``InputError`` for others, NaN aside."""
    found = given(values, name)
    array = found.values
    if array.ndim != dimensions or array.dtype.kind not in "fiub":
        shape = "[n]" if dimensions == 1 else "[n, D]"
        raise InputError(f"{name} must be numbers of shape {shape}, got shape {array.shape} of {array.dtype}")
    if (missing := found.absent) is not None and missing.any():
        raise InputError(f"{int(missing.sum())} of {len(array)} {name} are missing; leave them out")
    return array.astype(np.float64, copy=False)


def checked_integer(value: Any, name: str, least: int) -> int:
    """Return an integer from ``least`` on that files hold, or refuse (``InputError``) anything else."""
    if not is_number(value, numbers.Integral) or not least <= value < 2**63:
        raise InputError(f"{name} must be an integer of at least {least}, got {value!r}; 2^63 is too large")
    return int(value)


def checked_fraction(value: Any, name: str) -> float:
    """Return a number between 0 and 1, both excluded, or refuse (``InputError``) anything else."""
    if not is_number(value) or not 0 < value < 1:
        raise InputError(f"{name} must lie between 0 and 1, got {value!r}")
    return float(value)


def checked_weights(weights: Any, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return one finite weight per score for every task, some above 0; ``InputError`` for others."""
    checked = {}
    for task in scores:
        array = of_task(weights, task, scores, "weights")
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise InputError(f"task {task!r}: weights must be real numbers, got an array of {array.dtype}")
        array = array.astype(np.float64)
        wrong = int(np.count_nonzero(~np.isfinite(array) | (array < 0)))
        if wrong or not 0 < array.sum() < math.inf:
            raise InputError(
                f"task {task!r}: {wrong} of {len(array)} weights are negative or infinite; weights are at"
                " least 0 and some are above"
            )
        checked[task] = array
    return checked


def sorted_pool(
    values: np.ndarray, codes: np.ndarray | None = None, weights: np.ndarray | None = None
) -> Pool:
    """Sort one task's scores, once, and carry each one's subject code and weight along.

    Float32 scores and their codes (< 2³²: no pool holds that many samples) share an integer, which is sorted:
    the bits of a float32 that is not negative sort as its value does.
    """
    if weights is None and codes is None:
        ordered = np.sort(values)
    elif weights is None and codes is not None and values.dtype == np.float32:
        keys = (values + np.float32(0)).view(np.uint32).astype(np.uint64)
        keys <<= _HALF
        keys |= codes.view(np.uint64)
        keys.sort()
        ordered = (keys >> _HALF).astype(np.uint32).view(np.float32)
        keys &= _LOWER_HALF
        codes = keys.view(np.int64)
    else:
        ordered, order = sorted_with_order(values)
        codes = None if codes is None else codes[order]
        weights = None if weights is None else weights[order] / weights.sum()
    ordered = ordered.astype(np.float64, copy=False)
    ordered += 0.0  # a negative zero becomes a positive one, whose bits sort as its value does
    return Pool(ordered, weights, codes)


@dataclass(frozen=True, eq=False)
class Pools:
    """The checked samples of all tasks: what every audit is made from.

    Attributes:
        scores: Task → scores [n].
        tolerances: δ of every task pair, 0 if none was asked for.
        ids: The distinct subjects [G], ascending; None where none are known.
        codes: Task → each sample's subject, its place in ``ids`` [n]; empty without subjects.
        weights: Task → weights [n]; empty where all samples weigh alike.
    """

    scores: dict[str, np.ndarray]
    tolerances: dict[Pair, float]
    ids: np.ndarray | None = None
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        scores: Any,
        tolerance: Any = 0.0,
        subjects: Any = None,
        weights: Any = None,
        *,
        clustered: bool = False,
        least: int = 2,
    ) -> "Pools":
        """Return what an audit is given, checked; ``clustered`` ones need subjects, all ``least`` tasks.

        Pools in place of scores were checked before and bring their subjects and weights.
        """
        if isinstance(scores, cls):
            return replace(scores, tolerances=checked_tolerances(tolerance, list(scores.scores)))
        checked = checked_scores(scores, least)
        tolerances = checked_tolerances(tolerance, list(checked))
        known = subjects is not None or clustered
        ids, codes = subject_codes(checked_labels(subjects, checked, "subjects")) if known else (None, {})
        return cls(
            checked, tolerances, ids, codes, {} if weights is None else checked_weights(weights, checked)
        )

    @property
    def notes(self) -> list[str]:
        """Return what was put right in the input and what a reader has to know of it."""
        whole = [
            f"no gap can exceed the tolerance 1 of {pair}"
            for pair, own in self.tolerances.items()
            if own == 1
        ]
        weighted = ["samples are drawn in proportion to their weights"] * bool(self.weights)
        return [*getattr(self.scores, "notes", ()), *whole, *weighted]

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of samples of every task."""
        return {task: len(values) for task, values in self.scores.items()}

    @property
    def people(self) -> int:
        """Return the number of subjects, 0 where none are known."""
        return 0 if self.ids is None else len(self.ids)

    def taken(self, places: Mapping[str, np.ndarray]) -> "Pools":
        """Return the samples at every task's ``places`` (positions or a mask), with their subjects alone."""
        scores, codes, weights = (
            {task: own[places[task]] for task, own in held.items()}
            for held in (self.scores, self.codes, self.weights)
        )
        if self.ids is None:
            return replace(self, scores=scores, weights=weights)
        held, codes = subject_codes(codes)
        return Pools(scores, self.tolerances, self.ids[held], codes, weights)

    def weighty(self) -> "Pools":
        """Return the samples that weigh anything."""
        return self.taken({task: own > 0 for task, own in self.weights.items()}) if self.weights else self

    def apart(self) -> "Pools":
        """Return the same samples, each a subject of its own."""
        codes = distinct_codes(self.sizes)
        return replace(self, ids=np.arange(sum(self.sizes.values())), codes=codes)

    def sorted(self) -> dict[str, Pool]:
        """Return every task's samples in ascending order of their scores."""
        return {
            task: sorted_pool(own, self.codes.get(task), self.weights.get(task))
            for task, own in self.scores.items()
        }


def distinct_codes(sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return subject codes of so many samples per task that no two of them share."""
    ends = np.cumsum(list(sizes.values())).tolist()
    return {task: np.arange(end - size, end) for (task, size), end in zip(sizes.items(), ends, strict=True)}
