"""Groups audited together are the audits of their members, one by one; tasks ranked together likewise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import audit, protocol
from tests.relif_core.audit.brute_force import all_pairs, pools, tolerances


def assert_close(found: Any, expected: Any, name: str = "") -> None:
    """Assert that two JSON values agree, numbers to 1e-14 and degrees of freedom relatively to 1e-6."""
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert_close(value, expected[key], key)
    elif isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, name)
    elif isinstance(found, float):
        assert found == pytest.approx(expected, abs=1e-14, rel=1e-6 if "freedom" in name else 0)
    else:
        assert found == expected


@settings(max_examples=40, deadline=None)
@given(
    first=pools(),
    second=pools(),
    delta=tolerances,
    tasks=st.integers(2, 4),
    groups=st.integers(1, 9),
    subjects=st.sampled_from([None, 2, 15]),
    text=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_groups_are_audits_of_their_members(
    first: np.ndarray, second: np.ndarray, delta: float, tasks: int, groups: int, subjects: int | None,
    text: bool, seed: int,
) -> None:  # fmt: skip
    generator = np.random.default_rng(seed)
    scores = {name: (first, second)[k % 2] for k, name in enumerate("abcd"[:tasks])}
    labels = {task: generator.integers(0, groups, len(own)) for task, own in scores.items()}
    ids = None
    if subjects:
        ids = {task: generator.integers(0, subjects, len(own)) for task, own in scores.items()}
        ids = {task: np.char.add("p", own.astype(str)) for task, own in ids.items()} if text else ids
    whole = audit(scores, delta, groups=labels, subjects=ids)
    for group in range(groups):
        members = {task: own == group for task, own in labels.items()}
        if not all(own.any() for own in members.values()):
            assert str(group) not in whole.groups
            continue
        alone = {task: own[members[task]] for task, own in scores.items()}
        part = audit(alone, delta, subjects=ids and {task: ids[task][own] for task, own in members.items()})
        found = whole.groups[str(group)]
        assert_close(
            found.as_dict(include_influences=True), replace(part, notes=()).as_dict(include_influences=True)
        )
        per_pair = {row.tasks: delta for row in found.per_pair}
        assert (found.bias, found.violation_rate) == pytest.approx(all_pairs(alone, per_pair), abs=1e-12)


def test_more_groups_than_fit_together_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    scores = {task: generator.random(400) for task in "ab"}
    labels = {task: generator.integers(0, 50, 400) for task in "ab"}
    together = audit(scores, 0.2, groups=labels)
    monkeypatch.setattr(protocol, "TOGETHER", 16)
    apart = audit(scores, 0.2, groups=labels)
    assert list(together.groups) == list(apart.groups)
    assert_close(together.as_dict(), apart.as_dict())


@settings(max_examples=25, deadline=None)
@given(first=pools(), second=pools(), delta=tolerances, subjects=st.booleans(), seed=st.integers(0, 9999))
def test_tasks_ranked_together_are_audited_as_pair_by_pair(
    first: np.ndarray, second: np.ndarray, delta: float, subjects: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    scores = {f"task {k}": generator.permutation((first, second)[k % 2]) for k in range(protocol.MANY_TASKS)}
    ids = {task: generator.integers(0, 20, len(own)) for task, own in scores.items()} if subjects else None
    result = audit(scores, delta, subjects=ids)
    for row in result.per_pair:
        alone = audit(
            {task: scores[task] for task in row.tasks},
            delta,
            subjects=ids and {task: ids[task] for task in row.tasks},
        )
        expected = alone.per_pair[0]
        assert (row.bias, row.violation_rate) == (expected.bias, expected.violation_rate)
        assert row.bias_se == pytest.approx(expected.bias_se, rel=1e-12, nan_ok=True)
