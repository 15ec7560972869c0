"""The controller gives the weights and smoothed rates of the released implementation."""

import numpy as np
import pytest

from relif_core.controller import ViolationController


@pytest.mark.parametrize("step_size", [0.001, 0.1, 1.0])
def test_trace_equals_the_release(step_size: float, reference_arrays: dict[str, np.ndarray]) -> None:
    group = f"controller_eta{step_size}"
    controller = ViolationController(step_size=step_size)
    weights, smoothed = [], []
    for rate in reference_arrays[f"{group}/violation_rate"]:
        weights.append(controller.update(rate))
        smoothed.append(controller.smoothed_rate)
    np.testing.assert_allclose(weights, reference_arrays[f"{group}/weight"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(smoothed, reference_arrays[f"{group}/smoothed"], rtol=0, atol=1e-12)
