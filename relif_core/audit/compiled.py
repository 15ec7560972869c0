"""The linear passes of the exact audit in machine code, where numba is installed and the work is large.

The arithmetic is NumPy's in NumPy's order, so the bits are the same, and no array is made but the results.
Loading numba takes seconds, so smaller audits stay with NumPy until a large one has loaded it.
"""

import importlib.util
from collections.abc import Callable

import numpy as np

#: So many scores over all task pairs and tolerances make loading numba worthwhile.
WORTH_LOADING = 100_000_000

Passes = tuple[Callable[..., None], Callable[..., None]]
_loaded: list[Passes] = []


def loaded(work: int = 0) -> Passes | None:
    """Return the compiled passes; None unless loaded or worth loading for ``work``, a number of scores."""
    if not _loaded and work >= WORTH_LOADING and importlib.util.find_spec("numba"):
        load()
    return _loaded[0] if _loaded else None


def load() -> None:
    """Make later audits of this process use the compiled passes; ``ImportError`` without numba."""
    import numba

    if not _loaded:
        compiled = numba.njit(nogil=True, cache=True)
        _loaded.append((compiled(_cross), compiled(_sample_terms)))


def unload() -> None:
    """Go back to NumPy."""
    _loaded.clear()


def _cross(
    low: np.ndarray,
    high: np.ndarray,
    tolerance: float,
    within: np.ndarray | None,
    exceeded: np.ndarray | None,
) -> None:
    """Count across as ``exact.cross`` does, in one merge without a branch that could be guessed wrong."""
    x = y = 0
    while y < len(high) and high[y] - low[0] <= tolerance:
        if exceeded is not None:
            exceeded[y] = 0
        y += 1
    while x < len(low) and y < len(high):
        reached = high[y] - low[x] <= tolerance
        if within is not None:
            within[x] = y
        if exceeded is not None:
            exceeded[y] = x
        x += not reached
        y += reached
    if within is not None:
        within[x:] = y
    if exceeded is not None:
        exceeded[y:] = x


def _sample_terms(
    values: np.ndarray, prefix: np.ndarray, tolerance: float, excess: np.ndarray, rate: np.ndarray
) -> None:
    """Turn counts into terms as ``exact._sample_terms`` does."""
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
