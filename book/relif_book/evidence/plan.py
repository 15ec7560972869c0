"""The analysis plan in code: what every planned contrast asks, and the power that exploratory runs give it.

``data/analysis_plan.md`` is the plan; its tables of power are printed by :func:`power_table` and
:func:`detectable_table`. The spreads are of exploratory runs: the kept runs of PhysioNet 2012 at 20 epochs,
and the pilot of four seeds at 40 epochs that the plan quotes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from relif_book.evidence.judging import power, seeds_needed
from relif_book.evidence.reporting import MethodSummary, common_seeds

#: Methods whose paired spread against ReLiF as released stands for that of a planned contrast.
SPREAD_FROM = (
    "erm",
    "gradnorm",
    "fairgrad",
    "cats_as_released",
    "relif_static_1",
    "relif_no_alignment",
    "relif_step_size_1",
)
#: Paired standard deviations between seeds, least and greatest seen (:func:`seen_spreads`, 3 decimals).
BIAS_SPREAD = (0.006, 0.011)
WORST_SPREAD = (0.011, 0.026)
MACRO_SPREAD = (0.003, 0.005)
#: Standard errors of a paired difference over the 4,000 test stays of PhysioNet 2012: those of Worst and
#: Macro from a subject bootstrap of one pair of runs, so that they bound what averages over seeds have.
BIAS_SUBJECTS = 0.0002
WORST_SUBJECTS = 0.005
MACRO_SUBJECTS = 0.0025

#: "Substantially below": at most this share of the other's mean Bias (or violation rate).
SUBSTANTIALLY = 0.8
#: "Wide": the largest mean induced tolerance is at least this many times the smallest.
WIDE = 1.5
#: "Small", "essentially unchanged", "same range": the largest difference in Worst and Macro, and in Bias.
SAME_UTILITY = 0.02
SAME_BIAS = 0.02
#: "Similarly": the largest difference between two rises of Bias.
SIMILAR_RISE = 0.01
#: "Less favourable": higher Bias, and Worst not higher by as much as this.
FAVOURABLE_WORST = 0.01
#: "Several": at least so many.
SEVERAL = 2
#: "Matched utility": the two runs' validation Worst differ by at most this.
MATCHED_WORST = 0.01
#: "Temperature scaling lowers Bias": the calibrated share of the raw Bias.
CALIBRATED_SHARE = 0.2
#: "The released controller does what plain training does": largest difference in raw and calibrated Bias.
LIKE_PLAIN = 0.006
LIKE_PLAIN_CALIBRATED = 0.001


@dataclass(frozen=True)
class Contrast:
    """One planned test: what must be shown of a difference, which one is expected, and with which errors.

    Attributes:
        kind: "lower": the difference lies below ``margin``; "equal": within ± ``margin``.
        spreads: Least and greatest paired deviation between seeds that exploratory runs make likely.
    """

    claim: str
    study: str
    text: str
    kind: Literal["lower", "equal"]
    seeds: int
    effect: float
    spreads: tuple[float, float]
    margin: float = 0.0
    subject_error: float = 0.0
    powers: tuple[float, float] = field(init=False)
    needed: tuple[int | None, int | None] = field(init=False)

    def __post_init__(self) -> None:
        def powered(spread: float, seeds: int) -> float:
            return power(self.kind, self.effect, spread, seeds, self.subject_error, self.margin)

        object.__setattr__(self, "powers", tuple(powered(spread, self.seeds) for spread in self.spreads))
        needed = tuple(seeds_needed(partial(powered, spread)) for spread in self.spreads)
        object.__setattr__(self, "needed", needed)


def _lower(
    claim: str, study: str, text: str, seeds: int, effect: float,
    spreads: tuple[float, float] = BIAS_SPREAD, subject_error: float = BIAS_SUBJECTS,
) -> Contrast:  # fmt: skip
    return Contrast(claim, study, text, "lower", seeds, effect, spreads, 0.0, subject_error)


def _equal(
    claim: str, study: str, text: str, seeds: int, margin: float,
    spreads: tuple[float, float] = BIAS_SPREAD, subject_error: float = BIAS_SUBJECTS,
) -> Contrast:  # fmt: skip
    return Contrast(claim, study, text, "equal", seeds, 0.0, spreads, margin, subject_error)


_WORST = (WORST_SPREAD, WORST_SUBJECTS)
#: Effects and spreads of the primary contrasts are those of the pilot; a difference of two rows has both
#: rows' spreads, unpaired.
PLANNED: tuple[Contrast, ...] = (
    _lower(
        "primary 1", "power", "ERM: calibrated Bias below a fifth of raw Bias", 30, -0.0077, (0.001, 0.0019)
    ),
    _lower("primary 2", "power", "GradNorm below ERM, raw", 15, -0.0352, (0.0105, 0.0105)),
    _lower("primary 2", "power", "ERM below GradNorm, calibrated", 15, -0.001, (0.0008, 0.0012), 0.0001),
    _lower("primary 3", "power", "static λ = 1 below ERM, raw", 30, -0.0291, (0.0173, 0.0173)),
    _lower("primary 3", "power", "static λ = 1 below ERM, calibrated", 30, -0.0023, (0.0006, 0.0009), 0.0001),
    _lower("primary 4", "power", "static λ = 1 below ReLiF as released, raw", 30, -0.0275, (0.016, 0.016)),
    _lower(
        "primary 4",
        "power",
        "static λ = 1 below ReLiF as released, calibrated",
        30,
        -0.0018,
        (0.0004, 0.0007),
        0.0001,
    ),
    _equal("beside 4", "power", "ReLiF as released like ERM, raw", 30, LIKE_PLAIN),
    _equal(
        "beside 4",
        "power",
        "ReLiF as released like ERM, calibrated",
        30,
        LIKE_PLAIN_CALIBRATED,
        (0.0006, 0.0009),
        0.0001,
    ),
    _lower("2, 6", "table3", "GradNorm below ReLiF in Bias", 7, -0.0336, (0.01, 0.01)),
    _lower("2, 6", "table3", "ReLiF above GradNorm in Worst", 7, -0.01, *_WORST),
    _lower("2", "table3", "FairGrad above another method in Worst", 7, -0.01, *_WORST),
    _lower("2", "table3", "ReLiF below FairGrad in Bias", 7, -0.01),
    _lower("3", "table3", "ReLiF above another method in Worst", 7, -0.01, *_WORST),
    _lower("5", "power", "ReLiF as released below ERM in Bias", 30, -0.0016),
    _equal("5", "power", "ReLiF as released like ERM in Worst", 30, SAME_UTILITY, *_WORST),
    _lower("5", "power", "ReLiF as released below no alignment in Bias", 30, -0.0095),
    _equal("5", "power", "no alignment like ERM in Bias", 30, SIMILAR_RISE),
    _lower("5", "power", "ReLiF as released below the mean of five static weights in Bias", 15, -0.01),
    _lower(
        "5", "power", "ReLiF as released above the mean of five static weights in Worst", 15, -0.01, *_WORST
    ),
    _lower("7", "b3", "η = 0.001 below η = 1 in Bias", 7, -0.01),
    _equal("7", "b3", "another target like ρ* = 0.16 in Worst", 7, SAME_UTILITY, *_WORST),
    _equal("7", "b3", "another target like ρ* = 0.16 in Bias", 7, SAME_BIAS),
)


def seen_spreads(
    summaries: Mapping[str, MethodSummary], kind: Literal["bias", "worst", "macro"]
) -> tuple[float, float]:
    """Return the smallest and the largest paired spread over seeds of a method's difference to ReLiF."""
    found = []
    for method in SPREAD_FROM:
        seeds = common_seeds(summaries["relif"], summaries[method])
        a, b = (getattr(summaries[name].of_seeds(seeds), kind) for name in ("relif", method))
        found.append(float(np.std(np.subtract(b, a), ddof=1)))
    return min(found), max(found)


def power_table(planned: Sequence[Contrast] = PLANNED) -> str:
    """Return the power of every planned contrast, at both of its spreads, as a Markdown table."""
    lines = [
        "| claim | study | must be shown | seeds | difference | margin | spread | power | seeds needed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {item.claim} | {item.study} | {item.text} | {item.seeds} | {_signed(item.effect)} | "
        f"{f'± {item.margin:g}' if item.kind == 'equal' else '–'} | "
        f"{_range(f'{value:.4f}' for value in item.spreads)} | "
        f"{_range(f'{value:.2f}' for value in item.powers)} | {_range(map(_seeds, item.needed))} |"
        for item in planned
    ]
    return "\n".join(lines)


def detectable(spread: float, seeds: int, subject_error: float, target: float = 0.8) -> float:
    """Return the smallest difference that a one-sided test of paired seeds finds with power ``target``."""
    differences = np.linspace(0, 0.2, 4001)
    low, high = 0, len(differences) - 1
    while high - low > 1:
        middle = (low + high) // 2
        enough = power("lower", -differences[middle], spread, seeds, subject_error) >= target
        low, high = (low, middle) if enough else (middle, high)
    return float(differences[high])


def detectable_table(seeds: Sequence[int] = (3, 7, 10, 15, 30)) -> str:
    """Return the smallest differences that 80 % power finds, per number of seeds, as a Markdown table."""
    kinds = (
        ("Bias", BIAS_SPREAD, BIAS_SUBJECTS),
        ("Worst", WORST_SPREAD, WORST_SUBJECTS),
        ("Macro", MACRO_SPREAD, MACRO_SUBJECTS),
    )
    lines = ["| seeds | Bias | Worst | Macro |", "| --- | --- | --- | --- |"]
    for n in seeds:
        cells = [
            "–".join(f"{detectable(spread, n, subjects):.4f}" for spread in spreads)
            for _, spreads, subjects in kinds
        ]
        lines.append(f"| {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−") if value else "0"


def _range(cells: Iterable[str]) -> str:
    return "–".join(dict.fromkeys(cells))


def _seeds(value: int | None) -> str:
    return "out of reach" if value is None else f"{value:,}"
