"""The surrogate gives the losses, rates, scales and gradients of the released implementation."""

import numpy as np
import pytest
import torch

from relif_core.surrogate import LipschitzSurrogate

SETTINGS = {
    "surrogate_default": {},
    "surrogate_no_align": {"align": False},
    "surrogate_single_prototype": {"prototypes": 1},
    "surrogate_two_tasks_wide": {"huber_width": 0.02, "hinge_width": 0.5, "prototypes": 12},
}


@pytest.mark.parametrize("group", SETTINGS)
def test_every_step_equals_the_release(group: str, reference_arrays: dict[str, np.ndarray]) -> None:
    def read(name: str) -> np.ndarray:
        return reference_arrays[f"{group}/{name}"]

    surrogate = LipschitzSurrogate(**SETTINGS[group])
    for step, (embedding_values, score_values) in enumerate(
        zip(read("embeddings"), read("scores"), strict=True)
    ):
        embeddings = torch.tensor(embedding_values, requires_grad=True)
        scores = torch.tensor(score_values, requires_grad=True)
        output = surrogate(embeddings, {f"task {i}": row for i, row in enumerate(scores)})
        output.loss.backward()

        assert output.n_pairs.item() == read("n_pairs")[step]
        assert output.valid.item() == (read("n_pairs")[step] > 0)
        assert output.loss.item() == pytest.approx(read("loss")[step], abs=1e-6)
        assert surrogate.gap_scale.item() == pytest.approx(read("gap_scale")[step], abs=1e-6)
        assert surrogate.distance_scale.item() == pytest.approx(read("distance_scale")[step], abs=1e-6)
        if output.valid:
            assert output.violation_rate.item() == pytest.approx(read("violation_rate")[step], abs=1e-6)
        for leaf, name in ((embeddings, "grad_embeddings"), (scores, "grad_scores")):
            expected = read(name)[step]
            error = np.abs(leaf.grad.numpy() - expected).max()
            assert error <= 1e-5 * np.abs(expected).max(), (name, step)
