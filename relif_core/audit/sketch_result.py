"""What histograms say of Bias and violation rate, and the sums that give them their standard errors."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np

from relif_core.audit.plain import damaged, json_object, plain, rebuilt
from relif_core.audit.pools import Pair
from relif_core.audit.result import Estimates
from relif_core.audit.uncertainty import Spread, satterthwaite_freedom
from relif_core.errors import ComparabilityError, InputError

SUMS_SCHEMA = "relif-influence-sums/1"


@dataclass(frozen=True, kw_only=True)
class InfluenceSums:
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
            bias=_added(self.bias, other.bias),
            violation_rate=_added(self.violation_rate, other.violation_rate),
            effective={task: own + other.effective[task] for task, own in self.effective.items()},
        )

    def to_json(self) -> str:
        """Return the sums as JSON text, NaN as null, which a site can send; :meth:`from_json` reads it."""
        return json.dumps({"schema": SUMS_SCHEMA, **plain(self)}, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "InfluenceSums":
        """Rebuild sums from :meth:`to_json`.

        Raises:
            RecordError: Text that is no JSON, or no sums of this schema.
        """
        with damaged("influence sums are damaged", "make them again at the site"):
            content = json_object(text, SUMS_SCHEMA)
            del content["schema"]
            sums = rebuilt(cls, content, "sums", ("bias", "violation_rate"))
            if (
                sums.unit not in ("subject", "site")
                or sums.units < 1
                or min(*sums.bias, *sums.violation_rate) < 0
            ):
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


def _added(own: tuple[float, float], its: tuple[float, float]) -> tuple[float, float]:
    return own[0] + its[0], own[1] + its[1]


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

    def _least_tolerance(self) -> float:
        return min(row.tolerance for row in self.per_pair)


def spread_of(
    squares: np.ndarray, excess: np.ndarray, freedom: float, units: int, effective_pairs: float
) -> Spread:
    """Return the errors of two variances and their degrees of freedom (:func:`satterthwaite_freedom`)."""
    freedoms = [
        satterthwaite_freedom(*own, freedom) for own in zip(squares.tolist(), excess.tolist(), strict=True)
    ]
    return Spread(np.sqrt(squares), np.array(freedoms, dtype=np.float64), units, freedom, effective_pairs)
