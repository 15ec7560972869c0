"""Sorting permutations at the cost of a plain sort: key and index, or key and label, share one integer."""

import numpy as np

_SMALL = 1 << 12


def sorted_with_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores in [0, 1] sorted, and the permutation that does it, in about the time of sorting them.

    Their leading bits are sorted together with their indices; scores that agree there are put right by a
    stable sort, which takes linear time on a nearly sorted array.
    """
    if len(values) < _SMALL:
        order = np.argsort(values, kind="stable")
        return values[order], order
    scale = 2.0 ** (63 - index_bits(len(values)))
    order = indices(packed((values.astype(np.float64) * scale).astype(np.uint64)))
    ordered = values[order]
    if np.any(ordered[1:] < ordered[:-1]):
        order = order[np.argsort(ordered, kind="stable")]
        ordered = values[order]
    return ordered, order


def stable_order(codes: np.ndarray) -> np.ndarray:
    """Return a permutation that sorts codes from 0 on and keeps the order of equal ones; linear below 2¹⁶."""
    return np.argsort(codes.astype(np.uint16) if codes.max() < 1 << 16 else codes, kind="stable")


def index_bits(size: int) -> int:
    """Return the bits that an index below ``size`` takes, at least 1."""
    return max(1, (size - 1).bit_length())


def packed(keys: np.ndarray) -> np.ndarray:
    """Sort uint64 ``keys`` in place, each together with its index in the lower ``index_bits`` of one integer.

    Keys must leave that many upper bits free; equal keys keep their order.
    """
    keys <<= np.uint64(index_bits(len(keys)))
    keys |= np.arange(len(keys), dtype=np.uint64)
    keys.sort()
    return keys


def indices(packed: np.ndarray) -> np.ndarray:
    """Return the indices that sorted, packed keys carry; ``packed`` is overwritten."""
    packed &= np.uint64((1 << index_bits(len(packed))) - 1)
    return packed.view(np.int64)
