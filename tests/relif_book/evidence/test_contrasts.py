"""Means and differences over seeds: one seed gives the audit's own, several average influences."""

from dataclasses import replace

import numpy as np
import pytest

from relif_book.evidence.contrasts import seed_contrast, seed_mean
from relif_core.audit import AuditResult, audit, compare
from relif_core.errors import InputError

GENERATOR = np.random.default_rng(0)
SUBJECTS = {task: np.arange(80) // 2 for task in "ab"}


def measured() -> AuditResult:
    return audit({task: GENERATOR.random(80) for task in "ab"}, 0.2, subjects=SUBJECTS)


FIRST, SECOND, THIRD, FOURTH = (measured() for _ in range(4))


@pytest.mark.parametrize("kind", ["bias", "violation_rate"])
def test_one_seed_is_the_audit_itself(kind: str) -> None:
    mean, error = seed_mean([FIRST], kind)  # type: ignore[arg-type]
    assert mean == getattr(FIRST, kind)
    assert error == pytest.approx(getattr(FIRST, f"{kind}_se"))
    differences, ends = seed_contrast([FIRST], [SECOND], kind)  # type: ignore[arg-type]
    comparison = compare(SECOND, FIRST)
    names = (
        ("difference", "interval")
        if kind == "bias"
        else ("violation_rate_difference", "violation_rate_interval")
    )
    assert differences == [getattr(comparison, names[0])]
    assert ends == pytest.approx(getattr(comparison, names[1]))


def test_equal_seeds_add_no_certainty_and_independent_ones_do() -> None:
    once, twice = seed_mean([FIRST], "bias"), seed_mean([FIRST, FIRST], "bias")
    assert twice == pytest.approx(once)
    assert seed_mean([FIRST, SECOND], "bias")[1] < max(FIRST.bias_se, SECOND.bias_se)


def test_a_contrast_of_seeds_with_themselves_is_nothing() -> None:
    differences, ends = seed_contrast([FIRST, SECOND], [FIRST, SECOND], "bias")
    assert differences == [0.0, 0.0]
    assert ends == (0.0, 0.0)


def test_order_of_the_two_sides() -> None:
    forth, (low, high) = seed_contrast([FIRST, SECOND], [THIRD, FOURTH], "bias")
    back, ends = seed_contrast([THIRD, FOURTH], [FIRST, SECOND], "bias")
    assert forth == [-value for value in back]
    assert ends == pytest.approx((-high, -low))


def test_what_cannot_be_averaged_is_named() -> None:
    with pytest.raises(InputError, match="no audit to read"):
        seed_mean([], "bias")
    with pytest.raises(InputError, match="audit with subjects"):
        seed_mean([replace(FIRST, influences=None)], "bias")
    with pytest.raises(InputError, match="1 audits against 2"):
        seed_contrast([FIRST], [FIRST, SECOND], "bias")
    other = audit(
        {task: GENERATOR.random(80) for task in "ab"},
        0.2,
        subjects={task: ids + 1 for task, ids in SUBJECTS.items()},
    )
    with pytest.raises(InputError, match="different subjects"):
        seed_mean([FIRST, other], "bias")
