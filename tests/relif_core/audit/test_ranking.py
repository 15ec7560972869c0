"""Drift budgets and ranking certificates, against theorem B.2 on random score pools."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import audit, drift_budget, ranking_certificate
from relif_core.errors import InputError
from tests.relif_core.audit.brute_force import pools

PAIRS = (("a", "b"), ("a", "c"), ("b", "c"))
unit = st.floats(0, 1)


def test_drift_budget_by_hand() -> None:
    induced = {("a", "b"): 0.1, ("a", "c"): 0.4, ("b", "c"): 0.25}
    assert drift_budget(0.25, induced) == pytest.approx(0.1)
    assert drift_budget({("b", "a"): 0.1, ("c", "a"): 0.4, ("b", "c"): 0.25}, induced) == 0.0


@settings(max_examples=80, deadline=None)
@given(
    first=st.tuples(pools(most=40), pools(most=40), pools(most=40)),
    second=st.tuples(pools(most=40), pools(most=40), pools(most=40)),
    induced_first=st.tuples(unit, unit, unit),
    induced_second=st.tuples(unit, unit, unit),
    reference=unit,
)
def test_certified_order_survives_each_methods_own_ruler(
    first: tuple[np.ndarray, ...],
    second: tuple[np.ndarray, ...],
    induced_first: tuple[float, ...],
    induced_second: tuple[float, ...],
    reference: float,
) -> None:
    fixed, own, budgets = [], [], []
    for scores, induced in ((first, induced_first), (second, induced_second)):
        named, tolerances = dict(zip("abc", scores, strict=True)), dict(zip(PAIRS, induced, strict=True))
        fixed.append(audit(named, reference).bias)
        own.append(audit(named, tolerances).bias)
        budgets.append(drift_budget(reference, tolerances))
        assert abs(fixed[-1] - own[-1]) <= budgets[-1] + 1e-12
    certificate = ranking_certificate(*fixed, *budgets)
    assert certificate.certified == (certificate.margin > certificate.budget)
    if certificate.certified and certificate.margin > certificate.budget + 1e-12:
        assert (own[0] < own[1]) == (fixed[0] < fixed[1]) == (certificate.lower == "a")


def test_certificate_fields() -> None:
    certificate = ranking_certificate(0.3, 0.1, 0.05, 0.05)
    assert certificate.margin == pytest.approx(0.2)
    assert certificate.budget == pytest.approx(0.1)
    assert certificate.certified
    assert certificate.lower == "b"
    assert ranking_certificate(0.1, 0.1, 0, 0).lower == "tie"
    assert not ranking_certificate(0.1, 0.1, 0, 0).certified


@pytest.mark.parametrize(
    ("reference", "induced", "message"),
    [
        (0.1, {}, "at least one task pair"),
        (-0.1, {("a", "b"): 0.1}, "reference tolerance is negative"),
        (0.1, {("a", "b"): np.nan}, "induced tolerance of pair .* is NaN"),
        ({("a", "c"): 0.1}, {("a", "b"): 0.1}, "name different pairs"),
        (0.2, {("a", "b"): 0.2, ("b", "a"): 0.9}, r"induced tolerance names the pair \('a', 'b'\) twice"),
        (0.2, {("a", "a"): 0.2}, r"induced tolerance names \('a', 'a'\), which is no pair"),
        (0.2, {("a", 1): 0.2}, r"induced tolerance names \('a', 1\), which is no pair"),
        (
            {("a", "b"): 0.2, ("b", "a"): 0.2},
            {("a", "b"): 0.2},
            "reference tolerance names the pair .* twice",
        ),
        ({"ab": 0.2}, {("a", "b"): 0.2}, "reference tolerance names 'ab', which is no pair"),
    ],
)
def test_drift_budget_input(reference: Any, induced: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        drift_budget(reference, induced)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_certificate_input(position: int, value: float) -> None:
    values = [0.1] * 4
    values[position] = value
    with pytest.raises(InputError, match="must be finite and at least 0"):
        ranking_certificate(*values)
