"""Standard errors clustered by subject, intervals, and a subject bootstrap to check them."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from relif_core.audit.exact import PairTerms, pair_terms, passes
from relif_core.audit.pools import (
    Pair,
    Pool,
    Pools,
    Tolerance,
    checked_fraction,
    checked_integer,
)
from relif_core.errors import InputError

#: Standard errors up to here are rounding.
NO_VARIATION = 1e-12
#: Below so many degrees of freedom a difference rests on about three subjects.
FEW_DEGREES = 6


@dataclass(frozen=True, eq=False)
class Influences:
    """What each subject contributes to the error of the estimates, summed over its samples.

    This is one row per person: it never leaves the machine unless asked for.

    Attributes:
        subjects: Ids [G], ascending.
        share: [G], each one's largest share of any pool.
        bias: Summed influences [G]; their sum is 0.
        violation_rate: Likewise.
    """

    subjects: np.ndarray
    share: np.ndarray
    bias: np.ndarray
    violation_rate: np.ndarray

    def scaled(self, kind: str) -> np.ndarray:
        """Return influences [G] on "bias" or "violation_rate"; their squares sum to the variance.

        The variance of a sum of estimates on the same subjects is the sum of squares of their summed
        influences, and the covariance of two is the inner product (see :func:`.scaled_influences`).
        """
        return scaled_influences(getattr(self, kind), self.share)


class Spread(NamedTuple):
    """Standard errors [2] of Bias and violation rate, their degrees of freedom [2], and their units.

    Of G groups all are arrays, [2, G] or [G].

    Attributes:
        units: Number of independent units.
        freedom: Degrees of freedom by their number and sizes alone.
        effective_pairs: Independent pairs: G/2 of G effective subjects, whatever ties a subject's tasks, or
            the smallest pool of independent samples.
    """

    errors: np.ndarray
    freedoms: np.ndarray
    units: Any
    freedom: Any
    effective_pairs: Any

    def fields(self, drawn: np.ndarray | float = 0.0, pairs: int | None = None) -> dict[str, Any]:
        """Return it as fields of :class:`.Estimates`; drawing ``pairs`` adds the variances ``drawn`` [2]."""
        bias_se, rate_se = np.sqrt(self.errors**2 + drawn).tolist()
        bias_freedom, rate_freedom = self.freedoms.tolist()
        return {
            "clusters": self.units,
            "bias_se": bias_se,
            "violation_rate_se": rate_se,
            "bias_freedom": bias_freedom,
            "violation_rate_freedom": rate_freedom,
            "effective_pairs": self.effective_pairs if pairs is None else min(self.effective_pairs, pairs),
        }


class SubjectSpread:
    """Standard errors with subjects as independent units, whichever pools their samples lie in.

    Bias_ij is a two-sample U-statistic with kernel ``(|x − y| − δ)_+``. To first order its error is::

        Σ_x h_i(x) / n_i + Σ_y h_j(y) / n_j,   h_i(x) = E_y[(|x − y| − δ)_+] − Bias_ij, h_j alike

    A subject's influence z_s is the part of these sums that stems from its samples; over task pairs z_s
    is the mean of the pairs' z_s. An estimate follows the subjects that it is made of, the more the larger
    their share p_s of a pool; leaving a subject out moves it by z_s / (1 − p_s). With G subjects the variance
    is that of the jackknife, (G − 1)/G · Σ_s (z_s / (1 − p_s))², with p_s the largest share over the pools.
    Where every subject has the same share of every pool this is G/(G − 1) · Σ_s z_s². The effective number of
    subjects is the smallest over the pools of n² / Σ_s n_s² (Kish 1965), which is G for equal subjects; the
    degrees of freedom are at most that minus 1, and fewer where few subjects make up the variance
    (:func:`combined_error`). The violation rate is treated the same way with kernel ``1[|x − y| > δ]``. Where
    samples are weighted, weights that sum to 1 take the place of 1/n_i everywhere.
    """

    def __init__(self, pools: Mapping[str, Pool], ids: np.ndarray, pairs: int) -> None:
        self._pools, self._ids, self._pairs = pools, ids, pairs
        self.counts = {
            task: np.bincount(_codes(pool), pool.weights, len(ids)) for task, pool in pools.items()
        }
        mass = {task: pool.size if pool.weights is None else 1 for task, pool in pools.items()}
        self._shares = {task: own / mass[task] for task, own in self.counts.items()}
        squares = {task: float(np.square(own, dtype=np.float64).sum()) for task, own in self.counts.items()}
        self._effective = {task: mass[task] ** 2 / square for task, square in squares.items()}
        self._total = np.zeros((2, len(ids)))

    def add(self, pair: Pair, terms: PairTerms) -> Spread:
        """Return the spread of one task pair."""
        both = np.zeros((2, len(self._ids)))
        for task, means in zip(pair, (terms.first, terms.second), strict=True):
            pool = self._pools[task]
            weights = np.broadcast_to(1 / pool.size, pool.size) if pool.weights is None else pool.weights
            centres = terms.bias, terms.violation_rate
            passes().subject_sums(both, _codes(pool), means, centres, weights)
        spread = self._spread(both, pair)
        both /= self._pairs
        self._total += both
        return spread

    def _spread(self, summed: np.ndarray, tasks: Iterable[str]) -> Spread:
        share, effective = self._share(tasks), min(self._effective[task] for task in tasks)
        present = share > 0
        found = [
            combined_error(scaled_influences(own[present], share[present]), effective - 1) for own in summed
        ]
        errors, freedoms = np.array(found).T
        return Spread(errors, freedoms, int(np.count_nonzero(present)), effective - 1, effective / 2)

    def total(self) -> Spread:
        """Return the spread of the means over task pairs."""
        return self._spread(self._total, self._shares)

    def influences(self) -> Influences:
        """Return the summed influences of the subjects that were audited."""
        share = self._share(self._shares)
        audited = share > 0
        return Influences(
            self._ids[audited], share[audited], self._total[0][audited], self._total[1][audited]
        )

    def _share(self, tasks: Iterable[str]) -> np.ndarray:
        return np.max([self._shares[task] for task in tasks], axis=0)


class SampleSpread:
    """Standard errors with every sample of every pool as an independent unit, where no subjects are known.

    The variance is Σ_i s_i²/n_i with s_i² the variance, with n_i − 1 in the denominator, of the per-sample
    terms ``E_y[(|x − y| − δ)_+]`` of pool i, averaged over the pairs that the pool takes part in.
    """

    def __init__(self, pools: Mapping[str, Pool], pairs: int) -> None:
        self._samples = {task: pool.size for task, pool in pools.items()}
        self._pairs = pairs
        self._means = {task: np.zeros((2, size if pairs > 1 else 0)) for task, size in self._samples.items()}
        self._last: Spread | None = None

    def add(self, pair: Pair, terms: PairTerms) -> Spread:
        """Return the spread of one task pair."""
        if self._pairs > 1:
            for kind, means in enumerate(terms.kinds()):
                for task, own in zip(pair, means[:2], strict=True):
                    self._means[task][kind] += own
        self._last = self._spread([means[:2] for means in terms.kinds()])
        return self._last

    def total(self) -> Spread:
        """Return the spread of the means over task pairs."""
        if self._last is not None and self._pairs == 1:
            return self._last
        kinds = zip(*(held / self._pairs for held in self._means.values()), strict=True)
        return self._spread(list(kinds))

    def _spread(self, kinds: Sequence[Sequence[np.ndarray]]) -> Spread:
        sizes = [len(own) for own in kinds[0]]
        freedom = sum(sizes) - len(sizes)
        errors, freedoms = np.array([independent_error(kind, freedom) for kind in kinds]).T
        return Spread(errors, freedoms, sum(sizes), freedom, min(sizes))


def scaled_influences(summed: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return sqrt((G−1)/G) · z_s / (1 − p_s) for the summed influences z [G] of subjects with shares p [G].

    NaN where a single subject makes up a whole pool, but for rounding: nothing shows the spread of others.
    Subjects without a share (p = 0) are no part of G and have no influence.
    """
    subjects = int(np.count_nonzero(share))
    if subjects < 2 or share.max() > 1 - NO_VARIATION:
        return np.full(len(summed), math.nan)
    return summed * (math.sqrt((subjects - 1) / subjects) / (1 - share))


def combined_error(scaled: np.ndarray, freedom: float) -> tuple[float, float]:
    """Return the standard error of scaled influences z [G] and its degrees of freedom, ≤ ``freedom``.

    The error is sqrt(Σ z²). Its square varies like Σ z² of so many normal numbers as 2 (Σ z²)² / (Σ z⁴ − (Σ
    z²)²/G), which is G for normal influences, about 2k if k subjects make up all (Satterthwaite 1946).
    """
    square = np.square(scaled)
    variance = float(square.sum())
    excess = float(np.einsum("i,i", square, square)) - variance**2 / len(square)
    return math.sqrt(variance), satterthwaite_freedom(variance, excess, freedom)


def independent_error(pools: Iterable[np.ndarray], freedom: float) -> tuple[float, float]:
    """Return sqrt(Σ s²/n) of independent pools' per-sample terms, and its freedom; NaN where n = 1."""
    total = excess = 0.0
    for means in pools:
        n = len(means)
        if n < 2:
            return math.nan, math.nan
        square, fourth = passes().powers(means, float(means.mean()))
        scale = 1 / (n * (n - 1))
        total += square * scale
        excess += (fourth - square**2 / n) * scale**2
    return math.sqrt(total), satterthwaite_freedom(total, excess, freedom)


def satterthwaite_freedom(variance: float, excess: float, most: float) -> float:
    """Return 2 variance² / ``excess`` (:func:`combined_error`), at most ``most``; that for mere rounding."""
    fewer = excess * most > 2 * variance**2 and not variance <= NO_VARIATION**2
    return 2 * variance**2 / excess if fewer else most


def interval(estimate: float, error: float, level: float, freedom: float) -> tuple[float, float]:
    """Return estimate ± t · error, with t the two-sided ``level`` quantile of Student's t distribution."""
    half = student_quantile((1 + checked_level(level)) / 2, freedom) * error
    return estimate - half, estimate + half


def unit_interval(
    estimate: float,
    error: float,
    level: float,
    freedom: float,
    effective_pairs: float,
    widest: float = 1.0,
) -> tuple[float, float]:
    """Return the interval of a mean over pairs of a quantity in [0, widest], such as Bias or violation rate.

    It is logit ± t · error / (estimate (1 − estimate)), mapped back: near the middle estimate ± t · error,
    near 0 or 1, where few units make up the estimate, asymmetric and within (0, 1). An estimate of 0 or 1, or
    without error, comes from units that show no variation. Others may, up to a probability u
    (:func:`unseen_bound`): the interval is then (1 − u) · estimate to (1 − u) · estimate + u · widest, which
    from 0 is a one-sided upper bound.

    Args:
        estimate: The mean.
        error: Its standard error.
        level: In (0, 1).
        freedom: Degrees of freedom of the error.
        effective_pairs: Independent pairs behind it.
        widest: The quantity's maximum.

    Raises:
        InputError: A level outside (0, 1).
    """
    quantile = student_quantile((1 + checked_level(level)) / 2, freedom)
    if math.isnan(error) or math.isnan(quantile):
        return math.nan, math.nan
    if error <= NO_VARIATION or not 0 < estimate < 1:
        unseen = unseen_bound(effective_pairs, level)
        low = (1 - unseen) * estimate
        return low, min(1.0, low + unseen * widest)
    half = min(quantile * error / (estimate * (1 - estimate)), 700.0)
    odds = estimate / (1 - estimate)
    low, high = odds * math.exp(-half), math.exp(-half) / odds
    return low / (1 + low), 1 / (1 + high)


def difference_interval(
    difference: float,
    error: float,
    level: float,
    freedom: float,
    effective_pairs: float,
    widest: float = 1.0,
) -> tuple[float, float]:
    """Return difference ± t · error within [−1, 1].

    Where few of the units tell the two apart (degrees of freedom below 6, as of three subjects, and below
    half of the effective subjects), or none, ± what none of them may show (:func:`unseen_bound`) is added.

    Raises:
        InputError: A level outside (0, 1).
    """
    low, high = interval(difference, error if error > NO_VARIATION else 0.0, level, freedom)
    if error <= NO_VARIATION or freedom < min(FEW_DEGREES, effective_pairs):
        unseen = unseen_bound(effective_pairs, level) * widest
        low, high = low - unseen, high + unseen
    return (low, high) if math.isnan(low) else (max(-1.0, low), min(1.0, high))


def unseen_bound(effective_pairs: float, level: float) -> float:
    """Return the largest probability, at one-sided ``level``, of what none of so many pairs shows.

    It solves (1 − p)^pairs = 1 − level. G subjects make G/2 independent pairs, however their tasks tie.

    Raises:
        InputError: A level outside (0, 1).
    """
    return -math.expm1(math.log1p(-checked_level(level)) / effective_pairs)


def checked_level(level: float) -> float:
    """Return a confidence level in (0, 1); ``InputError`` for others."""
    return checked_fraction(level, "level")


def p_value(difference: float, error: float, freedom: float) -> float:
    """Return the two-sided p-value of no difference: 1 where no unit tells them apart, NaN without error."""
    if math.isnan(error) or not freedom > 0:
        return math.nan
    if error <= NO_VARIATION or difference == 0:
        return 1.0
    return _both_tails(abs(difference) / error, freedom)


@functools.lru_cache(maxsize=1024)
def student_quantile(probability: float, freedom: float) -> float:
    """Return Student's t quantile at a probability in [0.5, 1), to 9 digits (at most 1e154).

    Below 1,000 degrees of freedom the distribution function is inverted; from there on the Cornish-Fisher
    expansion about the normal quantile serves (Abramowitz and Stegun 1964, 26.5.8 and 26.7.5). NaN without
    degrees of freedom.

    Raises:
        InputError: A probability outside [0.5, 1 − 1e-12].
    """
    if not 0.5 <= probability <= 1 - 1e-12:
        raise InputError(
            f"the t quantile is computed for probabilities from 0.5 to 1 - 1e-12, not {probability}"
        )
    if not freedom > 0:
        return math.nan
    if probability == 0.5:
        return 0.0
    if freedom < 1000:
        return _inverted_student(2 * (1 - probability), freedom)
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def _inverted_student(tail: float, freedom: float) -> float:
    """Return t with P(|T| > t) = ``tail``, by bisection of log t."""
    low, high = -700.0, 700.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _both_tails(math.exp(middle), freedom) > tail else (low, middle)
    return math.exp(middle)


def _both_tails(t: float, freedom: float) -> float:
    """Return P(|T| > t) = I_x(ν/2, 1/2) with x = ν / (ν + t²)."""
    outer, inner = freedom / (freedom + t * t), 1 / (1 + freedom / (t * t))
    a, b = freedom / 2, 0.5
    if outer < (a + 1) / (a + b + 2):
        return _beta_fraction(a, b, outer, inner)
    return 1 - _beta_fraction(b, a, inner, outer)


def _beta_fraction(a: float, b: float, x: float, rest: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), a continued fraction; ``rest`` is 1 − x."""
    if x == 0:
        return 0.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    )
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 500):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + step * d), 1 + step / c
            value *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * value / a


def subject_bootstrap(
    scores: Mapping[str, Any],
    tolerance: Tolerance,
    subjects: Mapping[str, Any],
    *,
    replicates: int = 1000,
    seed: int = 0,
    weights: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw subjects with replacement; return exact Bias and violation rate per replicate [replicates].

    A check of the clustered standard errors: slower by a factor of ``replicates``, but free of the
    first-order expansion. A replicate in which some task has no sample is drawn again.

    Args:
        scores: As for :func:`audit`.
        tolerance: As for :func:`audit`.
        subjects: As for :func:`audit`.
        replicates: Number of draws.
        seed: Of the draws.
        weights: As for :func:`audit`; a drawn subject brings its samples' weights along.

    Raises:
        InputError: As :func:`audit` for scores, tolerance, subjects and weights.
    """
    checked_integer(replicates, "replicates", 1)
    pools = Pools.of(scores, tolerance, subjects, weights, clustered=True).weighty()
    ordered, people = pools.sorted(), pools.people
    generator = np.random.default_rng(checked_integer(seed, "seed", 0))
    bias, rate = np.empty(replicates), np.empty(replicates)
    done = 0
    while done < replicates:
        times = np.bincount(generator.integers(0, people, people), minlength=people)
        drawn = {task: _drawn(pool, times[_codes(pool)]) for task, pool in ordered.items()}
        if any(pool.size == 0 for pool in drawn.values()):
            continue
        terms = [pair_terms(drawn[i], drawn[j], delta) for (i, j), delta in pools.tolerances.items()]
        bias[done] = np.mean([term.bias for term in terms])
        rate[done] = np.mean([term.violation_rate for term in terms])
        done += 1
    return bias, rate


def _codes(pool: Pool) -> np.ndarray:
    assert pool.codes is not None
    return pool.codes


def _drawn(pool: Pool, times: np.ndarray) -> Pool:
    """Return the pool with its samples so many times each."""
    weights = None if pool.weights is None else np.repeat(pool.weights, times)
    if weights is not None and len(weights):
        weights /= weights.sum()
    return Pool(np.repeat(pool.values, times), weights)
