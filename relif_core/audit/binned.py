"""Bias and violation rate of two histograms, read from the middles of their bins in O(bins)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Mass:
    """One task's cells [bins] and the prefix sums [bins + 1] of their masses and of mass times bin."""

    cells: np.ndarray
    number: np.ndarray
    moment: np.ndarray

    @classmethod
    def of(cls, cells: np.ndarray) -> "Mass":
        """Return the cells with their prefix sums."""
        bins = np.arange(len(cells))
        return cls(cells, np.append(0, np.cumsum(cells)), np.append(0, np.cumsum(cells * bins)))

    def terms(self, other: "Mass", tolerance: float, least: int) -> np.ndarray:
        """Return [2, bins] over the other task: the mean of d − tolerance where d ≥ ``least``, and the share.

        d is the distance from each own bin to the sample's, in bins.
        """
        bins = np.arange(len(self.cells))
        over, under = np.minimum(bins + least, len(bins)), np.maximum(bins + 1 - max(least, 1), 0)
        above, below = other.number[-1] - other.number[over], other.number[under]
        distance = other.moment[-1] - other.moment[over] - bins * above + bins * below - other.moment[under]
        violating = above + below
        return np.array([(distance - tolerance * violating) / len(bins), violating]) / other.number[-1]


class Terms:
    """Bias and violation rate of two histograms, at the tolerance and one bin's width to either side."""

    def __init__(self, first: Mass, second: Mass, tolerance: float) -> None:
        """``tolerance`` is in bins."""
        self._first, self._second, self._tolerance = first, second, tolerance
        self._least = int(min(tolerance, len(first.cells))) + 1
        self.bias, self.rate = self._at(0)
        self._low, self._high = self._at(1), self._at(-1)

    def _at(self, shift: int) -> tuple[float, float]:
        own = self._first.terms(self._second, self._tolerance + shift, self._least + shift)
        bias, rate = (own @ self._first.cells / self._first.number[-1]).tolist()
        return max(0.0, bias), min(1.0, rate)

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Return per task [2, bins] a sample's Bias and violation rate over the other task, by bin."""
        at = self._tolerance, self._least
        return self._first.terms(self._second, *at), self._second.terms(self._first, *at)

    def range(self, kind: int, seen: float, most: float) -> tuple[float, float]:
        """Bound Bias (0) or violation rate (1): a share of pairs is ``seen``, others have ``most``."""
        return seen * self._low[kind], min(most, seen * self._high[kind] + (1 - seen) * most)
