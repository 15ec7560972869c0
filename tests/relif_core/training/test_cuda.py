"""The same run on a GPU: bfloat16 autocast, everything kept there, resumable."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from relif_core.errors import RunPaused
from relif_core.problems.clinical import ClinicalProblem
from relif_core.settings import RunSettings
from relif_core.tensors.clinical import ClinicalTensors
from relif_core.training import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
Small = Callable[..., RunSettings]


@pytest.mark.parametrize("method", ["relif", "pcgrad+relif"])
def test_a_run_on_the_gpu(
    icu_folder: Path, icu: ClinicalProblem, small: Small, tmp_path: Path, method: str
) -> None:
    problem = ClinicalProblem(ClinicalTensors.open(icu_folder), "cuda")
    training = {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "precision": "bfloat16"}
    with pytest.raises(RunPaused):
        run(small(method, training=training), problem, tmp_path / "gpu", deadline=0)
    on_gpu = run(small(method, training=training), problem, tmp_path / "gpu")
    on_cpu = run(small(method), icu, tmp_path / "cpu")
    assert on_gpu.content["made"]["device"] == torch.cuda.get_device_name()
    assert on_gpu.key != on_cpu.key
    for task in on_cpu.tasks:
        assert np.abs(on_gpu.scores()[task].mean() - on_cpu.scores()[task].mean()) < 0.1
