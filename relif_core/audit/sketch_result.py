"""What histograms say of Bias and violation rate, and the sums that give them their standard errors."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from relif_core.audit.plain import Stored, plain, rebuilt
from relif_core.audit.pools import Pair
from relif_core.audit.result import Estimates
from relif_core.audit.uncertainty import Spread, satterthwaite_freedom
from relif_core.errors import ComparabilityError, InputError

SUMS_SCHEMA = "relif-influence-sums/1"


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
        """Take two tasks' masses and a tolerance in bins."""
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
        """Return bounds of Bias (0) or rate (1): a share of pairs is ``seen``, others have ``most``."""
        return seen * self._low[kind], min(most, seen * self._high[kind] + (1 - seen) * most)


@dataclass(frozen=True, kw_only=True)
class InfluenceSums(Stored):
    """Sums over the subjects of a site, or over sites, that give a merged histogram its standard errors.

    Sums of disjoint sites add up with +.

    Attributes:
        of: Names the merged histogram and tolerances.
        unit: What counts as independent, "subject" or "site".
        units: How many there are.
        bias: (Σ u², Σ u⁴), u = z/(1 − p), over units of summed influence z and largest share p of a pool.
        violation_rate: Likewise.
        effective: Task → Σ p².
    """

    of: str
    unit: str
    units: int
    bias: tuple[float, float]
    violation_rate: tuple[float, float]
    effective: dict[str, float]

    _schemas = (SUMS_SCHEMA,)
    _damage = "influence sums are damaged", "make them again at the site"

    def __add__(self, other: "InfluenceSums") -> "InfluenceSums":
        """Return the sums over both sites.

        Raises:
            ComparabilityError: They belong to different histograms, tolerances or units.
            InputError: ``other`` is none.
        """
        if not isinstance(other, InfluenceSums):
            raise InputError(f"influence sums add up with influence sums, not with a {type(other).__name__}")
        if (self.of, self.unit, self.effective.keys()) != (other.of, other.unit, other.effective.keys()):
            raise ComparabilityError(
                "these influence sums belong to different histograms, tolerances or units; make both from one"
                " merged histogram"
            )
        return replace(
            self,
            units=self.units + other.units,
            bias=tuple(np.add(self.bias, other.bias).tolist()),
            violation_rate=tuple(np.add(self.violation_rate, other.violation_rate).tolist()),
            effective={task: own + other.effective[task] for task, own in self.effective.items()},
        )

    def to_json(self) -> str:
        """Return the sums as JSON text, NaN as null, which a site can send; :meth:`from_json` reads it."""
        return json.dumps({"schema": SUMS_SCHEMA, **plain(self)}, allow_nan=False, ensure_ascii=False)

    @classmethod
    def _from(cls, content: dict[str, Any]) -> "InfluenceSums":
        del content["schema"]
        sums: InfluenceSums = rebuilt(cls, content, "sums", ("bias", "violation_rate"))
        negative = min(*sums.bias, *sums.violation_rate) < 0
        if sums.unit not in ("subject", "site") or sums.units < 1 or negative:
            raise ValueError("they hold numbers or a unit that no site sends")
        if min(sums.effective.values(), default=0) <= 0:
            raise ValueError("'effective' holds no task, or a sum of squares that is not above 0")
        return sums

    def spread(self) -> Spread:
        """Return the jackknife's standard errors and degrees of freedom, as :class:`SubjectSpread` does."""
        effective = min(1 / own for own in self.effective.values())
        scale = (self.units - 1) / self.units if self.units > 1 else math.nan
        squares, fourths = np.array([self.bias, self.violation_rate], dtype=np.float64).T
        squares, fourths = squares * scale, fourths * scale**2
        return spread_of(squares, fourths - squares**2 / self.units, effective - 1, self.units, effective / 2)


@dataclass(frozen=True, kw_only=True)
class SketchPair:
    """Bias and violation rate of a task pair from histograms, with ranges that hold the exact values."""

    tasks: Pair
    tolerance: float
    samples: tuple[int, int]
    bias: float
    bias_range: tuple[float, float]
    violation_rate: float
    violation_rate_range: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SketchAudit(Estimates):
    """Bias and violation rate of one model from histograms, averaged over task pairs with equal weight.

    Other fields are those of :class:`AuditResult`.

    Attributes:
        bias_range: Holds the exact Bias of the same samples, without exception (theorem T6); the interval
            adds sampling error to both ends.
        violation_rate_range: Likewise.
        clustered_by: "sample", "site" or "subject".
    """

    bins: int
    tasks: tuple[str, ...]
    samples: dict[str, int]
    hidden: dict[str, int]
    score_definition: str | None
    clustered_by: str
    freedom: float
    bias_range: tuple[float, float]
    violation_rate_range: tuple[float, float]
    per_pair: tuple[SketchPair, ...]

    def _ends(self, kind: str) -> tuple[float, ...]:
        return getattr(self, f"{kind}_range")


def spread_of(
    squares: np.ndarray, excess: np.ndarray, freedom: float, units: int, effective_pairs: float
) -> Spread:
    """Return the errors of two variances and their degrees of freedom (:func:`satterthwaite_freedom`)."""
    freedoms = [
        satterthwaite_freedom(*own, freedom) for own in zip(squares.tolist(), excess.tolist(), strict=True)
    ]
    return Spread(np.sqrt(squares), np.array(freedoms, dtype=np.float64), units, freedom, effective_pairs)
