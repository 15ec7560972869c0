"""Utility: exact small cases worked by hand, and missing numbers that stay missing."""

import math

import numpy as np
import pytest

from relif_core.errors import DivergenceError, InputError
from relif_core.problems.utility import Utility, linear_weighted_kappa, task_utility
from relif_core.tensors.clinical import Task

BINARY = Task("death", "Death", "binary", "stay")
BINNED = Task("stay", "Stay", "binned", "stay", classes=3)
CODES = Task("codes", "Codes", "multilabel", "stay", classes=2)


def test_auroc_counts_ordered_pairs_with_ties_as_half() -> None:
    # Positives 0.8, 0.3; negatives 0.3, 0.1: ordered pairs 3, one tie: (3 + 0.5) / 4.
    found = task_utility(BINARY, np.array([1, 1, 0, 0]), np.array([[0.8], [0.3], [0.3], [0.1]]))
    assert found.score == pytest.approx(3.5 / 4)


def test_one_class_is_missing_with_its_reason() -> None:
    found = task_utility(BINARY, np.zeros(3), np.array([0.1, 0.2, 0.3]))
    assert found.score is None
    assert "only class 0" in found.missing
    assert "auroc" not in found.metrics


def test_kappa_by_hand() -> None:
    # Labels 0 0 2 2, predicted 0 2 2 2: mean |difference| = 0.5; by chance 0.5 * (2 * 0.75 + 2 * 0.25) = 1.0;
    # κ = 1 - 0.5/1.
    labels, predicted = np.array([0, 0, 2, 2]), np.array([0, 2, 2, 2])
    assert linear_weighted_kappa(labels, predicted, 3) == pytest.approx(0.5)
    found = task_utility(BINNED, labels, np.eye(3)[predicted])
    assert found.score == pytest.approx(0.75)
    constant = task_utility(BINNED, np.zeros(4), np.tile([1.0, 0, 0], (4, 1)))
    assert constant.score is None
    assert "one and the same class" in constant.missing


def test_multilabel_averages_the_defined_labels() -> None:
    labels = np.array([[1, 0], [0, 0]])
    found = task_utility(CODES, labels, np.array([[0.9, 0.5], [0.1, 0.5]]))
    assert found.score == 1.0
    assert found.metrics["labels_scored"] == 1
    assert "1 labels" in found.missing


def test_worst_and_macro_run_over_defined_scores() -> None:
    good = task_utility(BINARY, np.array([0, 1]), np.array([0.1, 0.9]))
    none = task_utility(BINARY, np.array([1, 1]), np.array([0.1, 0.9]))
    both = Utility({"a": good, "b": none})
    assert (both.worst, both.macro) == (1.0, 1.0)
    assert math.isnan(Utility({"b": none}).worst)
    assert Utility({"b": none}).as_json()["worst"] is None


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="'death': 2 labels for 3"):
        task_utility(BINARY, np.array([0, 1]), np.zeros(3))
    with pytest.raises(DivergenceError, match="diverged"):
        task_utility(BINARY, np.array([0, 1]), np.array([0.2, np.nan]))
