"""Subject ids as consecutive integers: exact, and quick for integers and for short text."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from relif_core.audit.sorting import index_bits, indices, packed

_ROWS_TOGETHER = 64
_TEXT_BLOCK = 1 << 13


def subject_codes(subjects: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the distinct subject ids of all tasks, ascending, and per task each sample's index in them."""
    distinct: list[np.ndarray] = []
    place: dict[str, int] = {}
    for task, array in subjects.items():
        known = (k for k, other in enumerate(distinct) if other is array or np.array_equal(other, array))
        place[task] = next(known, len(distinct))
        if place[task] == len(distinct):
            distinct.append(array)
    ids, codes = _ids_and_codes(distinct)
    parts = np.split(codes, np.cumsum([len(array) for array in distinct])[:-1])
    return ids, {task: parts[k] for task, k in place.items()}


def fingerprint(sizes: Mapping[str, int], ids: np.ndarray | None, members: Iterable[np.ndarray]) -> str:
    """Hash which subjects lie in which pool: its sizes, their ids, and per pool their numbers or weights.

    Without subject ids only the sizes and the weights are known.
    """
    text = "".join(f"{task}\0{size}\0" for task, size in sizes.items())
    digest = hashlib.sha256(text.encode(errors="surrogatepass"))
    if ids is not None and ids.dtype.kind == "U":
        digest.update("\0".join(ids.tolist()).encode(errors="surrogatepass"))
    elif ids is not None:
        digest.update(ids.astype(np.int64).tobytes())
    for own in members:
        digest.update((np.round(own, 12) if own.dtype.kind == "f" else own.astype(np.int64)).tobytes())
    return digest.hexdigest()[:32]


def _ids_and_codes(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return ``np.unique`` of all arrays with inverse, quickly for ids that are, or read as, integers."""
    kind = np.result_type(*arrays)
    if kind.kind != "U":
        ids, codes = _distinct_integers(np.concatenate(arrays, dtype=np.int64))
        return ids.astype(kind, copy=False), codes
    tables = [
        np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.uint32).reshape(array.size, -1)
        for array in arrays
    ]
    alphabet = _Alphabet.of(tables)
    if alphabet is None:
        ids, codes = np.unique(np.concatenate(arrays), return_inverse=True)
        return ids, codes
    numbers, codes = _distinct_integers(np.concatenate([alphabet.numbers(table) for table in tables]))
    return alphabet.text(numbers), codes


def _distinct_integers(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct int64 ``numbers``, ascending, and all indices into them; overwrites ``numbers``."""
    low = int(numbers.min())
    width, bits = int(numbers.max()) - low, index_bits(numbers.size)
    if width.bit_length() + bits > 64:
        distinct, codes = np.unique(numbers, return_inverse=True)
        return distinct, codes
    numbers -= low
    if width < 4 * numbers.size + 1024:
        present = np.zeros(width + 1, dtype=bool)
        present[numbers] = True
        ranks = np.cumsum(present)
        ranks -= 1
        return np.flatnonzero(present) + low, ranks[numbers]
    keys = packed(numbers.view(np.uint64))
    ordered = keys >> np.uint64(bits)
    order = indices(keys)
    first = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    ranks = np.cumsum(first)
    ranks -= 1
    codes = np.empty(numbers.size, dtype=np.int64)
    codes[order] = ranks
    return ordered[first].view(np.int64) + low, codes


@dataclass(frozen=True)
class _Alphabet:
    """Text as mixed-radix numbers that sort alike: per place the least character and how many follow."""

    low: list[int]
    radix: list[int]

    @classmethod
    def of(cls, tables: Sequence[np.ndarray]) -> "_Alphabet | None":
        """Return the alphabet of tables of characters [n, places]; None where its numbers exceed 63 bits."""
        places = max(table.shape[1] for table in tables)
        # Shorter text is text that ends in null characters.
        low = np.min([_padded(_over_rows(np.minimum, table), places) for table in tables], axis=0)
        high = np.max([_padded(_over_rows(np.maximum, table), places) for table in tables], axis=0)
        radix = (high.astype(np.int64) - low + 1).tolist()
        return cls(low.tolist(), radix) if math.prod(radix) < 2**63 else None

    def numbers(self, table: np.ndarray) -> np.ndarray:
        """Read every row of a table of characters as a number, a cached block of rows at a time."""
        numbers = np.zeros(len(table), dtype=np.int64)
        for start in range(0, len(table), _TEXT_BLOCK):
            rows, places = numbers[start : start + _TEXT_BLOCK], table[start : start + _TEXT_BLOCK].T
            for place, (low, base) in enumerate(zip(self.low, self.radix, strict=True)):
                if base > 1:
                    rows *= base
                    if place < len(places):
                        rows += places[place]
                    rows -= low
        return numbers

    def text(self, numbers: np.ndarray) -> np.ndarray:
        """Write numbers [n] as text again."""
        table = np.empty((len(numbers), len(self.low)), dtype=np.uint32)
        table[:] = self.low
        for place in reversed(range(len(self.low))):
            if self.radix[place] > 1:
                numbers, digits = np.divmod(numbers, self.radix[place])
                table[:, place] += digits.astype(np.uint32)
        return table.view(f"U{len(self.low)}").reshape(-1)


def _over_rows(extreme: np.ufunc, table: np.ndarray) -> np.ndarray:
    """Return the least or greatest value of every column, many rows at a time."""
    places = table.shape[1]
    together = (len(table) - 1) // _ROWS_TOGETHER * _ROWS_TOGETHER
    found = extreme.reduce(table[together:])
    if together:
        long_rows = extreme.reduce(table[:together].reshape(-1, _ROWS_TOGETHER * places))
        found = extreme(found, extreme.reduce(long_rows.reshape(-1, places)))
    return found


def _padded(columns: np.ndarray, places: int) -> np.ndarray:
    return np.pad(columns, (0, places - len(columns)))
