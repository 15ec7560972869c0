"""The analysis plan in code: what its words mean in numbers, and the power of its contrasts.

``data/analysis_plan.md`` is the plan; its table of power is what :func:`power_table` computes from its rows.
"""

import re
from functools import partial
from typing import Literal

from relif_book.evidence.judging import power, seeds_needed

#: Standard errors of a paired difference over the 4,000 test stays of PhysioNet 2012: those of Worst and
#: Macro from a subject bootstrap of one pair of runs, so that they bound what averages over seeds have.
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

_ROW = re.compile(
    r"^(?P<asked>\|[^|]+\|[^|]+\| (?P<text>[^|]+) \| (?P<seeds>\d+) \| (?P<effect>[−+\d.]+) "
    r"\| (?:–|± (?P<margin>[\d.]+)) \| (?P<spreads>[\d.–]+) \|).*\|.*\|$",
    re.MULTILINE,
)


def power_table(plan: str) -> str:
    """Return the rows of planned contrasts of the text of a plan with their power and the seeds they need.

    Both are computed anew at the row's spreads, so that equal rows confirm what the plan prints.
    """
    return "\n".join(_row(found) for found in _ROW.finditer(plan))


def _row(found: re.Match[str]) -> str:
    text, effect, margin = found["text"], float(found["effect"].replace("−", "-")), found["margin"]
    bias_subjects = 0.0001 if text.endswith("calibrated") else 0.0002
    subjects = WORST_SUBJECTS if "Worst" in text else bias_subjects
    kind: Literal["lower", "equal"] = "equal" if margin else "lower"

    def powered(spread: float, seeds: int) -> float:
        return power(kind, effect, spread, seeds, subjects, float(margin or 0))

    spreads = [float(value) for value in found["spreads"].split("–")]
    powers = [f"{powered(spread, int(found['seeds'])):.2f}" for spread in spreads]
    needed = [seeds_needed(partial(powered, spread)) for spread in spreads]
    seeds = ["out of reach" if value is None else f"{value:,}" for value in needed]
    return f"{found['asked']} {'–'.join(dict.fromkeys(powers))} | {'–'.join(dict.fromkeys(seeds))} |"
