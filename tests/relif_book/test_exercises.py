"""Every number in an answer of the theory pages is derived again, by other means than the answer's."""

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relif_core.audit import (
    HistogramSketch,
    audit,
    bias_curve,
    bias_parts,
    conformal_tolerance,
    coupling_bounds,
    drift_budget,
    ranking_certificate,
    same_subject_audit,
    shrunk,
)

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
ANSWER = re.compile(r":::\{admonition\} Answer\n:class: dropdown\n\n(.*?)\n:::", re.DOTALL)


def says(page: str, place: int, *numbers: str) -> None:
    """Check that the answer with this number on a page states every one of the numbers."""
    (source,) = NOTEBOOKS.glob(f"{page}_*.md")
    answer = ANSWER.findall(source.read_text(encoding="utf-8"))[place - 1]
    found = re.findall(r"\d+(?:\.\d+)?(?:/\d+)?", answer)
    assert [number for number in numbers if number not in found] == []


def one(value: Any) -> Any:
    """Equal up to rounding."""
    return pytest.approx(value, abs=1e-12)


def phi(z: np.ndarray, width: float) -> np.ndarray:
    """The huberised hinge."""
    return np.where(z <= width, np.maximum(z, 0) ** 2 / (2 * width), z - width / 2)


def test_algorithm_1() -> None:
    pools = {"a": [0.0, 0.5], "b": [0.25, 1.0]}
    found = audit(pools, 0.25)
    assert (found.bias, found.violation_rate) == (1 / 4, 1 / 2)
    assert audit(pools, 0.25 - 1e-9).violation_rate == 1
    says("algorithm_1", 1, "1/4", "1/2")

    base = {"a": np.zeros(10), "b": np.full(1000, 0.5), "c": np.ones(1000)}
    moved = {task: values.copy() for task, values in base.items()}
    moved["a"][0], lowered = 0.1, {**base, "c": np.append(np.ones(999), 0.9)}
    steps = [audit(base, 0.0).bias - audit(pools, 0.0).bias for pools in (moved, lowered)]
    assert steps[0] / steps[1] == pytest.approx(100)

    says("algorithm_1", 3, f"{math.sqrt(0.2 * 0.8 / 4096):.5f}")


def test_algorithm_2() -> None:
    pairs = list(itertools.combinations(range(4), 2))
    says("algorithm_2", 1, str(len(pairs) * 25), str(len(pairs) * 5))
    threshold = 0.5 * 1e-3 / 0.2
    gap = math.sqrt(2 * 0.1 * threshold)
    assert gap < 0.1  # the quadratic part of the transform
    says("algorithm_2", 1, f"{threshold:.4f}", f"{gap:.4f}")

    scale, steps = 2.0, 0
    while scale > 1.05:
        scale, steps = 0.9 * scale + 0.1, steps + 1
    says("algorithm_2", 2, str(steps))

    for start, rate in ((0.0, 1.0), (1.0, 0.0)):
        smoothed, updates = start, 0
        while (smoothed > 0.16) == (start > 0.16):
            smoothed, updates = 0.9 * smoothed + 0.1 * rate, updates + 1
        says("algorithm_2", 3, str(updates))


def test_theorem_b1() -> None:
    ends = []
    for others in ([0.25] * 2 + [0.65] * 2, [4 / 15] * 3 + [1.0]):
        found = bias_curve({"a": [0.0], "b": [0.0] * 6 + others}, [0.2, 0.25, 0.3])
        assert found.bias[[0, 2]] == one(np.array([0.10, 0.07]))
        assert found.violation_rate[0] == one(0.40)
        ends.append(found.violation_rate[1])
    assert ends == one([0.2, 0.4])
    says("theorem_b1", 1, "0.2", "0.4")

    grid = np.linspace(0, 1, 21)
    generator = np.random.default_rng(0)
    some = bias_curve({"a": generator.random(30), "b": generator.random(20)}, grid).bias
    assert (some <= (1 - grid) * some[0] + 1e-12).all()
    labels = bias_curve({"a": [0.0, 1.0, 1.0], "b": [0.0, 0.0, 1.0]}, grid).bias
    assert labels == one((1 - grid) * labels[0])


def test_theorem_b2() -> None:
    pairs = list(itertools.combinations("abc", 2))
    budgets = [
        drift_budget(0.275, dict(zip(pairs, own, strict=True)))
        for own in ((0.250, 0.300, 0.290), (0.275, 0.265, 0.295))
    ]
    certificate = ranking_certificate(0.12, 0.18, *budgets)
    assert certificate.certified
    ends = [certificate.margin + sign * certificate.budget for sign in (-1, 1)]
    says("theorem_b2", 1, *(f"{value:.4f}" for value in (*budgets, certificate.budget, *ends)))

    deltas = [0.1, 0.19, 0.2, 0.21]
    a = bias_curve({"t": [0.6], "s": [0.0]}, deltas).bias
    b = bias_curve({"t": [0.0, 1.0], "s": [0.0]}, deltas).bias
    assert a - b == one([0.05, 0.005, 0, -0.005])
    says("theorem_b2", 2, "0.05", "0.2")


def test_theorem_b3() -> None:
    distances = np.arange(1, 20) / 20
    assert conformal_tolerance(distances[:18], 0.05) == 1
    assert conformal_tolerance(distances, 0.05) == distances.max()
    says("theorem_b3", 1, str(len(distances)), str(2 * len(distances)))

    assert conformal_tolerance(distances[:9], 0.1) == distances[8]
    says("theorem_b3", 2, f"{0.8**9:.3f}")
    assert round(1 / 0.8**9) == 7

    missed = [
        0.5 * (conformal_tolerance(np.array(coins, dtype=float), 0.1) < 1)
        for coins in itertools.product((0, 1), repeat=9)
    ]
    assert np.mean(missed) == 1 / 1024
    says("theorem_b3", 3, "1/512", "1/1024", "1/10")


def test_theorem_b4() -> None:
    at = float(phi(np.array(0.2), 0.05))
    says("theorem_b4", 1, f"{(0.02 + 0.025) / 0.2:.3f}", f"{at:.3f}", f"{0.02 / at:.3f}")

    z = np.linspace(-0.2, 0.3, 101)
    assert np.maximum(z, 0).mean() <= phi(z, 0.05).mean() + 0.025 * (z > 0).mean()
    w = np.linspace(-0.3, 0.4, 7001)[:, None]
    least = (np.maximum(w, 0) + (z - w) ** 2 / 0.1).min(axis=0)
    assert phi(z, 0.05) == pytest.approx(least, abs=1e-6)


def test_theorem_b5() -> None:
    def floor(step: float, m: float, bound: float, sigma: float) -> float:
        return step * sigma**2 / (2 * m - step * bound**2)

    step = 10 / 13
    assert floor(step, 0.1, 0.1, 0.05) == one(0.01)
    says("theorem_b5", 1, "10/13", f"{step:.2f}", f"{(1 - 0.1 * step) ** 2:.2f}")
    for m in (0.02, 0.1):
        assert floor(m / 0.1**2, m, 0.1, 0.05) == one(0.25)
    says("theorem_b5", 2, "0.25", f"{math.exp(0.5):.2f}")
    says("theorem_b5", 3, f"{1.01 * 0.99:.4f}", f"{np.prod([1.01, 0.99] * 100):.3f}")


def test_scale_normalisation() -> None:
    def huber(u: np.ndarray) -> np.ndarray:
        return np.where(u <= 0.1, u**2 / 0.2, u - 0.05)

    tau, small, large = 0.3, np.array([0.01, 0.05]), np.array([0.1, 0.4])
    assert huber(2 * small) / (2 * tau) == one(2 * huber(small) / tau)
    assert huber(2 * large) / (2 * tau) - huber(large) / tau == one(0.1 / (4 * tau))
    largest = np.linspace(0.001, 0.1, 100)
    charged = huber(largest) / (largest / 2) > 0.5 + 1e-12
    assert largest[~charged].max() == pytest.approx(0.05)
    (source,) = NOTEBOOKS.glob("scale_normalisation.md")
    assert "that is 0.05 at the released width" in source.read_text(encoding="utf-8")


def test_exact_audit() -> None:
    found = audit({"a": [0.5], "b": [0.1, 0.2, 0.6, 0.9]}, 0.25)
    assert (4 * found.bias, 4 * found.violation_rate) == (one(0.35), 3)
    (source,) = NOTEBOOKS.glob("exact_audit.md")
    answers = ANSWER.findall(source.read_text(encoding="utf-8"))
    assert "0.35, the second 3" in answers[0]
    assert f"{math.log(20):.3f}" in answers[1]
    assert f"{1 - 0.05 ** (1 / 300):.5f}" in answers[1]

    generator = np.random.default_rng(0)
    pools = {task: generator.random(100) for task in "ab"}
    copies = {task: np.tile(values, 4) for task, values in pools.items()}
    ids = {task: np.arange(100) for task in pools}
    four = {task: np.tile(own, 4) for task, own in ids.items()}
    assert audit(copies, 0.2).bias_se / audit(pools, 0.2).bias_se == pytest.approx(0.5, abs=0.01)
    once, again = audit(pools, 0.2, subjects=ids), audit(copies, 0.2, subjects=four)
    assert (again.bias, again.bias_se) == (one(once.bias), one(once.bias_se))


def test_theorem_t1() -> None:
    constant = {"a": [0.1], "b": [0.4]}
    perfect = {"a": [0.0] * 9 + [1.0], "b": [0.0] * 6 + [1.0] * 4}
    says("theorem_t1", 1, *(f"{audit(pools, 0.2).bias:.3g}" for pools in (constant, perfect)))
    known, unknown = [0.0, 1.0], [0.5]
    found = [audit({"a": a, "b": b}, 0.2).bias for a, b in ((unknown,) * 2, (known, unknown), (known,) * 2)]
    says("theorem_t1", 2, *(f"{value:.1g}" for value in found))

    generator = np.random.default_rng(0)
    first, second = ({task: generator.random(20) for task in "ab"} for _ in range(2))
    mean = {task: (first[task] + second[task]) / 2 for task in first}
    four = [audit({"a": x["a"], "b": y["b"]}, 0.1).bias for x in (first, second) for y in (first, second)]
    assert audit(mean, 0.1).bias <= np.mean(four)


def test_theorem_t2() -> None:
    apart = {"a": [0.25], "b": [0.75]}
    found = [audit(shrunk(apart, amount, 0.5), 0.2).bias for amount in (0.0, 0.3, 0.6)]
    assert found == one([0.3, 0.15, 0])
    says("theorem_t2", 1, "0.3", "0.15", "0.6", "0.8")

    generator = np.random.default_rng(0)
    pools = {task: generator.random(50) for task in "ab"}
    twice = shrunk(shrunk(pools, 0.2, 0.3), 0.1, 0.9)
    assert audit(twice, 0.2).bias == one(audit(shrunk(pools, 0.2 + 0.1 - 0.02, 0.5), 0.2).bias)

    score, step = np.array([0.1, 0.4, 0.8]), 1e-6
    moved = score + 0.2 * (0.5 - score)

    def brier(p: np.ndarray) -> float:
        """Mean score where the labels follow the calibrated one."""
        return float(np.mean(score * (1 - p) ** 2 + (1 - score) * p**2))

    assert brier(moved) - brier(score) == one(0.2**2 * np.mean((score - 0.5) ** 2))
    before = audit(pools, 0.2)
    speed = (before.bias - audit(shrunk(pools, step, 0.5), 0.2).bias) / step
    assert speed == pytest.approx(before.bias + 0.2 * before.violation_rate, abs=1e-4)


def test_theorem_t3() -> None:
    places = (np.arange(2000) + 0.5) / 4000
    halves = bias_parts(places, places + 0.5)
    assert (halves.bias, halves.spread, halves.mismatch) == pytest.approx((1 / 2, 1 / 6, 1 / 3), abs=1e-4)
    says("theorem_t3", 1, "1/2", "1/6", "1/3")
    perfect = bias_parts([0.0] * 9 + [1.0], [0.0] * 6 + [1.0] * 4)
    assert (perfect.spread, perfect.mismatch) == (one(0.1 * 0.9 + 0.4 * 0.6), one(0.3**2))
    equal = bias_parts([0.0, 1.0], [0.0, 1.0])
    assert (equal.bias, equal.spread, equal.mismatch) == (0.5, 0.5, 0.0)
    says("theorem_t3", 2, "1/2")


def test_theorem_t4() -> None:
    ladder = [0.0, 0.5, 1.0]
    least, most = coupling_bounds(ladder, ladder, 0.25)
    independent = audit({"a": ladder, "b": ladder}, 0.25).bias
    assert (least, most, independent) == (0, 1 / 2, one(5 / 18))
    says("theorem_t4", 1, "1/2", "5/18", f"{independent:.3f}")
    assert (least + most) / 2 == 1 / 4
    says("theorem_t4", 2, "1/4", "5/18")
    x, y = [0.1, 0.6], [0.3, 0.9]
    assert audit({"a": x, "b": y}, 0.1).bias == one(np.mean(coupling_bounds(x, y, 0.1)))

    lists = ((0.0, 1.0), (1.0, 0.0))
    excess = [
        np.mean([np.abs(np.subtract(a, b)).mean() for a, b in itertools.combinations(three, 2)])
        for three in itertools.product(lists, repeat=3)
    ]
    assert max(excess) == one(2 / 3)


def test_theorem_t5() -> None:
    says("theorem_t5", 1, f"{(4 - 2.5) / (5 - 2.5):.1f}", f"{5 / 2}", f"{2.5 / 6:.3f}")
    for tasks, share in ((3, "2/3"), (4, "2/3"), (5, "3/5")):
        most = max(
            np.mean([a != b for a, b in itertools.combinations(scores, 2)])
            for scores in itertools.product((0, 1), repeat=tasks)
        )
        top, bottom = map(int, share.split("/"))
        assert most == one(top / bottom)
        says("theorem_t5", 2, share)


def test_theorem_t6() -> None:
    says("theorem_t6", 1, *(str(2 ** math.ceil(math.log2(rate / 0.001))) for rate in (1, 1 / 4)))
    pools = {"a": [0.30], "b": [0.45]}
    found = HistogramSketch.of(pools, 4).audit(0.1)
    assert (found.bias, *found.bias_range) == (0, 0, one(0.15))
    assert audit(pools, 0.1).bias == pytest.approx(0.05, abs=1e-7)
    says("theorem_t6", 2, "0.15", "0.05")
    hiding, binning = (1 - 0.98**2) * (1 - 0.275), 1 / 4096
    says("theorem_t6", 3, f"{hiding:.4f}", f"{binning:.5f}", f"{hiding / binning:.0f}")


def test_audits_about_individuals() -> None:
    scores = {"a": [1 / 8, 1 / 4, 7 / 8], "b": [3 / 4, 1 / 2, 1 / 4]}
    same = same_subject_audit(scores, {task: [1, 2, 3] for task in scores}, 0.25)
    assert (same.excess, same.share) == (one(1 / 4), one(2 / 3))
    bias = audit(scores, 0.25).bias
    assert (9 * bias, bias) == (one(5 / 4), one(5 / 36))
    assert coupling_bounds(scores["a"], scores["b"], 0.25)[1] == one(same.excess)
    says("audits_about", 1, "1/4", "2/3", "5/4", "5/36", f"{bias:.3f}")

    gap, limit = np.linspace(0, 1, 21), 0.3
    for amount in (0.1, 0.7):
        after = np.maximum((1 - amount) * gap - limit, 0)
        assert (after <= (1 - amount) * np.maximum(gap - limit, 0) + 1e-12).all()
