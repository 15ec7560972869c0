"""Clinical utility against the released implementation."""

from typing import Any

import numpy as np
import pytest

from relif_core.problems.utility import Utility, task_utility
from relif_core.tensors.clinical import Task


def test_clinical_utility_equals_the_release(
    reference_arrays: dict[str, np.ndarray], reference_values: dict[str, Any]
) -> None:
    expected = reference_values["metrics"]
    metrics = {
        key.removeprefix("metrics/"): value
        for key, value in reference_arrays.items()
        if key.startswith("metrics/")
    }
    classes = int(max(metrics["los_true"].max(), metrics["los_pred"].max())) + 1
    found = Utility(
        {
            "mortality": task_utility(
                Task("mortality", "", "binary", "stay"), metrics["mortality_true"], metrics["mortality_score"]
            ),
            "los": task_utility(
                Task("los", "", "binned", "stay", classes=classes),
                metrics["los_true"],
                np.eye(classes)[metrics["los_pred"]],
            ),
            "phenotype": task_utility(
                Task("phenotype", "", "multilabel", "stay", classes=25),
                metrics["phenotype_true"],
                metrics["phenotype_score"],
            ),
        }
    )
    assert found.tasks["mortality"].score == pytest.approx(expected["mortality"], abs=1e-6)
    assert found.tasks["los"].metrics["linear_weighted_kappa"] == pytest.approx(
        expected["los_kappa"], abs=1e-6
    )
    assert found.tasks["phenotype"].score == pytest.approx(expected["phenotype"], abs=1e-6)
    for task in found.tasks:
        assert found.tasks[task].score == pytest.approx(expected["unified"][task], abs=1e-6)
    assert found.worst == pytest.approx(expected["worst_clinical"], abs=1e-6)
    assert found.macro == pytest.approx(expected["macro_clinical"], abs=1e-6)
