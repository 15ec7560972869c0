"""The sampled protocol and induced tolerances equal the authors' released implementation."""

from typing import Any

import numpy as np
import pytest

from relif_core.audit import audit, induced_tolerances

GROUPS = {
    "audit_four_tasks": {"pool_size": 256, "pairs": 4096, "pair_seed": 42, "k": 5},
    "audit_three_tasks": {"pool_size": 256, "pairs": 4096, "pair_seed": 42, "k": 5},
    "audit_two_tasks_small_pool": {"pool_size": 256, "pairs": 4096, "pair_seed": 42, "k": 5},
    "audit_pair_seed_7": {"pool_size": 64, "pairs": 512, "pair_seed": 7, "k": 20},
}


def _pools(
    arrays: dict[str, np.ndarray], group: str, tasks: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    valid = {task: arrays[f"{group}/valid/{task}"] for task in tasks}
    scores = {task: arrays[f"{group}/score/{task}"][valid[task]] for task in tasks}
    return scores, {task: arrays[f"{group}/embeddings"][valid[task]] for task in tasks}


@pytest.mark.parametrize("group", GROUPS)
def test_audit_group(
    group: str, reference_arrays: dict[str, np.ndarray], reference_values: dict[str, Any]
) -> None:
    expected = reference_values[group]
    options = dict(GROUPS[group])
    prototypes = options.pop("k")
    scores, embeddings = _pools(reference_arrays, group, list(expected["eval_pool_size"]))

    tolerances = induced_tolerances(embeddings, scores, prototypes)
    assert {"__".join(pair): value for pair, value in tolerances.items()} == pytest.approx(
        expected["distances"], abs=1e-6
    )

    for tolerance, suffix in ((tolerances, ""), (expected["fixed_threshold"], "_fixed_threshold")):
        result = audit(scores, tolerance, protocol="sampled", **options)
        assert result.bias == pytest.approx(expected[f"bias{suffix}"], abs=1e-6)
        assert result.violation_rate == pytest.approx(expected[f"violation_rate{suffix}"], abs=1e-12)
        bias = {"__".join(row.tasks): row.bias for row in result.per_pair}
        rate = {"__".join(row.tasks): row.violation_rate for row in result.per_pair}
        assert bias == pytest.approx(expected[f"per_pair_bias_mean{suffix}"], abs=1e-6)
        assert rate == expected[f"per_pair_violation_rate{suffix}"], "a single differing draw would show here"


@pytest.mark.parametrize("group", GROUPS)
def test_exact_protocol_lies_within_the_sampling_error(
    group: str, reference_arrays: dict[str, np.ndarray], reference_values: dict[str, Any]
) -> None:
    expected = reference_values[group]
    options = {name: value for name, value in GROUPS[group].items() if name != "k"}
    scores, _ = _pools(reference_arrays, group, list(expected["eval_pool_size"]))
    sampled = audit(scores, expected["fixed_threshold"], protocol="sampled", **options)
    exact = audit(scores, expected["fixed_threshold"])
    assert exact.bias == pytest.approx(expected["bias_fixed_threshold"], abs=4 * sampled.bias_se)
    assert exact.bias_se < sampled.bias_se
