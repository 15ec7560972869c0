"""Audits from histograms: what a site or a stream keeps is a count per bin and task, never a score.

Theorem T6 of the book: with m bins, every gap read from bin centres is within 1/m of the true one, so

    Bias_m(δ + 1/m) ≤ Bias(δ) ≤ Bias_m(δ − 1/m),   |Bias(δ) − Bias_m(δ)| ≤ 1/m,
    VR_m(δ + 1/m) ≤ VR(δ) ≤ VR_m(δ − 1/m).
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from relif_core.audit.pools import Pair, Tolerance, checked_labels, checked_scores, checked_tolerances
from relif_core.audit.subject_ids import subject_codes
from relif_core.audit.uncertainty import Spread, satterthwaite_freedom, unit_interval
from relif_core.errors import ComparabilityError, InputError, RecordError, listed

SCHEMA = "relif-histogram/1"
SUMS_SCHEMA = "relif-influence-sums/1"
BINS = 4096
_MOST_BINS = 1 << 20


@dataclass(frozen=True, eq=False)
class HistogramSketch:
    """Counts of audit scores per bin and task: constant in size, mergeable, an audit within 1/bins.

    The number of bins is a power of two, so that binning is exact in binary arithmetic.

    Attributes:
        counts: Task → int64 [bins]; bin k holds the scores in [k/bins, (k+1)/bins), the last one 1 as well.
        hidden: Task → number of samples whose cells :meth:`hide` took away.
        score_definition: How outputs became scores; sketches that state different ones are not merged.
    """

    counts: dict[str, np.ndarray]
    hidden: dict[str, int]
    score_definition: str | None = None

    @classmethod
    def of(
        cls, scores: Mapping[str, Any], bins: int = BINS, *, score_definition: str | None = None
    ) -> "HistogramSketch":
        """Count the scores of one site or of one batch of a stream.

        Args:
            scores: Task name to scores in [0, 1], as for :func:`audit`.
            bins: A power of two between 2 and 2²⁰.
            score_definition: How outputs became scores (the digest of a ruler, say).

        Raises:
            InputError: Scores that :func:`audit` refuses, or a number of bins that is no power of two.
        """
        checked_bins(bins)
        counts = {
            task: np.bincount(_bins_of(values, bins), minlength=bins)
            for task, values in checked_scores(scores).items()
        }
        return cls(counts, dict.fromkeys(counts, 0), score_definition)

    @property
    def bins(self) -> int:
        """Return the number of bins."""
        return len(next(iter(self.counts.values())))

    @property
    def samples(self) -> dict[str, int]:
        """Return the number of samples of every task, hidden ones included."""
        return {task: int(cells.sum()) + self.hidden[task] for task, cells in self.counts.items()}

    def __add__(self, other: "HistogramSketch") -> "HistogramSketch":
        """Return the sketch of both: equal to that of the pooled scores where nothing is hidden.

        Raises:
            ComparabilityError: Bins, tasks or score definition differ.
        """
        for name, own, its in (
            ("number of bins", self.bins, other.bins),
            ("tasks", list(self.counts), list(other.counts)),
            ("score definition", self.score_definition, other.score_definition),
        ):
            if own != its:
                raise ComparabilityError(
                    f"these histograms cannot be merged, their {name} differs: {own!r} against {its!r}; "
                    "make both with the same settings"
                )
        return HistogramSketch(
            {task: cells + other.counts[task] for task, cells in self.counts.items()},
            {task: number + other.hidden[task] for task, number in self.hidden.items()},
            self.score_definition,
        )

    def hide(self, least: int) -> "HistogramSketch":
        """Return the sketch without cells of fewer than ``least`` samples; it keeps their number only.

        Hidden and empty cells look alike. Where the hidden samples of a task are fewer than ``least``
        themselves, its smallest cells join them: the number would give away the cells.

        Raises:
            InputError: ``least`` below 1.
        """
        if least < 1:
            raise InputError(f"the smallest cell shown must hold at least 1 sample, got {least}")
        counts, hidden = {}, {}
        for task, cells in self.counts.items():
            order = np.argsort(cells, kind="stable")
            taken = np.cumsum(cells[order])
            small = np.searchsorted(cells[order], least)
            number = int(taken[small - 1]) if small else 0
            if 0 < number + self.hidden[task] < least:
                small = np.searchsorted(taken, least - self.hidden[task]) + 1
            shown = cells.copy()
            shown[order[:small]] = 0
            counts[task] = shown
            hidden[task] = self.hidden[task] + int(cells.sum() - shown.sum())
        return HistogramSketch(counts, hidden, self.score_definition)

    def audit(self, tolerance: Tolerance, errors: "InfluenceSums | None" = None) -> "SketchAudit":
        """Read Bias and violation rate, with their proven ranges, from the counts alone.

        O(tasks² · bins) time, whatever the number of samples.

        Args:
            tolerance: δ, one number or one per task pair, as for :func:`audit`.
            errors: Sums from :meth:`subject_sums` of every site, or :meth:`site_sums`; without them the
                standard errors take every sample as independent.

        Raises:
            InputError: A tolerance that :func:`audit` refuses, a task of which nothing is seen, or sums that
                belong to other histograms or tolerances.
        """
        tolerances = self._tolerances(tolerance)
        samples = self.samples
        seen = {task: 1 - self.hidden[task] / number for task, number in samples.items()}
        rows = tuple(
            SketchPair(
                tasks=(i, j),
                tolerance=delta,
                samples=(samples[i], samples[j]),
                bias=terms.bias,
                bias_range=terms.bias_range(seen[i] * seen[j], max(0.0, 1 - delta)),
                violation_rate=terms.rate,
                violation_rate_range=terms.rate_range(seen[i] * seen[j], float(delta < 1)),
            )
            for (i, j), delta, terms in self._pairs(tolerances)
        )
        if errors is None:
            spread = self._sample_spread(tolerances)
        elif errors.of != self._digest(tolerances):
            raise InputError(
                "these influence sums belong to other histograms or tolerances; make them from this"
                " merged one"
            )
        else:
            spread = errors.spread()
        return SketchAudit(
            bins=self.bins,
            tasks=tuple(self.counts),
            samples=samples,
            hidden=dict(self.hidden),
            score_definition=self.score_definition,
            clustered_by=errors.unit if errors else "sample",
            clusters=spread.units,
            freedom=spread.freedom,
            effective_pairs=spread.effective_pairs,
            bias=_mean(row.bias for row in rows),
            bias_range=(_mean(row.bias_range[0] for row in rows), _mean(row.bias_range[1] for row in rows)),
            bias_se=float(spread.errors[0]),
            bias_freedom=float(spread.freedoms[0]),
            violation_rate=_mean(row.violation_rate for row in rows),
            violation_rate_range=(
                _mean(row.violation_rate_range[0] for row in rows),
                _mean(row.violation_rate_range[1] for row in rows),
            ),
            violation_rate_se=float(spread.errors[1]),
            violation_rate_freedom=float(spread.freedoms[1]),
            per_pair=rows,
        )

    def subject_sums(
        self, scores: Mapping[str, Any], subjects: Mapping[str, Any], tolerance: Tolerance
    ) -> "InfluenceSums":
        """Return what a site adds to this merged sketch's standard error: five sums or so, none of a person.

        The sums of all sites, added up, give :meth:`audit` the error clustered by subject
        (:class:`.SubjectSpread`), if no subject has samples at two sites.

        Args:
            scores: The site's own scores, as they went into its sketch.
            subjects: Task name to subject ids aligned with the scores.
            tolerance: As for :meth:`audit`.

        Raises:
            InputError: Scores or subjects that :func:`audit` refuses, other tasks, or a single subject.
        """
        checked = checked_scores(scores)
        if list(checked) != list(self.counts):
            raise InputError(
                f"scores have the tasks {listed(checked)}, the histograms {listed(self.counts)}; pass the"
                " same tasks"
            )
        ids, codes = subject_codes(checked_labels(subjects, checked, "subjects"))
        if len(ids) < 2:
            raise InputError(
                "the sums of a site with a single subject are that subject's; leave the site to the site sums"
            )
        numbers = {task: np.bincount(codes[task], minlength=len(ids)) for task in checked}
        places = {task: _bins_of(values, self.bins) for task, values in checked.items()}

        def summed(task: str, influence: np.ndarray) -> np.ndarray:
            return np.bincount(codes[task], influence[places[task]], len(ids))

        return self._sums("subject", tolerance, numbers, summed)

    def site_sums(self, sites: "Sequence[HistogramSketch]", tolerance: Tolerance) -> "InfluenceSums":
        """Return the sums that make whole sites the independent units, from their histograms alone.

        Honest where people of one site resemble each other, at the price of as few degrees of freedom as
        there are sites.

        Args:
            sites: The histograms that were merged into this one.
            tolerance: δ of the audit.

        Raises:
            InputError: The sites' histograms do not add up to this one.
        """
        if any(
            not np.array_equal(sum(site.counts[task] for site in sites), cells)
            for task, cells in self.counts.items()
        ):
            raise InputError(
                "the sites' histograms do not add up to this one; pass those that it was merged from"
            )
        numbers = {task: np.array([site.counts[task].sum() for site in sites]) for task in self.counts}

        def summed(task: str, influence: np.ndarray) -> np.ndarray:
            return np.array([site.counts[task] @ influence for site in sites])

        return self._sums("site", tolerance, numbers, summed)

    def _sums(
        self,
        unit: str,
        tolerance: Tolerance,
        numbers: dict[str, np.ndarray],
        summed: Callable[[str, np.ndarray], np.ndarray],
    ) -> "InfluenceSums":
        """Sum the units' influences z and square them as a jackknife: z / (1 − largest share of a pool)."""
        tolerances = self._tolerances(tolerance)
        shares = np.max([own / self.counts[task].sum() for task, own in numbers.items()], axis=0)
        influences = self._influences(tolerances)
        powers = []
        for kind in range(2):
            summed_up = sum(summed(task, influences[task][kind]) for task in self.counts)
            with np.errstate(divide="ignore", invalid="ignore"):
                square = np.square(summed_up / (1 - shares))
            powers.append((float(square.sum()), float(square @ square)))
        return InfluenceSums(
            of=self._digest(tolerances),
            unit=unit,
            units=int(np.count_nonzero(shares)),
            bias=powers[0],
            violation_rate=powers[1],
            effective={
                task: float(np.square(own / self.counts[task].sum()).sum()) for task, own in numbers.items()
            },
        )

    def _tolerances(self, tolerance: Tolerance) -> dict[Pair, float]:
        for task, cells in self.counts.items():
            if not cells.any():
                raise InputError(
                    f"task {task!r}: no cell of the histogram shows a sample ({self.hidden[task]} are"
                    " hidden); use fewer bins, hide fewer cells, or leave the task out"
                )
        return checked_tolerances(tolerance, list(self.counts))

    def _pairs(self, tolerances: dict[Pair, float]) -> "Iterator[tuple[Pair, float, _Terms]]":
        masses = {task: _Mass.of(cells) for task, cells in self.counts.items()}
        for (i, j), delta in tolerances.items():
            yield (i, j), delta, _Terms(masses[i], masses[j], delta * self.bins)

    def _influences(self, tolerances: dict[Pair, float]) -> dict[str, np.ndarray]:
        """Return per task [2, bins] what a sample in a bin adds to the errors of Bias and violation rate."""
        influences = {task: np.zeros((2, self.bins)) for task in self.counts}
        for pair, _, terms in self._pairs(tolerances):
            for task, means in zip(pair, terms.means(), strict=True):
                influences[task] += (
                    (means - [[terms.bias], [terms.rate]]) / self.counts[task].sum() / len(tolerances)
                )
        return influences

    def _sample_spread(self, tolerances: dict[Pair, float]) -> Spread:
        """Return the spread with every sample an independent unit, as :class:`SampleSpread` does."""
        sizes = {task: int(cells.sum()) for task, cells in self.counts.items()}
        freedom = sum(sizes.values()) - len(sizes)
        squares, excess = np.zeros(2), np.zeros(2)
        for task, influence in self._influences(tolerances).items():
            n, cells = sizes[task], self.counts[task]
            square = np.square(influence) * (n / (n - 1) if n > 1 else math.nan)
            own = square @ cells
            squares += own
            excess += np.square(square) @ cells - own**2 / n
        return _spread(squares, excess, freedom, sum(sizes.values()), min(sizes.values()))

    def _digest(self, tolerances: dict[Pair, float]) -> str:
        digest = hashlib.sha256(json.dumps([*tolerances.items()]).encode())
        for task, cells in self.counts.items():
            digest.update(f"{task}\0{self.hidden[task]}\0".encode() + cells.astype("<i8").tobytes())
        return digest.hexdigest()[:32]

    def to_json(self) -> str:
        """Return the counts as JSON text, with nothing of a person; :meth:`from_json` reads it."""
        tasks = {
            task: {"hidden": self.hidden[task], "counts": cells.tolist()}
            for task, cells in self.counts.items()
        }
        content = {"schema": SCHEMA, "score_definition": self.score_definition, "tasks": tasks}
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "HistogramSketch":
        """Rebuild a sketch from :meth:`to_json`.

        Raises:
            RecordError: Text that is no JSON, no histogram of this schema, or whose counts are no counts.
        """
        try:
            content = json.loads(text)
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']!r}, this version reads {SCHEMA!r}")
            counts = {task: _counts(one["counts"]) for task, one in content["tasks"].items()}
            hidden = {task: int(_counts([one["hidden"]])[0]) for task, one in content["tasks"].items()}
            sizes = {len(cells) for cells in counts.values()}
            if len(counts) < 2 or len(sizes) != 1:
                raise ValueError(f"{len(counts)} tasks with {listed(sorted(sizes))} bins")
            checked_bins(sizes.pop())
            return cls(counts, hidden, content["score_definition"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"histogram is damaged ({error}); make it again at the site") from error


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
        """Return the sums as JSON text, which a site can send; :meth:`from_json` reads it back."""
        return json.dumps({"schema": SUMS_SCHEMA, **asdict(self)}, allow_nan=False, ensure_ascii=False)

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
                square, fourth = content[kind]
                content[kind] = (float(square), float(fourth))
            return cls(**content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(f"influence sums are damaged ({error}); make them again at the site") from error

    def spread(self) -> Spread:
        """Return the jackknife's standard errors and degrees of freedom, as :class:`SubjectSpread` does."""
        effective = min(1 / own for own in self.effective.values())
        scale = (self.units - 1) / self.units if self.units > 1 else math.nan
        squares, fourths = np.array([self.bias, self.violation_rate]).T
        squares, fourths = squares * scale, fourths * scale**2
        return _spread(squares, fourths - squares**2 / self.units, effective - 1, self.units, effective / 2)


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


@dataclass(frozen=True, eq=False)
class _Mass:
    """One task's cells [bins] and the prefix sums [bins + 1] of counts and of count times bin."""

    cells: np.ndarray
    number: np.ndarray
    moment: np.ndarray

    @classmethod
    def of(cls, cells: np.ndarray) -> "_Mass":
        bins = np.arange(len(cells))
        return cls(cells, np.append(0, np.cumsum(cells)), np.append(0, np.cumsum(cells * bins)))

    def terms(self, other: "_Mass", tolerance: float, least: int) -> np.ndarray:
        """Return [2, bins] over the other task: the mean of d − tolerance where d ≥ ``least``, and the share.

        d is the distance from each own bin to the sample's, in bins.
        """
        bins = np.arange(len(self.cells))
        over, under = np.minimum(bins + least, len(bins)), np.maximum(bins + 1 - max(least, 1), 0)
        above, below = other.number[-1] - other.number[over], other.number[under]
        distance = other.moment[-1] - other.moment[over] - bins * above + bins * below - other.moment[under]
        violating = above + below
        return np.array([(distance - tolerance * violating) / len(bins), violating]) / other.number[-1]


class _Terms:
    """Bias and violation rate of two histograms, at the tolerance and one bin's width to either side."""

    def __init__(self, first: _Mass, second: _Mass, tolerance: float) -> None:
        """``tolerance`` is in bins."""
        self._first, self._second, self._tolerance = first, second, tolerance
        self._least = int(min(tolerance, len(first.cells))) + 1
        self.bias, self.rate = self._at(0)
        self._low, self._high = self._at(1), self._at(-1)

    def _at(self, shift: int) -> tuple[float, float]:
        own = self._first.terms(self._second, self._tolerance + shift, self._least + shift)
        bias, rate = (own @ self._first.cells / self._first.number[-1]).tolist()
        return max(0.0, bias), rate

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Return per task [2, bins] a sample's Bias and violation rate over the other task, by bin."""
        at = self._tolerance, self._least
        return self._first.terms(self._second, *at), self._second.terms(self._first, *at)

    def bias_range(self, seen: float, most: float) -> tuple[float, float]:
        """Bound Bias where a share of the pairs is ``seen`` and the others have ``most`` at most."""
        return seen * self._low[0], min(most, seen * self._high[0] + (1 - seen) * most)

    def rate_range(self, seen: float, most: float) -> tuple[float, float]:
        """Return bounds of the violation rate, made as :meth:`bias_range`."""
        return seen * self._low[1], min(most, seen * self._high[1] + (1 - seen) * most)


def checked_bins(bins: int) -> None:
    """Refuse (``InputError``) bins that are no power of two between 2 and 2²⁰."""
    if (
        isinstance(bins, bool)
        or not isinstance(bins, int | np.integer)
        or not 2 <= bins <= _MOST_BINS
        or bins & (bins - 1)
    ):
        raise InputError(
            f"bins must be a power of two from 2 to {_MOST_BINS}, so that binning is exact, got {bins!r}"
        )


def _spread(
    squares: np.ndarray, excess: np.ndarray, freedom: float, units: int, effective_pairs: float
) -> Spread:
    freedoms = [
        satterthwaite_freedom(*own, freedom) for own in zip(squares.tolist(), excess.tolist(), strict=True)
    ]
    return Spread(np.sqrt(squares), np.array(freedoms), units, freedom, effective_pairs)


def _bins_of(values: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((values * bins).astype(np.int64), bins - 1)


def _counts(values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind != "i" or array.min() < 0:
        raise ValueError("counts must be whole numbers, at least 0")
    return array.astype(np.int64)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)
