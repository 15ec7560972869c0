"""How often 95 % intervals cover the truth: ``python -m benchmarks.interval_coverage [COHORTS]``.

Each row simulates cohorts (benchmarks/cohorts.py) and counts how often an interval of level 0.95 covers the Bias or
violation rate of the generating distribution: with errors clustered by subject, with every stay taken as independent
(what a reader might do without subject ids), and for the paired difference of two methods. "Paired/unpaired" is the
mean ratio of the paired standard error to sqrt(SE_a² + SE_b²).
"""

import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.cohorts import draw_cohort, true_values
from relif_core.audit import AuditResult, audit, compare

SIZES = (30, 100, 400)
TOLERANCES = (0.1, 0.275)
HEADER = (
    "| subjects | δ | cohorts | Bias, by subject | VR, by subject | Bias, by stay | VR, by stay | "
    "Bias difference | VR difference | paired/unpaired | Bias SE / true SD |"
)


def coverage(subjects: int, tolerance: float, cohorts: int, seed: int) -> dict[str, float]:
    """Return the shares of cohorts whose intervals cover the truth, and two ratios of standard errors."""
    generator = np.random.default_rng(seed)
    bias, rate = true_values(tolerance)
    other_bias, other_rate = true_values(tolerance, shift=0.4)
    rows = []
    estimates = []
    for _ in range(cohorts):
        cohort = draw_cohort(subjects, generator)
        clustered = audit(cohort.scores, tolerance, subjects=cohort.subjects)
        naive = audit(cohort.scores, tolerance)
        other = audit(cohort.other_scores, tolerance, subjects=cohort.subjects)
        paired = compare(clustered, other)
        estimates.append((clustered.bias, clustered.bias_se))
        rows.append(
            [
                *_covered(clustered, bias, rate),
                *_covered(naive, bias, rate),
                paired.interval[0] <= bias - other_bias <= paired.interval[1],
                paired.violation_rate_interval[0] <= rate - other_rate <= paired.violation_rate_interval[1],
                paired.standard_error / np.hypot(clustered.bias_se, other.bias_se),
            ]
        )
    names = ["bias", "rate", "naive_bias", "naive_rate", "difference", "rate_difference", "paired_ratio"]
    values = np.array(estimates)
    ratio = float(np.sqrt(np.mean(values[:, 1] ** 2)) / values[:, 0].std(ddof=1))
    return {**dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True)), "error_ratio": ratio}


def _covered(result: AuditResult, bias: float, rate: float) -> tuple[bool, bool]:
    low, high = result.bias_interval()
    rate_low, rate_high = result.violation_rate_interval()
    return low <= bias <= high, rate_low <= rate <= rate_high


def main() -> None:
    """Print the table and write it beside this script's other results."""
    cohorts = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    lines = [HEADER, "| ---: " * HEADER.count(" | ") + "| ---: |"]
    started = time.perf_counter()
    for subjects in SIZES:
        for tolerance in TOLERANCES:
            found = coverage(subjects, tolerance, cohorts, seed=len(lines))
            shares = " | ".join(
                f"{found[name]:.1%}"
                for name in ("bias", "rate", "naive_bias", "naive_rate", "difference", "rate_difference")
            )
            lines.append(
                f"| {subjects} | {tolerance} | {cohorts} | {shares} | {found['paired_ratio']:.2f} | {found['error_ratio']:.3f} |"
            )
            print(lines[-1], flush=True)
    text = (
        "# Coverage of 95 % intervals\n\n"
        "Made by `python -m benchmarks.interval_coverage`; three correlated tasks, 1 + Poisson(1) stays per subject.\n\n"
        + "\n".join(lines)
        + f"\n\nRun time {time.perf_counter() - started:.0f} s, NumPy {np.__version__}.\n"
    )
    (Path(__file__).parent / "results" / "interval_coverage.md").write_text(text)


if __name__ == "__main__":
    main()
