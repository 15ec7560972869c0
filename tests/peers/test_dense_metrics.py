"""Dense utility against the released implementation."""

import pytest
import torch

from relif_core.problems.dense_utility import DenseMeter


def test_metrics_equal_the_reference(reference_arrays, reference_values) -> None:
    def array(name: str) -> torch.Tensor:
        return torch.from_numpy(reference_arrays[f"metrics/{name}"])

    meter = DenseMeter(13)
    for piece in (slice(0, 1), slice(1, 4)):
        meter.add(
            {
                "segmentation": array("seg_logits")[piece],
                "depth": array("depth_pred")[piece, 0],
                "normals": array("normal_pred")[piece],
            },
            {
                "labels": array("seg_true")[piece],
                "depth": array("depth_true")[piece, 0],
                "normals": array("normal_true")[piece],
            },
        )
    utility, expected = meter.utility(), reference_values["metrics"]
    metrics = {task: values.metrics for task, values in utility.tasks.items()}
    assert metrics["segmentation"]["miou"] == pytest.approx(expected["seg"]["miou"], rel=1e-12)
    assert metrics["segmentation"]["pixel_accuracy"] == pytest.approx(expected["seg"]["pix_acc"], rel=1e-12)
    # The reference computes depth and angles in float32.
    assert metrics["depth"]["rmse"] == pytest.approx(expected["depth"]["rmse"], rel=1e-6)
    assert metrics["normals"]["mean_angle"] == pytest.approx(expected["normal"]["mean"], rel=1e-6)
    for limit in ("11.25", "22.5", "30"):
        assert metrics["normals"][f"within_{limit}"] == pytest.approx(expected["normal"][limit], rel=1e-12)
    for task, name in (("segmentation", "seg"), ("depth", "depth"), ("normals", "normal")):
        assert utility.tasks[task].score == pytest.approx(expected["unified"][name], rel=1e-6)
    assert utility.worst == pytest.approx(expected["worst_dense"], rel=1e-6)
    assert utility.macro == pytest.approx(expected["macro_dense"], rel=1e-6)
