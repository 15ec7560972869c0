"""The linear passes of the exact audit in machine code, where numba is installed and the work is large.

Counts are NumPy's, sums agree with its to rounding, and no array is made but the results. Loading numba takes
seconds, so smaller audits stay with NumPy until a large one has loaded it.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

#: So many scores over all task pairs and tolerances make loading numba worthwhile.
WORTH_LOADING = 100_000_000
#: More than rounding moves a score and a tolerance of at most 1.
ROUNDING = 2.0**-50


class Passes(NamedTuple):
    """The passes, each named as the function of NumPy whose place it takes."""

    cross_both: Callable[..., None]
    sample_terms: Callable[..., None]
    one_sided: Callable[..., tuple[float, int]]
    powers: Callable[..., tuple[float, float]]
    subject_sums: Callable[..., None]


_loaded: list[Passes] = []


def loaded(work: int = 0) -> Passes | None:
    """Return the compiled passes; None unless loaded or worth loading for ``work``, a number of scores."""
    if not _loaded and work >= WORTH_LOADING:
        with contextlib.suppress(ImportError):  # numba is missing, or does not fit this NumPy
            load()
    return _loaded[0] if _loaded else None


def load() -> None:
    """Make later audits of this process use the compiled passes; ``ImportError`` without numba."""
    import numba

    if not _loaded:
        try:
            _loaded.append(Passes._make(map(numba.njit(nogil=True, cache=True), AS_WRITTEN)))
        except RuntimeError:  # no folder to keep machine code in can be written
            _loaded.append(Passes._make(map(numba.njit(nogil=True), AS_WRITTEN)))


def _cross_both(
    first: np.ndarray,
    second: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    tolerance: float,
    within: tuple[np.ndarray, np.ndarray],
    exceeded: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    """Count as ``exact.cross_both`` does: two merges without a branch that could be guessed wrong.

    They share a loop, so that neither waits for the other's loads.
    """
    start, begin = 0, 0
    for part in range(len(ends[0])):
        end, stop = ends[0][part], ends[1][part]
        i, k = start, begin
        j = begin + np.searchsorted(second[begin:stop], first[start] + tolerance - ROUNDING)
        m = start + np.searchsorted(first[start:end], second[begin] + tolerance - ROUNDING)
        if exceeded is not None:
            exceeded[1][begin:j], exceeded[0][start:m] = 0, 0
        while i < end and j < stop and k < stop and m < end:
            up = second[j] - first[i] <= tolerance
            down = first[m] - second[k] <= tolerance
            within[0][i], within[1][k] = j - begin, m - start
            if exceeded is not None:
                exceeded[1][j], exceeded[0][m] = i - start, k - begin
            i += not up
            j += up
            k += not down
            m += down
        while i < end and j < stop:
            up = second[j] - first[i] <= tolerance
            within[0][i] = j - begin
            if exceeded is not None:
                exceeded[1][j] = i - start
            i += not up
            j += up
        while k < stop and m < end:
            down = first[m] - second[k] <= tolerance
            within[1][k] = m - start
            if exceeded is not None:
                exceeded[0][m] = k - begin
            k += not down
            m += down
        within[0][i:end], within[1][k:stop] = j - begin, m - start
        if exceeded is not None:
            exceeded[1][j:stop], exceeded[0][m:end] = i - start, k - begin
        start, begin = end, stop


def _sample_terms(
    values: np.ndarray, prefix: np.ndarray, tolerance: float, excess: np.ndarray, rate: np.ndarray
) -> None:
    """Turn counts into terms as ``exact.sample_terms`` does."""
    size = len(prefix) - 1
    within, exceeded = excess.view(np.int64), rate.view(np.int64)
    for k in range(len(values)):
        above, under = size - within[k], exceeded[k]
        if above + under == 0:
            excess[k] = rate[k] = 0
            continue
        mean = prefix[size] - (prefix[within[k]] + prefix[under])
        mean -= (values[k] + tolerance) * above
        mean += (values[k] - tolerance) * under
        excess[k] = mean / size
        rate[k] = (above + under) / size


def _one_sided(
    values: np.ndarray, prefix: np.ndarray, tolerance: float, within: np.ndarray
) -> tuple[float, int]:
    """Sum as ``exact.one_sided`` does."""
    size = len(prefix) - 1
    total, violations = 0.0, 0
    for start in range(0, len(values), 1024):
        excess = 0.0
        for k in range(start, min(start + 1024, len(values))):
            above = size - within[k]
            violations += above
            excess += prefix[size] - (prefix[within[k]] + (values[k] + tolerance) * above)
        if within[start] == size:
            break
        total += excess
    return total, violations


def _powers(values: np.ndarray, centre: float) -> tuple[float, float]:
    """Sum as ``exact.powers`` does."""
    square = fourth = 0.0
    for start in range(0, len(values), 1024):
        squares = fourths = 0.0
        for value in values[start : start + 1024]:
            apart = (value - centre) * (value - centre)
            squares += apart
            fourths += apart * apart
        square += squares
        fourth += fourths
    return square, fourth


def _subject_sums(
    summed: np.ndarray,
    codes: np.ndarray,
    means: tuple[np.ndarray, np.ndarray],
    centres: tuple[float, float],
    weights: np.ndarray,
) -> None:
    """Sum as ``exact.subject_sums`` does."""
    for k in range(len(codes)):
        summed[0, codes[k]] += (means[0][k] - centres[0]) * weights[k]
        summed[1, codes[k]] += (means[1][k] - centres[1]) * weights[k]


#: The passes as plain Python.
AS_WRITTEN = Passes(_cross_both, _sample_terms, _one_sided, _powers, _subject_sums)
