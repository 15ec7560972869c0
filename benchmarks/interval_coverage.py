"""How often 95 % intervals cover the truth: ``python -m benchmarks.interval_coverage [COHORTS]``.

Each row simulates cohorts and counts how often an interval of level 0.95 covers the Bias or violation rate of
the generating distribution, and of the paired difference of two methods. The number of a subject's stays is
independent of its scores, so the truth is that of the scores' marginal distribution. A row passes between 92
and 98 %, or above with its reason.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.cohorts import Cohort, draw_cohort
from relif_core.audit import audit, compare

HEADER = (
    "| cohort | subjects | δ | cohorts | true Bias | true VR | Bias | VR | Bias difference | VR difference | "
    "Bias SE / true SD | note |"
)
TRUTH_SUBJECTS = 400_000
Sizes = Callable[[int, np.random.Generator], np.ndarray]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def equal(subjects: int, generator: np.random.Generator) -> np.ndarray:
    """One stay per subject."""
    return np.ones(subjects, int)


def one_holds_half(subjects: int, generator: np.random.Generator) -> np.ndarray:
    """One stay per subject, but the first has as many as all others together."""
    return np.where(np.arange(subjects) == 0, subjects - 1, 1)


def lognormal(subjects: int, generator: np.random.Generator) -> np.ndarray:
    """Heavy-tailed numbers of stays."""
    return np.maximum(1, generator.lognormal(0.5, 1.5, subjects).astype(int))


def _cohort(latent: np.ndarray, generator: np.random.Generator, sizes: np.ndarray, logits: str) -> Cohort:
    subject = np.repeat(np.arange(len(latent)), sizes)
    severity, size = latent[subject], len(subject)

    def noise() -> np.ndarray:
        return generator.normal(size=size)

    if logits == "rare":
        jumps = {task: 0.4 * (generator.random(size) < 0.01) for task in "abc"}
        scores = {task: np.clip(0.5 + 0.05 * noise() + jumps[task], 0, 1) for task in "abc"}
        other = {task: np.clip(0.5 + 0.05 * noise() + 0.8 * jumps[task], 0, 1) for task in "abc"}
        return Cohort(scores, other, dict.fromkeys("abc", subject))
    if logits == "negative":
        raw = {"a": 1.5 * severity - 2, "b": -1.5 * severity + 2}
    else:
        raw = {"a": 1.5 * severity - 1, "b": severity, "c": -severity}
    spread = 0.2 if logits == "negative" else 0.5
    noisy = {task: values + spread * noise() for task, values in raw.items()}
    return Cohort(
        {task: _sigmoid(values) for task, values in noisy.items()},
        {task: _sigmoid(0.7 * values + 0.2 * noise()) for task, values in noisy.items()},
        dict.fromkeys(raw, subject),
    )


@dataclass(frozen=True)
class Scenario:
    """A kind of cohort: name, subjects, law of scores, stays each, δ, why intervals may be conservative."""

    name: str
    subjects: int
    logits: str
    sizes: Sizes = equal
    tolerance: float = 0.275
    note: str = ""

    def draw(self, subjects: int, generator: np.random.Generator, sizes: Sizes | None = None) -> Cohort:
        """Draw a cohort, with stays per subject of this scenario or as ``sizes`` says."""
        if self.logits == "stays":
            return draw_cohort(subjects, generator)
        stays = (sizes or self.sizes)(subjects, generator)
        return _cohort(generator.normal(size=subjects), generator, stays, self.logits)


FEW = "VR conservative: often no subject varies, then the bound on the unseen holds"
SCENARIOS = [
    *(
        Scenario("1 + Poisson(1) stays, labels missing", subjects, "stays", tolerance=tolerance)
        for subjects, tolerance in ((30, 0.1), (30, 0.275), (100, 0.1), (100, 0.275), (400, 0.275))
    ),
    *(
        Scenario("equal subjects, three tasks", subjects, "severity", note=FEW if subjects < 5 else "")
        for subjects in (2, 3, 5, 10, 20)
    ),
    Scenario(
        "one subject holds half of the stays",
        20,
        "severity",
        one_holds_half,
        note="conservative: 2.8 effective degrees of freedom",
    ),
    *(
        Scenario("lognormal(σ = 1.5) stays per subject", subjects, "severity", lognormal)
        for subjects in (30, 100)
    ),
    *(
        Scenario(
            "rare: 1 % of the scores stand out",
            subjects,
            "rare",
            note="differences conservative: few or no subjects tell the two apart",
        )
        for subjects in (20, 100, 400)
    ),
    *(Scenario("wide table, tasks negatively dependent", subjects, "negative") for subjects in (20, 200)),
]


def coverage(scenario: Scenario, cohorts: int, seed: int) -> dict[str, float]:
    """Return the truth, the shares of cohorts whose intervals cover it, and a ratio of standard errors."""
    generator = np.random.default_rng(seed)
    large = scenario.draw(TRUTH_SUBJECTS, generator, equal)
    truth, other_truth = (audit(scores, scenario.tolerance) for scores in (large.scores, large.other_scores))
    rows = []
    for _ in range(cohorts):
        cohort = scenario.draw(scenario.subjects, generator)
        result, other = (
            audit(scores, scenario.tolerance, subjects=cohort.subjects)
            for scores in (cohort.scores, cohort.other_scores)
        )
        found = compare(result, other)
        rows.append(
            [
                _covers(result.bias_interval(), truth.bias),
                _covers(result.violation_rate_interval(), truth.violation_rate),
                _covers(found.interval, truth.bias - other_truth.bias),
                _covers(found.violation_rate_interval, truth.violation_rate - other_truth.violation_rate),
                result.bias,
                result.bias_se**2,
            ]
        )
    values = np.array(rows)
    names = ("bias", "rate", "difference", "rate_difference")
    return {
        "true_bias": truth.bias,
        "true_rate": truth.violation_rate,
        **dict(zip(names, values[:, :4].mean(axis=0).tolist(), strict=True)),
        "error_ratio": float(np.sqrt(values[:, 5].mean()) / values[:, 4].std(ddof=1)),
    }


def _covers(bounds: tuple[float, float], value: float) -> bool:
    return bounds[0] - 1e-12 <= value <= bounds[1] + 1e-12


def main() -> None:
    """Print the table and write it beside this script's other results."""
    cohorts = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    lines = [HEADER, "| --- " + "| ---: " * (HEADER.count(" | ") - 1) + "| --- |"]
    started = time.perf_counter()
    for scenario in SCENARIOS:
        found = coverage(scenario, cohorts, seed=len(lines))
        shares = " | ".join(
            f"{found[name]:.1%}" for name in ("bias", "rate", "difference", "rate_difference")
        )
        lines.append(
            f"| {scenario.name} | {scenario.subjects} | {scenario.tolerance} | {cohorts} |"
            f" {found['true_bias']:.4f} | {found['true_rate']:.4f} | {shares} | {found['error_ratio']:.2f} |"
            f" {scenario.note} |"
        )
        print(lines[-1], flush=True)
    text = (
        "# Coverage of 95 % intervals\n\nMade by `python -m benchmarks.interval_coverage`.\n\n"
        + "\n".join(lines)
        + f"\n\nRun time {time.perf_counter() - started:.0f} s, NumPy {np.__version__}.\n"
    )
    (Path(__file__).parent / "results" / "interval_coverage.md").write_text(text)


if __name__ == "__main__":
    main()
