"""What histograms say of Bias and violation rate, and the sums that give them their standard errors."""

import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from relif_core.audit.pools import Pair
from relif_core.audit.uncertainty import Spread, satterthwaite_freedom, unit_interval
from relif_core.errors import ComparabilityError, RecordError

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
        """
        if (self.of, self.unit) != (other.of, other.unit):
            raise ComparabilityError(
                "these influence sums belong to different histograms, tolerances or units; make both from one"
                " merged histogram"
            )
        return InfluenceSums(
            of=self.of,
            unit=self.unit,
            units=self.units + other.units,
            bias=(self.bias[0] + other.bias[0], self.bias[1] + other.bias[1]),
            violation_rate=(
                self.violation_rate[0] + other.violation_rate[0],
                self.violation_rate[1] + other.violation_rate[1],
            ),
            effective={task: own + other.effective[task] for task, own in self.effective.items()},
        )

    def to_json(self) -> str:
        """Return the sums as JSON text, NaN as null, which a site can send; :meth:`from_json` reads it."""
        content = asdict(self)
        for kind in ("bias", "violation_rate"):
            content[kind] = [None if math.isnan(power) else power for power in content[kind]]
        return json.dumps({"schema": SUMS_SCHEMA, **content}, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "InfluenceSums":
        """Rebuild sums from :meth:`to_json`.

        Raises:
            RecordError: Text that is no JSON, or no sums of this schema.
        """
        try:
            content = json.loads(text)
            if content.pop("schema") != SUMS_SCHEMA:
                raise ValueError("another schema")
            for kind in ("bias", "violation_rate"):
                square, fourth = (math.nan if power is None else float(power) for power in content[kind])
                content[kind] = (square, fourth)
            return cls(**content)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise RecordError(f"influence sums are damaged ({error}); make them again at the site") from error

    def spread(self) -> Spread:
        """Return the jackknife's standard errors and degrees of freedom, as :class:`SubjectSpread` does."""
        effective = min(1 / own for own in self.effective.values())
        scale = (self.units - 1) / self.units if self.units > 1 else math.nan
        squares, fourths = np.array([self.bias, self.violation_rate]).T
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
class SketchAudit:
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
    clusters: int
    freedom: float
    effective_pairs: float
    bias: float
    bias_range: tuple[float, float]
    bias_se: float
    bias_freedom: float
    violation_rate: float
    violation_rate_range: tuple[float, float]
    violation_rate_se: float
    violation_rate_freedom: float
    per_pair: tuple[SketchPair, ...]

    def bias_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Bias's range, each end widened by its own confidence interval (:func:`.unit_interval`)."""
        widest = max(0.0, 1 - min(row.tolerance for row in self.per_pair))
        return self._interval(self.bias_range, self.bias_se, level, self.bias_freedom, widest)

    def violation_rate_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the confidence interval of the violation rate, made as :meth:`bias_interval`."""
        return self._interval(
            self.violation_rate_range, self.violation_rate_se, level, self.violation_rate_freedom
        )

    def _interval(
        self, ends: tuple[float, float], error: float, level: float, freedom: float, widest: float = 1.0
    ) -> tuple[float, float]:
        low, high = (unit_interval(end, error, level, freedom, self.effective_pairs, widest) for end in ends)
        return low[0], high[1]


def spread_of(
    squares: np.ndarray, excess: np.ndarray, freedom: float, units: int, effective_pairs: float
) -> Spread:
    """Return the errors of two variances and their degrees of freedom (:func:`satterthwaite_freedom`)."""
    freedoms = [
        satterthwaite_freedom(*own, freedom) for own in zip(squares.tolist(), excess.tolist(), strict=True)
    ]
    return Spread(np.sqrt(squares), np.array(freedoms), units, freedom, effective_pairs)
