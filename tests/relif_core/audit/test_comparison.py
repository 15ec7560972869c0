"""Results are compared only if they were measured with one ruler."""

import math
from typing import Any

import numpy as np
import pytest

from relif_core.audit import AuditContext, AuditResult, audit, compare, drift_budget
from relif_core.errors import ComparabilityError, InputError

GENERATOR = np.random.default_rng(0)
SCORES = {task: GENERATOR.random(60) for task in "abc"}
OTHER = {task: np.clip(values + 0.1 * GENERATOR.normal(size=60), 0, 1) for task, values in SCORES.items()}
SUBJECTS = {task: np.arange(60) // 2 for task in "abc"}
CONTEXT = {"dataset": "PhysioNet 2012", "split": "test", "score_definition": "maximum probability"}


def measured(scores: dict[str, Any] = OTHER, tolerance: Any = 0.2, **options: Any) -> AuditResult:
    return audit(scores, tolerance, **{"subjects": SUBJECTS, "context": CONTEXT, **options})


def test_paired_difference() -> None:
    a, b = measured(SCORES), measured(OTHER)
    comparison = compare(a, b, level=0.9)
    assert comparison.difference == a.bias - b.bias
    assert comparison.violation_rate_difference == a.violation_rate - b.violation_rate
    assert comparison.paired
    assert comparison.level == 0.9
    assert comparison.unstated == ()
    assert a.influences is not None
    assert b.influences is not None
    shares = a.influences.bias - b.influences.bias
    assert comparison.standard_error == pytest.approx(math.sqrt(30 / 29 * (shares**2).sum()), rel=1e-12)
    assert comparison.interval[0] < comparison.difference < comparison.interval[1]
    backwards = compare(b, a, level=0.9)
    assert backwards.interval == pytest.approx((-comparison.interval[1], -comparison.interval[0]))


def test_a_result_does_not_differ_from_itself() -> None:
    comparison = compare(measured(), measured())
    assert (comparison.difference, comparison.standard_error) == (0, 0)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"context": {**CONTEXT, "dataset": "eICU"}}, "dataset"),
        ({"context": {**CONTEXT, "split": None}}, "split"),
        ({"context": {**CONTEXT, "score_definition": "entropy"}}, "score definition"),
        ({"scores": {"a": OTHER["a"], "b": OTHER["b"]}}, "tasks"),
        ({"scores": {task: OTHER[task] for task in "bac"}}, "tasks"),
        (
            {"scores": {**OTHER, "c": OTHER["c"][:50]}, "subjects": {**SUBJECTS, "c": SUBJECTS["c"][:50]}},
            "pool sizes",
        ),
        ({"subjects": {**SUBJECTS, "c": SUBJECTS["c"] + 1}}, "pool"),
        ({"subjects": None}, "pool"),
        ({"protocol": "sampled"}, "protocol"),
        ({"tolerance": 0.21}, "tolerance"),
        ({"tolerance": {("a", "b"): 0.2, ("a", "c"): 0.2, ("b", "c"): 0.3}}, "tolerance"),
    ],
)
def test_refuses_another_ruler(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ComparabilityError, match=f"their {field} differs"):
        compare(measured(SCORES), measured(**options))


@pytest.mark.parametrize(
    ("options", "field"),
    [({"pair_seed": 1}, "pair seed"), ({"pool_size": 30}, "pool size"), ({"pairs": 10}, "number of pairs")],
)
def test_refuses_other_draws(options: dict[str, int], field: str) -> None:
    with pytest.raises(ComparabilityError, match=f"their {field} differs"):
        compare(measured(SCORES, protocol="sampled"), measured(protocol="sampled", **options))


def test_sampled_comparison_adds_the_noise_of_the_draws() -> None:
    sampled = compare(measured(SCORES, protocol="sampled"), measured(protocol="sampled"))
    assert sampled.standard_error > compare(measured(SCORES), measured()).standard_error


def test_sampled_comparison_pairs_the_draws() -> None:
    """Two models that differ little violate in the same draws: what the draws share cancels."""
    close = {
        task: np.clip(values + 0.002 * GENERATOR.normal(size=60), 0, 1) for task, values in SCORES.items()
    }
    a, b = (measured(scores, protocol="sampled", pairs=64) for scores in (SCORES, close))
    found = compare(a, b)
    assert found.standard_error < 0.2 * math.hypot(*a.draw_errors[:1], *b.draw_errors[:1])
    assert a.draws is not None
    assert b.draws is not None
    assert found.difference == pytest.approx((a.draws[:, 0] - b.draws[:, 0]).mean(), abs=1e-7)
    stored = AuditResult.from_json(b.to_json(include_influences=True))
    assert compare(a, stored).standard_error > found.standard_error


def test_without_influences_the_error_is_an_upper_bound() -> None:
    a, b = measured(SCORES), measured()
    stored = AuditResult.from_json(b.to_json())
    bound = compare(a, stored)
    assert not bound.paired
    assert bound.standard_error == pytest.approx(a.bias_se + b.bias_se)
    assert bound.standard_error > compare(a, b).standard_error
    whole = AuditResult.from_json(b.to_json(include_influences=True))
    assert compare(a, whole) == compare(a, b)


def test_unstated_context_is_reported() -> None:
    a, b = (audit(scores, 0.2, context=AuditContext(dataset="x")) for scores in (SCORES, OTHER))
    assert compare(a, b).unstated == ("split", "score_definition")


def test_level() -> None:
    with pytest.raises(InputError, match="level must lie between 0 and 1"):
        compare(measured(), measured(), level=2)


def test_what_differs_is_shown_in_part_where_it_is_long() -> None:
    many = {f"task {k}": np.array([k / 40]) for k in range(30)}
    with pytest.raises(ComparabilityError, match="their tolerance differs") as refused:
        compare(audit(many, 0.1), audit(many, 0.2))
    assert len(str(refused.value)) < 1300
    pairs = {(task, "other"): 0.1 for task in many}
    with pytest.raises(InputError, match=r"name different pairs: .*, and 26 more"):
        drift_budget(pairs, {("x", "y"): 0.1})
