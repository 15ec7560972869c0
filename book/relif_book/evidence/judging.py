"""How claims are judged (SPEC section 16): errors of differences, one-sided tests, equivalence, verdicts.

A part carries two p-values: ``p_for`` against "it does not hold" and ``p_against`` against "it does not
fail". A claim is supported where every part holds (intersection-union: the largest ``p_for``), contradicted
where some part fails after Holm (the smallest ``p_against`` times the number of parts), else inconclusive.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special, stats

from relif_core.errors import InputError

LEVEL = 0.05
POWER = 0.8
#: Beyond this number of seeds only the draw of test subjects is left of an error.
MOST_SEEDS = 10_000
#: Degrees of freedom of an error that is known.
MOST_FREEDOM = 1e9
#: With fewer seeds the estimated degrees are so uncertain that six null parts were called contradicted in 12
#: % of simulated studies of three seeds; there the degrees are those of the seeds alone.
FEWEST_SEEDS_FOR_SATTERTHWAITE = 7

Kind = Literal["lower", "higher", "equal"]
Verdict = Literal["supported", "contradicted", "inconclusive"]


@dataclass(frozen=True)
class Difference:
    """An estimated difference of two means over seeds, with both sources of its error.

    All is conditional on one training set and one δ. A subject error that nothing shows is NaN, and then no
    test decides.

    Attributes:
        spread: s in the seeds' share s²/``seeds`` of the variance.
        subject_error: Standard error over the draw of test subjects, seeds held.
        freedom: Satterthwaite's degrees of the sum; below seven seeds those of the seeds alone.
        subjects: How many subjects the subject error is worth.
    """

    estimate: float
    spread: float
    seeds: int
    subject_error: float
    freedom: float
    subjects: int = 0

    @property
    def error(self) -> float:
        """The standard error √(s²/n + SE²_subject)."""
        return math.hypot(self.spread / math.sqrt(self.seeds), self.subject_error)

    @property
    def known(self) -> bool:
        """Tell whether both sources of the error are known."""
        return math.isfinite(self.error)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided t interval."""
        half = float(special.stdtrit(self.freedom, (1 + level) / 2)) * self.error
        return self.estimate - half, self.estimate + half

    def below(self, margin: float) -> float:
        """Return the p-value of "not below ``margin``": small where the difference is shown to be below."""
        if not self.known:
            return 1.0
        if self.error == 0:
            return float(self.estimate >= margin)
        return float(special.stdtr(self.freedom, (self.estimate - margin) / self.error))


def paired(values: Sequence[float], subject_error: float = 0.0, subjects: int = 0) -> Difference:
    """Return a difference from its values per shared seed and its standard error over ``subjects`` subjects.

    Raises:
        InputError: Fewer than two seeds, whose spread nothing shows, or a value that is not finite.
    """
    n, variance = _spread(values)
    freedom = _degrees([(variance / n, n - 1)], subject_error, subjects)
    return Difference(float(np.mean(values)), math.sqrt(variance), n, subject_error, freedom, subjects)


def unpaired(
    first: Sequence[float], second: Sequence[float], subject_error: float = 0.0, subjects: int = 0
) -> Difference:
    """Return first − second for runs that share no seed (Welch); ``seeds`` is the smaller number of the two.

    Raises:
        InputError: As :func:`paired`.
    """
    (n, a), (m, b) = _spread(first), _spread(second)
    freedom = _degrees([(a / n, n - 1), (b / m, m - 1)], subject_error, subjects)
    seeds = min(n, m)
    spread = math.sqrt(seeds * (a / n + b / m))
    estimate = float(np.mean(first) - np.mean(second))
    return Difference(estimate, spread, seeds, subject_error, freedom, subjects)


@dataclass(frozen=True)
class Part:
    """One statement of a claim with the p-values of its holding and of its failing.

    Attributes:
        difference: Of a part about one, with its ``kind`` ("lower": below ``margin``; "higher": above it;
            "equal": within ± ``margin``).
        parts: Of a part made of others.
    """

    text: str
    p_for: float
    p_against: float
    difference: Difference | None = None
    kind: Kind = "lower"
    margin: float = 0.0
    parts: tuple["Part", ...] = ()

    @property
    def state(self) -> Verdict:
        """The verdict on this part alone."""
        if self.p_for <= LEVEL:
            return "supported"
        return "contradicted" if self.p_against <= LEVEL else "inconclusive"

    @property
    def leaves(self) -> list["Part"]:
        """The parts without parts of their own that this one is made of; itself where it has none."""
        return [leaf for part in self.parts for leaf in part.leaves] or [self]


def lower(text: str, difference: Difference, margin: float = 0.0) -> Part:
    """State that a difference lies below ``margin``."""
    holds, fails = difference.below(margin), _opposite(difference).below(-margin)
    return Part(text, holds, fails, difference, "lower", margin)


def not_run(text: str) -> Part:
    """State what no run shows yet: it neither holds nor fails."""
    return Part(text, 1.0, 1.0)


def higher(text: str, difference: Difference, margin: float = 0.0) -> Part:
    """State that a difference lies above ``margin``."""
    holds, fails = _opposite(difference).below(-margin), difference.below(margin)
    return Part(text, holds, fails, difference, "higher", margin)


def equal(text: str, difference: Difference, margin: float) -> Part:
    """State that a difference lies within ± ``margin`` (two one-sided tests)."""
    inside = max(difference.below(margin), _opposite(difference).below(margin))
    size = abs(difference.estimate)
    if not difference.known:
        beyond = 1.0
    elif difference.error == 0:
        beyond = float(size <= margin)
    else:
        # The probability of so large a difference at the edge of the margin, on either side.
        edges = np.array([margin - size, -margin - size]) / difference.error
        beyond = float(special.stdtr(difference.freedom, edges).sum())
    return Part(text, inside, min(1.0, beyond), difference, "equal", margin)


def fact(text: str, holds: bool) -> Part:
    """State what is counted and not estimated."""
    return Part(text, float(not holds), float(holds))


def rank_change(text: str, raw: Difference, fixed: Difference) -> Part:
    """State that two methods change their order between two audits: one-sided bounds of opposite sign.

    It fails where both bounds have one sign.
    """
    a, b = raw.below(0), _opposite(raw).below(0)
    c, d = fixed.below(0), _opposite(fixed).below(0)
    return Part(text, min(max(a, d), max(b, c)), min(max(a, c), max(b, d)))


def at_least(count: int, text: str, parts: Sequence[Part]) -> Part:
    """State that at least some number of parts hold (partial conjunction).

    With m parts, ``p_for`` is m − count + 1 times the count-th smallest; all of them: the largest; any of
    them: m times the smallest. It fails where at least m − count + 1 fail, by the same rule.
    Source: Benjamini and Heller, Biometrics 64 (2008) 1215–1222.

    Args:
        count: How many must hold.
        text: The statement.
        parts: The parts.

    Raises:
        InputError: ``count`` is below 1 or above the number of parts.
    """
    m = len(parts)
    if not 1 <= count <= m:
        raise InputError(f"{text}: at least {count} of {m} parts cannot be asked")
    return Part(
        text,
        _partial([part.p_for for part in parts], count),
        _partial([part.p_against for part in parts], m - count + 1),
        parts=tuple(parts),
    )


def judge(parts: Sequence[Part]) -> Verdict:
    """Return the verdict on a claim that says all its parts."""
    return at_least(len(parts), "claim", parts).state


def failing(parts: Sequence[Part], level: float = LEVEL) -> list[Part]:
    """Return the parts that fail after Holm's correction over all parts."""
    return [parts[place] for place in holm([part.p_against for part in parts], len(parts), level)]


def holm(values: Sequence[float], tests: int, level: float = LEVEL) -> list[int]:
    """Return the places of the p-values that survive Holm's correction over ``tests``, the least first."""
    order = sorted(range(len(values)), key=values.__getitem__)
    lost = (rank for rank, place in enumerate(order) if values[place] * (tests - rank) > level)
    return order[: next(lost, len(order))]


def power(
    kind: Literal["lower", "equal"],
    effect: float,
    spread: float,
    seeds: int,
    subject_error: float = 0.0,
    margin: float = 0.0,
    subjects: int = 4000,
    level: float = LEVEL,
) -> float:
    """Return the probability that a part is found to hold.

    Paired seeds; "lower" by the noncentral t distribution, "equal" by the difference of two of them.

    Args:
        kind: "lower" or "equal".
        effect: The true difference.
        spread: Paired standard deviation between seeds.
        seeds: Their number.
        subject_error: Standard error over subjects.
        margin: Of the part.
        subjects: Their number.
        level: Of the test.
    """
    if seeds < 2:
        return 0.0
    error = math.hypot(spread / math.sqrt(seeds), subject_error)
    freedom = _degrees([(spread**2 / seeds, seeds - 1)], subject_error, subjects)
    if error == 0:
        return float(effect < margin if kind == "lower" else abs(effect) < margin)
    t = float(special.stdtrit(freedom, 1 - level))
    upper = _below(-t, freedom, (effect - margin) / error)
    if kind == "lower":
        return upper
    return max(0.0, upper - _below(t, freedom, (effect + margin) / error))


def seeds_needed(powered: Callable[[int], float], target: float = POWER) -> int | None:
    """Return the fewest seeds at which ``powered(seeds)`` reaches ``target``; None where no number does."""
    if powered(MOST_SEEDS) < target:
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if powered(middle) >= target else (middle, high)
    return high


def part_power(part: Part) -> tuple[float, int | None]:
    """Return the power that a part's test had, and the seeds that 80 % needs (None: no number reaches it).

    A one-sided part is read at its seen distance from the margin, an "equal" part at no true difference.

    Raises:
        InputError: The part has parts of its own.
    """
    found = part.difference
    if found is None:
        raise InputError(f"{part.text}: no single difference, so no power; ask its parts")

    def powered(seeds: int) -> float:
        errors = found.spread, seeds, found.subject_error
        if part.kind == "equal":
            return power("equal", 0.0, *errors, part.margin, found.subjects)
        return power("lower", -abs(found.estimate - part.margin), *errors, 0.0, found.subjects)

    return powered(found.seeds), seeds_needed(powered)


def _below(value: float, freedom: float, shift: float) -> float:
    """Return the noncentral t distribution at a value; its limit where scipy has none (far shifts: NaN)."""
    found = float(stats.nct.cdf(value, freedom, shift))
    return float(shift < value) if math.isnan(found) else found


def _partial(values: Sequence[float], count: int) -> float:
    return min(1.0, (len(values) - count + 1) * sorted(values)[count - 1])


def _opposite(difference: Difference) -> Difference:
    return replace(difference, estimate=-difference.estimate)


def _spread(values: Sequence[float]) -> tuple[int, float]:
    if len(values) < 2 or not np.isfinite(values).all():
        seeds = "one seed shows" if len(values) == 1 else f"{len(values)} seeds show"
        raise InputError(f"{seeds} no spread between seeds; a difference needs two or more finite values")
    return len(values), float(np.var(values, ddof=1))


def _degrees(seeds: Sequence[tuple[float, int]], subject_error: float, subjects: int) -> float:
    """Return Satterthwaite's (Σ v)² / Σ v²/df over the seeds' (variance, degrees) and the subjects' share."""
    enough = all(freedom + 1 >= FEWEST_SEEDS_FOR_SATTERTHWAITE for _, freedom in seeds)
    components = [*seeds, (subject_error**2, subjects - 1)] if enough else seeds
    present = [(variance, freedom) for variance, freedom in components if variance > 0]
    below = sum(variance**2 / max(freedom, 1) for variance, freedom in present)
    return sum(variance for variance, _ in present) ** 2 / below if below > 0 else MOST_FREEDOM
