"""Audits from histograms: what a site or a stream keeps is a count per bin and task, never a score.

Theorem T6 of the book: with m bins, every gap read from bin centres is within 1/m of the true one, so

    Bias_m(δ + 1/m) ≤ Bias(δ) ≤ Bias_m(δ − 1/m),   |Bias(δ) − Bias_m(δ)| ≤ 1/m,
    VR_m(δ + 1/m) ≤ VR(δ) ≤ VR_m(δ − 1/m).
"""

import hashlib
import json
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from relif_core.audit.door import is_number
from relif_core.audit.plain import Stored
from relif_core.audit.pools import (
    Pair,
    Pools,
    Tolerance,
    checked_tolerance,
    checked_tolerances,
)
from relif_core.audit.sketch_result import InfluenceSums, Mass, SketchAudit, SketchPair, Terms, spread_of
from relif_core.audit.uncertainty import NO_VARIATION, Spread
from relif_core.errors import ComparabilityError, InputError, listed

SCHEMA = "relif-histogram/1"
#: With weights: readers that know none refuse it.
WEIGHTED_SCHEMA = "relif-histogram/2"
BINS = 4096
_MOST_BINS = 1 << 20
_MOST_SAMPLES = 1 << 42  # times the bins, 62 bits hold them


@dataclass(frozen=True, eq=False)
class HistogramSketch(Stored):
    """Counts of audit scores per bin and task: constant in size, mergeable, an audit within 1/bins.

    The number of bins is a power of two, so that binning is exact in binary arithmetic.

    Attributes:
        counts: Task → int64 [bins]; bin k holds the scores in [k/bins, (k+1)/bins), the last one 1 as well.
        hidden: Task → number of samples whose cells :meth:`hide` took away.
        score_definition: How outputs became scores; sketches that state different ones are not merged.
        weights: Where samples are weighted, task → sums of weights and of their squares [2, bins + 1], the
            last the hidden samples' (of squares 0). A sample of weight 0 is in no pool and not counted.
        tolerance: δ of the ruler that they were made for, which :meth:`audit` takes if it is given none;
            sketches that state different ones are not merged.

    Raises:
        InputError: Weights that do not fit the counts, a tolerance that is no single number in [0, 1], or a
            score definition that is no text.
    """

    counts: dict[str, np.ndarray]
    hidden: dict[str, int]
    score_definition: str | None = None
    weights: dict[str, np.ndarray] | None = None
    tolerance: float | None = None

    _schemas = SCHEMA, WEIGHTED_SCHEMA
    _damage = "histogram is damaged", "make it again at the site"

    def __post_init__(self) -> None:
        if isinstance(self.tolerance, Mapping):
            raise InputError("a histogram holds one tolerance for all task pairs; give others to its audit")
        if self.tolerance is not None:
            object.__setattr__(self, "tolerance", checked_tolerance(self.tolerance, "tolerance"))
        if self.score_definition is not None and not isinstance(self.score_definition, str):
            raise InputError(
                f"score_definition must be text that tells score maps apart, not a"
                f" {type(self.score_definition).__name__}"
            )
        for task, own in (self.weights or {}).items():
            held = np.tile(np.append(self.counts[task], self.hidden[task]) > 0, (2, 1))
            held[1, -1] = False
            if not (np.array_equal(own > 0, held) and np.isfinite(own).all() and own.min() >= 0):
                raise InputError(
                    f"task {task!r}: the weights do not fit the counts, or their squares leave what a float"
                    " holds; give finite weights of moderate size"
                )

    @classmethod
    def of(
        cls,
        scores: Mapping[str, Any],
        bins: int = BINS,
        *,
        score_definition: str | None = None,
        weights: Mapping[str, Any] | None = None,
        tolerance: float | None = None,
    ) -> "HistogramSketch":
        """Count the scores of one site or of one batch of a stream.

        Args:
            scores: Task name to scores in [0, 1], as for :func:`audit`.
            bins: A power of two between 2 and 2²⁰.
            score_definition: How outputs became scores (the digest of a ruler, say).
            weights: Task name to weights aligned with the scores, as for :func:`audit`; on one scale at all
                sites.
            tolerance: δ of the ruler that they are made for.

        Raises:
            InputError: Scores, weights or a tolerance that :func:`audit` refuses, a tolerance per task pair,
                a score definition that is no text, or a number of bins that is no power of two.
        """
        checked_bins(bins)
        pools = Pools.of(scores, weights=weights)
        places = {task: _bins_of(values, bins) for task, values in pools.scores.items()}
        masses = {}
        for task, own in pools.weights.items():
            with np.errstate(over="ignore"):
                masses[task] = np.array([np.bincount(places[task], own**k, bins + 1) for k in (1, 2)])
            places[task] = places[task][own > 0]
        counts = {task: np.bincount(own, minlength=bins) for task, own in places.items()}
        return cls(counts, dict.fromkeys(counts, 0), score_definition, masses or None, tolerance)

    @property
    def bins(self) -> int:
        """Return the number of bins."""
        return len(next(iter(self.counts.values())))

    @property
    def samples(self) -> dict[str, int]:
        """Return the number of samples of every task, hidden ones included."""
        return {task: int(cells.sum()) + self.hidden[task] for task, cells in self.counts.items()}

    @property
    def _hidden_masses(self) -> dict[str, float]:
        """Return what the hidden samples of every task count for."""
        if self.weights is None:
            return dict(self.hidden)
        return {task: float(own[0, -1]) for task, own in self.weights.items()}

    @property
    def _masses(self) -> dict[str, np.ndarray]:
        """Return what each cell counts for: its number of samples, or the sum of their weights."""
        return self.counts if self.weights is None else {t: own[0, :-1] for t, own in self.weights.items()}

    def __add__(self, other: "HistogramSketch") -> "HistogramSketch":
        """Return the sketch of both: equal to that of the pooled scores where nothing is hidden.

        Raises:
            ComparabilityError: Bins, tasks, score definition or tolerance differ, or one has weights and one
                has none.
            InputError: ``other`` is none.
        """
        if not isinstance(other, HistogramSketch):
            raise InputError(f"a histogram is merged with histograms, not with a {type(other).__name__}")
        if (self.weights is None) != (other.weights is None):
            raise ComparabilityError(
                "these histograms cannot be merged, one has sample weights and one has none; make both with"
                " weights (1 for every sample of a site without) or both without"
            )
        for name, own, its in (
            ("number of bins", self.bins, other.bins),
            ("tasks", list(self.counts), list(other.counts)),
            ("score definition", self.score_definition, other.score_definition),
            ("tolerance", self.tolerance, other.tolerance),
        ):
            if own != its:
                raise ComparabilityError(
                    f"these histograms cannot be merged, their {name} differs: {own!r} against {its!r}; "
                    "make both with the same settings"
                )
        return replace(
            self,
            counts={task: cells + other.counts[task] for task, cells in self.counts.items()},
            hidden={task: number + other.hidden[task] for task, number in self.hidden.items()},
            weights={t: own + (other.weights or {})[t] for t, own in (self.weights or {}).items()} or None,
        )

    def hide(self, least: int) -> "HistogramSketch":
        """Return the sketch without cells of fewer than ``least`` samples; it keeps their number only.

        Hidden and empty cells look alike. Where the hidden samples of a task are fewer than ``least``
        themselves, its smallest cells join them: the number would give away the cells. Of weights the sum of
        all hidden ones is kept. A shown cell has two sums of weights, from which those of two samples follow:
        a weighted sketch is hidden with ``least`` 3 or more.

        Raises:
            InputError: ``least`` below 1, of a weighted sketch below 3, or a weighted task of fewer samples,
                whose weight would show.
        """
        if not is_number(least, numbers.Integral) or least < 1:
            raise InputError(f"the smallest cell shown must hold at least 1 sample, got {least!r}")
        if self.weights is not None and least < 3:
            raise InputError(
                f"to hide cells of fewer than {least} samples leaves weights in the open: those of two"
                " samples follow from a cell's two sums; hide weighted cells of fewer than 3 or more"
            )
        counts, hidden, weights = {}, {}, {}
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
            if self.weights is not None:
                if 0 < hidden[task] < least:
                    raise InputError(
                        f"task {task!r}: its {hidden[task]} samples are fewer than {least}, and their weight"
                        " cannot be hidden among others; leave the task out or hide fewer"
                    )
                weights[task] = self.weights[task] * np.append(shown > 0, False)
                weights[task][0, -1] = self.weights[task][0, np.append(shown == 0, True)].sum()
        return replace(self, counts=counts, hidden=hidden, weights=weights or None)

    def audit(self, tolerance: Tolerance | None = None, errors: InfluenceSums | None = None) -> SketchAudit:
        """Read Bias and violation rate, with their proven ranges, from the counts alone.

        O(tasks² · bins) time, whatever the number of samples.

        Args:
            tolerance: δ, one number or one per task pair, as for :func:`audit`; None for the sketch's own.
            errors: Sums from :meth:`subject_sums` of every site, or :meth:`site_sums`; without them the
                standard errors take every sample as independent.

        Raises:
            InputError: A tolerance that :func:`audit` refuses, or none where the sketch states none, a task
                of which nothing is seen, or sums that belong to other histograms or tolerances.
        """
        tolerances = self._tolerances(tolerance)
        samples = self.samples
        seen = {task: 1 - self.hidden[task] / number for task, number in samples.items()}
        seen |= {task: 1 - float(own[0, -1] / own[0].sum()) for task, own in (self.weights or {}).items()}
        rows = tuple(
            SketchPair(
                tasks=(i, j),
                tolerance=delta,
                samples=(samples[i], samples[j]),
                bias=terms.bias,
                bias_range=terms.range(0, seen[i] * seen[j], max(0.0, 1 - delta)),
                violation_rate=terms.rate,
                violation_rate_range=terms.range(1, seen[i] * seen[j], float(delta < 1)),
            )
            for (i, j), delta, terms in self._pairs(tolerances)
        )
        if errors is None:
            weighted = self.weights is not None
            spread = (self._weighted_spread if weighted else self._sample_spread)(tolerances)
        elif not isinstance(errors, InfluenceSums):
            raise InputError(f"errors are the influence sums of all sites, not a {type(errors).__name__}")
        elif errors.of != self._digest(tolerances) or errors.effective.keys() != self.counts.keys():
            raise InputError(
                "these influence sums belong to other histograms or tolerances; make them from this"
                " merged one"
            )
        else:
            spread = errors.spread()
        names = ("bias", "bias_range", "violation_rate", "violation_rate_range")
        return SketchAudit(
            bins=self.bins,
            tasks=tuple(self.counts),
            samples=samples,
            hidden=dict(self.hidden),
            score_definition=self.score_definition,
            clustered_by=errors.unit if errors else "sample",
            freedom=spread.freedom,
            per_pair=rows,
            **{name: _mean([getattr(row, name) for row in rows]) for name in names},
            **spread.fields(),
        )

    def subject_sums(
        self,
        scores: Mapping[str, Any],
        subjects: Mapping[str, Any] | None,
        tolerance: Tolerance,
        weights: Mapping[str, Any] | None = None,
    ) -> InfluenceSums:
        """Return what a site adds to this merged sketch's standard error: five sums or so, none of a person.

        The sums of all sites, added up, give :meth:`audit` the error clustered by subject
        (:class:`.SubjectSpread`), if no subject has samples at two sites.

        Where cells are hidden, a subject's shares are still those of all samples, hidden ones included, and
        its influence is the largest that any scores of the hidden samples allow: the error is at least that
        of the histogram with nothing hidden, and NaN only where a subject is a whole pool.

        Args:
            scores: The site's own scores, as they went into its sketch, or its checked pools.
            subjects: Task name to subject ids aligned with the scores.
            tolerance: As for :meth:`audit`.
            weights: The site's own weights, if they went into its sketch.

        Raises:
            InputError: Scores, subjects or weights that :func:`audit` refuses, other tasks, more samples than
                the histogram's, a single subject, or weights beside a histogram without, and the other way
                round.
        """
        pools = Pools.of(scores, subjects=subjects, weights=weights, clustered=True)
        if bool(pools.weights) != bool(self.weights):
            raise InputError(
                "weights go with a histogram that was made with them; pass those that made the site's own"
            )
        codes, held, people = pools.codes, pools.weights, pools.people
        if list(codes) != list(self.counts):
            raise InputError(
                f"scores have the tasks {listed(codes)}, the histograms {listed(self.counts)}; pass the"
                " same tasks"
            )
        numbers = {task: np.bincount(own, held.get(task), people) for task, own in codes.items()}
        if np.count_nonzero(sum(numbers.values())) < 2:
            raise InputError(
                "the sums of a site with a single subject are that subject's; leave the site to the site sums"
            )
        tolerances, hidden = self._tolerances(tolerance), self._hidden_masses
        totals = {task: own.sum() + hidden[task] for task, own in self._masses.items()}
        for task, own in numbers.items():
            if own.sum() > totals[task] * (1 + 1e-9):  # and rounding
                raise InputError(
                    f"task {task!r}: the site has more samples than the histogram of all sites; pass the"
                    " scores that went into it"
                )
        places = {task: _bins_of(values, self.bins) for task, values in pools.scores.items()}

        def summed(task: str, influence: np.ndarray) -> np.ndarray:
            return np.bincount(codes[task], influence[places[task]] * held.get(task, 1), people)

        ends = self._hidden_influences(tolerances) if any(hidden.values()) else [self._influences(tolerances)]
        shares = {task: own / totals[task] for task, own in numbers.items()}
        return self._sums("subject", tolerances, shares, ends, summed)

    def site_sums(
        self, sites: "Sequence[HistogramSketch]", tolerance: Tolerance | None = None
    ) -> InfluenceSums:
        """Return the sums that make whole sites the independent units, from their histograms alone.

        Honest where people of one site resemble each other, at the price of as few degrees of freedom as
        there are sites. Hidden samples are no part of them.

        Args:
            sites: The histograms that were merged into this one.
            tolerance: As for :meth:`audit`.

        Raises:
            InputError: A tolerance as for :meth:`audit`, or the sites' histograms do not add up to this one.
        """
        sites = list(sites) if isinstance(sites, Iterable) else [sites]
        for site in sites:
            own = (site.bins, site.counts.keys()) if isinstance(site, HistogramSketch) else None
            if own != (self.bins, self.counts.keys()):
                raise InputError(
                    f"a site's histogram must have the merged one's tasks {listed(self.counts)} and its"
                    f" {self.bins} bins; pass those that it was merged from"
                )
        if any(
            not np.array_equal(sum(site.counts[task] for site in sites), cells)
            or not np.allclose(sum(site._masses[task] for site in sites), self._masses[task], 1e-9, 0)
            for task, cells in self.counts.items()
        ):
            raise InputError(
                "the sites' histograms do not add up to this one; pass those that it was merged from"
            )
        tolerances = self._tolerances(tolerance)
        shares = {
            task: np.array([site._masses[task].sum() for site in sites]) / own.sum()
            for task, own in self._masses.items()
        }

        def summed(task: str, influence: np.ndarray) -> np.ndarray:
            return np.array([site._masses[task] @ influence for site in sites])

        return self._sums("site", tolerances, shares, [self._influences(tolerances)], summed)

    def _sums(
        self,
        unit: str,
        tolerances: dict[Pair, float],
        shares: dict[str, np.ndarray],
        ends: list[dict[str, np.ndarray]],
        summed: Callable[[str, np.ndarray], np.ndarray],
    ) -> InfluenceSums:
        """Sum the units' influences z and square them as a jackknife: z / (1 − largest share of a pool).

        NaN where a unit makes up a whole pool, as of :func:`scaled_influences`. Of several ``ends`` between
        which influences lie, z is the one farther from 0.
        """
        largest = np.max(list(shares.values()), axis=0)
        rest = np.where(largest > 1 - NO_VARIATION, math.nan, 1 - largest)
        powers = []
        for kind in range(2):
            both: list[Any] = [sum(summed(task, end[task][kind]) for task in self.counts) for end in ends]
            square = np.square(np.max(np.abs(both), axis=0) / rest)
            powers.append((float(square.sum()), float(square @ square)))
        return InfluenceSums(
            of=self._digest(tolerances),
            unit=unit,
            units=int(np.count_nonzero(largest)),
            bias=powers[0],
            violation_rate=powers[1],
            effective={task: float(np.square(own).sum()) for task, own in shares.items()},
        )

    def _tolerances(self, tolerance: Tolerance | None) -> dict[Pair, float]:
        tolerance = self.tolerance if tolerance is None else tolerance
        if tolerance is None:
            raise InputError("the histogram states no tolerance; name one, or the ruler that holds it")
        for task, cells in self.counts.items():
            if not cells.any():
                raise InputError(
                    f"task {task!r}: no cell of the histogram shows a sample ({self.hidden[task]} are"
                    " hidden); use fewer bins, hide fewer cells, or leave the task out"
                )
        return checked_tolerances(tolerance, list(self.counts))

    def _pairs(self, tolerances: dict[Pair, float]) -> "Iterator[tuple[Pair, float, Terms]]":
        masses = {task: Mass.of(cells) for task, cells in self._masses.items()}
        for (i, j), delta in tolerances.items():
            yield (i, j), delta, Terms(masses[i], masses[j], delta * self.bins)

    def _influences(self, tolerances: dict[Pair, float]) -> dict[str, np.ndarray]:
        """Return per task [2, bins] what a sample in a bin adds to the errors of Bias and violation rate."""
        influences = {task: np.zeros((2, self.bins)) for task in self.counts}
        for pair, _, terms in self._pairs(tolerances):
            for task, means in zip(pair, terms.means(), strict=True):
                centred = means - [[terms.bias], [terms.rate]]
                influences[task] += centred / self._masses[task].sum() / len(tolerances)
        return influences

    def _hidden_influences(self, tolerances: dict[Pair, float]) -> list[dict[str, np.ndarray]]:
        """Return as :meth:`_influences`, of all samples, the least and the greatest that hidden ones allow.

        With h, B read from what is shown and M the most that a pair may have, a sample's mean over the other
        pool lies between (1 − η)h and (1 − η)h + ηM, η the share of that pool that is hidden, and the
        estimate between (1 − q)B and (1 − q)B + qM, q the share of pairs that are not seen.
        """
        hidden, masses = self._hidden_masses, {task: own.sum() for task, own in self._masses.items()}
        totals = {task: own + hidden[task] for task, own in masses.items()}
        ends: list[dict[str, np.ndarray]] = [
            {task: np.zeros((2, self.bins)) for task in self.counts} for _ in range(2)
        ]
        for pair, delta, terms in self._pairs(tolerances):
            centre = np.array([[terms.bias], [terms.rate]])
            most = np.array([[max(0.0, 1 - delta)], [float(delta < 1)]])
            seen = [masses[task] / totals[task] for task in pair]
            lowest, widest = seen[0] * seen[1] * centre, (1 - seen[0] * seen[1]) * most
            for task, means, other in zip(pair, terms.means(), reversed(seen), strict=True):
                low, high = other * means - lowest - widest, other * means + (1 - other) * most - lowest
                for end, own in zip(ends, (low, high), strict=True):
                    end[task] += own / totals[task] / len(tolerances)
        return ends

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
        return spread_of(squares, excess, freedom, sum(sizes.values()), min(sizes.values()))

    def _weighted_spread(self, tolerances: dict[Pair, float]) -> Spread:
        """Return the jackknife over samples; a cell's weights w pass for (Σw)²/Σw² of weight Σw²/Σw each.

        Exact where a cell's weights are equal; else the degrees of freedom are an upper bound.
        """
        squares, fourths, effective = np.zeros(2), np.zeros(2), {}
        for task, influence in self._influences(tolerances).items():
            mass, square = (self.weights or {})[task][:, :-1]
            typical, number = np.zeros((2, self.bins))
            np.divide(square, mass, out=typical, where=mass > 0)
            np.divide(mass, typical, out=number, where=mass > 0)
            share = typical / mass.sum()
            share[share > 1 - NO_VARIATION] = math.nan
            unit = np.square(influence * typical / (1 - share))
            squares += unit @ number
            fourths += np.square(unit) @ number
            effective[task] = float(square.sum() / mass.sum() ** 2)
        return InfluenceSums(
            of="",
            unit="sample",
            units=sum(int(cells.sum()) for cells in self.counts.values()),
            bias=(float(squares[0]), float(fourths[0])),
            violation_rate=(float(squares[1]), float(fourths[1])),
            effective=effective,
        ).spread()

    def _digest(self, tolerances: dict[Pair, float]) -> str:
        digest = hashlib.sha256(json.dumps([*tolerances.items()]).encode())
        for task, cells in self.counts.items():
            digest.update(f"{task}\0{self.hidden[task]}\0".encode() + cells.astype("<i8").tobytes())
        for own in (self.weights or {}).values():
            digest.update(own.astype("<f8").tobytes())
        return digest.hexdigest()[:32]

    def to_json(self) -> str:
        """Return the counts as JSON text, with nothing of a person; :meth:`from_json` reads it."""
        tasks: dict[str, dict[str, Any]] = {
            task: {"hidden": self.hidden[task], "counts": cells.tolist()}
            for task, cells in self.counts.items()
        }
        for task, own in (self.weights or {}).items():
            tasks[task]["weights"] = own.tolist()
        schema = SCHEMA if self.weights is None else WEIGHTED_SCHEMA
        content: dict[str, Any] = {
            "schema": schema,
            "score_definition": self.score_definition,
            "tasks": tasks,
        }
        if self.tolerance is not None:
            content["tolerance"] = self.tolerance
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def _from(cls, content: dict[str, Any]) -> "HistogramSketch":
        counts = {task: _counts(one["counts"]) for task, one in content["tasks"].items()}
        hidden = {task: int(_counts([one["hidden"]])[0]) for task, one in content["tasks"].items()}
        sizes = {len(cells) for cells in counts.values()}
        if len(counts) < 2 or len(sizes) != 1:
            raise ValueError(f"{len(counts)} tasks with {listed(sorted(sizes))} bins")
        checked_bins(sizes.pop())
        weights = {}
        for task, one in content["tasks"].items() if content["schema"] == WEIGHTED_SCHEMA else ():
            own = np.asarray(one["weights"])
            if own.dtype.kind not in "if":
                raise ValueError("weights must be numbers")
            weights[task] = own.astype(np.float64)
        return cls(counts, hidden, content["score_definition"], weights or None, content.get("tolerance"))


def checked_bins(bins: int) -> None:
    """Refuse (``InputError``) bins that are no power of two between 2 and 2²⁰."""
    if not is_number(bins, numbers.Integral) or not 2 <= bins <= _MOST_BINS or bins & (bins - 1):
        raise InputError(
            f"bins must be a power of two from 2 to {_MOST_BINS}, so that binning is exact, got {bins!r}"
        )


def _bins_of(values: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((values * bins).astype(np.int64), bins - 1)


def _counts(values: Any) -> np.ndarray:
    array = np.asarray(values)
    whole = array.ndim == 1 and array.dtype.kind == "i"
    if not whole or array.min() < 0 or array.sum(dtype=float) >= _MOST_SAMPLES:
        raise ValueError("counts must be whole numbers, at least 0, of fewer than 2⁴² samples")
    return array.astype(np.int64)


def _mean(values: Sequence[Any]) -> Any:
    """Return the mean of numbers, or of both ends of ranges."""
    if isinstance(values[0], tuple):
        return tuple(map(_mean, zip(*values, strict=True)))
    return math.fsum(values) / len(values)
