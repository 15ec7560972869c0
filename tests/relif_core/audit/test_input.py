"""Every unusable input has a message of its own that names the task and the mend."""

import subprocess
import sys
from typing import Any

import numpy as np
import polars
import pytest

from relif_core.audit import audit, bias_curve
from relif_core.errors import InputError

GOOD = {"mortality": [0.1, 0.9, 0.4], "los": [0.2, 0.3]}
THREE = {**GOOD, "sepsis": [0.5]}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.1, 0.2], "must map task names"),
        ({"los": [0.1]}, "at least two, got 1"),
        ({}, "at least two, got 0"),
        ({"los": [0.1], 3: [0.2]}, "task names must be text, got 3"),
        ({"los": [], "mortality": [0.1]}, "task 'los': the pool is empty"),
        (
            {"los": [[0.1]], "mortality": [0.1]},
            r"task 'los': scores must be one-dimensional, got shape \(1, 1\)",
        ),
        ({"los": 0.5, "mortality": [0.1]}, r"task 'los': scores must be one-dimensional, got shape \(\)"),
        ({"los": ["0.1"], "mortality": [0.1]}, "task 'los': scores must be real numbers"),
        ({"los": [0.1, np.nan, np.nan], "mortality": [0.1]}, "task 'los': 2 of 3 scores are NaN; drop them"),
        ({"los": [0.1, 1.5], "mortality": [0.1]}, r"task 'los': 1 of 2 scores lie outside \[0, 1\]"),
        ({"los": [0.1, -0.5], "mortality": [0.1]}, r"task 'los': 1 of 2 scores lie outside \[0, 1\]"),
        ({"los": [0.1, np.inf], "mortality": [0.1]}, r"outside \[0, 1\] \(smallest 0.1, largest inf\)"),
        ({"los": [0.1, 1.0000001], "mortality": [0.1]}, "largest 1.0000001"),
        ({"los": [0.1, None], "mortality": [0.1]}, "task 'los': 1 of 2 scores are missing; drop them"),
        ({"los": [0.1, "x"], "mortality": [0.1]}, "task 'los': scores must be real numbers"),
        ({"los": [[0.1], [0.1, 0.2]], "mortality": [0.1]}, "task 'los': scores cannot be read as an array"),
    ],
)
def test_scores(scores: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        audit(scores, 0.2)
    with pytest.raises(InputError, match=message):
        bias_curve(scores, [0.2])


@pytest.mark.parametrize(
    ("tolerance", "message"),
    [
        (-0.1, r"tolerance is negative \(-0.1\)"),
        (np.nan, "tolerance is NaN"),
        (np.inf, "tolerance is infinite"),
        (27.5, "tolerance is 27.5, .* if it is a percentage, divide it by 100"),
        (1.0000001, "tolerance is 1.0000001"),
        (True, "tolerance must be a number .* got True"),
        (np.True_, "tolerance must be a number"),
        ("0.2", "tolerance must be a number"),
        ("wide", "tolerance must be a number"),
        (None, "tolerance must be a number"),
        ({("mortality", "los"): 0.1, ("mortality", "sepsis"): 0.1}, r"pair \('los', 'sepsis'\) is missing"),
        ({("mortality", "los"): -1}, r"tolerance of pair \('mortality', 'los'\) is negative"),
        ({("mortality", "los"): np.nan}, r"tolerance of pair \('mortality', 'los'\) is NaN"),
        ({("mortality", "lso"): 0.1}, "which is no pair of the audited tasks"),
        ({("los", "los"): 0.1}, "which is no pair of the audited tasks"),
        ({"los": 0.1}, "which is no pair of the audited tasks"),
        ({("mortality", "los"): 0.1, ("los", "mortality"): 0.2}, r"the pair \('los', 'mortality'\) twice"),
    ],
)
def test_tolerance(tolerance: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        audit(THREE, tolerance)


def test_a_negative_zero_is_the_tolerance_zero() -> None:
    """Its text, which digests are made of, would be another."""
    for tolerance in (-0.0, dict.fromkeys(audit(THREE, 0).tolerances, -0.0)):
        assert audit(THREE, tolerance).to_json() == audit(THREE, 0).to_json()


@pytest.mark.parametrize("argument", ["subjects", "groups"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3], "must map task names"),
        ({"mortality": [1, 2, 3]}, "task 'los': {} are missing"),
        (
            {"mortality": [1, 2], "los": [1, 2]},
            r"task 'mortality': {} are misaligned, \(2,\) against .* \(3,\)",
        ),
        ({"mortality": [1.0, 2.0, 3.0], "los": [1, 2]}, "task 'mortality': {} must be integers or text"),
        ({"mortality": [1, None, 3], "los": [1, 2]}, r"1 of 3 {} are missing \(first at position 1\)"),
        ({"mortality": [1, "a", 3], "los": [1, 2]}, r"{} hold values of kind int, str"),
        ({"mortality": ["a", np.nan, "b"], "los": ["a", "b"]}, "1 of 3 {} are missing"),
        ({"mortality": np.array(["a", "nan", "b"]), "los": ["a", "b"]}, "1 of 3 {} are missing"),
        ({"mortality": [1.0, np.nan, 2.0], "los": [1, 2]}, "1 of 3 {} are missing"),
        (
            {"mortality": np.array([1, 2, 2**63], np.uint64), "los": [1, 2]},
            "{} exceed 64-bit signed integers",
        ),
        ({"mortality": [1, 2, 3], "los": ["1", "2"]}, "{} are integers for one task and text for another"),
    ],
)
def test_labels(argument: str, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message.format(argument)):
        audit(GOOD, 0.2, **{argument: labels})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "both"}, "protocol 'both' is unknown"),
        ({"protocol": "sampled", "pairs": 0}, "pairs must be an integer of at least 1, got 0"),
        ({"protocol": "sampled", "pool_size": 2.5}, "pool_size must be an integer of at least 1, got 2.5"),
        ({"protocol": "sampled", "pair_seed": -1}, "pair_seed must be an integer of at least 0, got -1"),
        ({"context": {"data": "MIMIC-III"}}, "context has no field 'data'"),
        ({"context": {"dataset": 3}}, "context field 'dataset' must be text, got int"),
        ({"context": 3}, "context must be an AuditContext or a mapping"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        audit(GOOD, 0.2, **options)


@pytest.mark.parametrize(
    ("tolerances", "message"),
    [
        ([], "non-empty"),
        ([[0.1]], r"numbers of shape \[n\]"),
        ([0.1, -0.1], "tolerance at position 1 is negative"),
    ],
)
def test_curve_tolerances(tolerances: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bias_curve(GOOD, tolerances)


@pytest.mark.filterwarnings("error")
def test_a_lazy_frame_is_refused_without_a_warning() -> None:
    with pytest.raises(InputError, match="or be a data frame of them, not a LazyFrame"):
        audit(polars.LazyFrame(GOOD["los"], schema=["los"]), 0.2)


def test_inputs_are_not_changed() -> None:
    scores = {"a": np.array([0.5, -0.0, 0.1]), "b": np.array([0.9, 0.2, 0.0])}
    subjects = {"a": np.array([3, 1, 2]), "b": np.array([1, 2, 3])}
    before = {task: values.tobytes() for task, values in {**scores}.items()}
    for protocol in ("exact", "sampled"):
        audit(scores, 0.2, subjects=subjects, protocol=protocol)
        audit(scores, 0.2, protocol=protocol)
    assert {task: values.tobytes() for task, values in scores.items()} == before
    assert subjects["a"].tolist() == [3, 1, 2]


def test_every_module_of_the_audit_is_imported_with_numpy_alone() -> None:
    program = """
import importlib, pkgutil, sys
import relif_core.audit
print(sorted(name for name in sys.modules if name.startswith("relif_core.") and ".audit" not in name))
for module in pkgutil.iter_modules(relif_core.audit.__path__, "relif_core.audit."):
    importlib.import_module(module.name)
heavy = "torch torchmetrics matplotlib numba pandas polars scipy sklearn pydantic ray rich".split()
print(sorted(set(heavy) & {name.split(".")[0] for name in sys.modules}))
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.splitlines() == ["['relif_core.errors']", "[]"]
