"""The same run on a GPU: bfloat16 autocast, everything kept there, resumable; and what a CPU shows of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relif_core.errors import RunPaused
from relif_core.problems.clinical import ClinicalProblem
from relif_core.problems.dense import DenseProblem
from relif_core.settings import RunSettings, dense_settings
from relif_core.tensors.clinical import ClinicalTensors
from relif_core.tensors.dense import DenseTensors
from relif_core.training.device_controller import DeviceController
from relif_core.training.loop import TrainingLoop, _gram, run
from relif_data.synthetic_rooms import prepare

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
Small = Callable[..., RunSettings]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> DenseTensors:
    target = tmp_path_factory.mktemp("rooms") / "set"
    return DenseTensors.open(prepare(None, target, frames=36, height=32, width=32, views=1, seed=2))


@on_gpu
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


@on_gpu
@pytest.mark.parametrize("method", ["relif", "pcgrad"])
def test_a_dense_run_on_the_gpu(rooms: DenseTensors, tmp_path: Path, method: str) -> None:
    training = {"epochs": 3, "batch_size": 6, "learning_rate": 1e-3}
    found = {}
    for device, precision in (("cpu", "float32"), ("cuda", "bfloat16")):
        problem, folder = DenseProblem(rooms, device), tmp_path / device
        changes = {"model": {"encoder": "resnet18"}, "training": {**training, "precision": precision}}
        run(dense_settings("erm", **changes), problem, folder / "erm")
        with pytest.raises(RunPaused):
            run(dense_settings(method, **changes), problem, folder / method, deadline=0)
        found[device] = run(dense_settings(method, **changes), problem, folder / method)
    assert found["cuda"].content["made"]["device"] == torch.cuda.get_device_name()
    assert found["cuda"].content["made"]["resumed"]
    losses = {device: np.array(record.result["history"]["losses"]) for device, record in found.items()}
    assert np.isfinite(losses["cuda"]).all()
    assert np.abs(losses["cuda"][0] / losses["cpu"][0] - 1).max() < 0.1


@on_gpu
@pytest.mark.parametrize("method", ["erm", "uncertainty", "relif", "pcgrad", "gradnorm", "pcgrad+relif"])
def test_a_captured_pass_computes_what_the_eager_one_does(
    rooms: DenseTensors, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Losses, penalty, weights and buffers of nine steps, a smaller last batch among them."""
    training = {"batch_size": 8, "learning_rate": 1e-4, "gradient_clip": 1.0}
    settings = dense_settings(method, model={"encoder": "resnet18"}, training=training)
    problem = DenseProblem(rooms, "cuda", calibration={"depth": (0.1, 0.9), "normals": (0.1, 0.9)})
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    seen, weights = {}, {}
    for capture in (False, True):
        loop = TrainingLoop(settings, problem, capture=capture)
        loop.model.train()
        rows = []
        for epoch in range(3):
            rows += [loop.step(batch) for batch in problem.training_batches(8, 0, epoch)]
        seen[capture] = torch.stack(rows).cpu().numpy()
        weights[capture] = {name: value.float().cpu() for name, value in loop.model.state_dict().items()}
        assert (loop.batch_pass._graph is not None) == (capture and "+" not in method)
    assert len(seen[True]) >= 9
    np.testing.assert_allclose(seen[True], seen[False], rtol=2e-2, atol=1e-4)
    np.testing.assert_allclose(seen[True][0], seen[False][0], rtol=1e-5)
    for name, value in weights[False].items():
        torch.testing.assert_close(weights[True][name], value, rtol=2e-2, atol=2e-3, msg=name)


def pretended(function: Any, sample: tuple[dict[str, torch.Tensor]], allow_unused_input: bool) -> Any:
    """What ``torch.cuda.make_graphed_callables`` does to gradient paths and buffers, without a graph."""
    assert allow_unused_input
    forward = function.forward if isinstance(function, torch.nn.Module) else function
    parameters = tuple(function.parameters()) if isinstance(function, torch.nn.Module) else ()
    names = list(sample[0])
    for _ in range(3):
        forward(*sample)

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.enable_grad():
                ctx.outputs = forward(dict(zip(names, inputs[: len(names)], strict=True)))
            return tuple(output.detach() for output in ctx.outputs)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            ends, starts = zip(
                *((o, g) for o, g in zip(ctx.outputs, gradients, strict=True) if o.requires_grad), strict=True
            )
            found = torch.autograd.grad(ends, parameters, starts, allow_unused=True)
            return (*[None] * len(names), *found)

    return lambda batch: Graphed.apply(*batch.values(), *parameters)


@pytest.mark.parametrize("method", ["erm", "uncertainty", "relif", "pcgrad", "gradnorm"])
def test_gradient_paths_and_buffers_of_a_captured_pass(
    rooms: DenseTensors, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """With λ steered as on a GPU, steps are the eager ones; the smaller last batch is not captured."""
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", pretended)
    monkeypatch.setattr(
        TrainingLoop, "_steering", lambda loop: DeviceController(loop.controller, torch.device("cpu"))
    )
    settings = dense_settings(method, model={"encoder": "resnet18"}, training={"batch_size": 8})
    problem = DenseProblem(rooms, calibration={"depth": (0.1, 0.9), "normals": (0.1, 0.9)})
    seen, states = [], []
    for captures in (False, True):
        loop = TrainingLoop(settings, problem)
        loop.batch_pass._captures = captures
        loop.model.train()
        seen.append([loop.step(batch) for batch in problem.training_batches(8, 0, 0)])
        states.append(loop.model.state_dict() | loop.surrogate.state_dict())
    assert loop.batch_pass._graph is not None
    assert len(problem.tensors.frames_of("train")) % 8
    torch.testing.assert_close(seen[1], seen[0])
    torch.testing.assert_close(states[1], states[0])


@pytest.mark.parametrize("tasks", [1, 3, 4])
def test_the_dot_products_of_pairs_are_the_gram_matrix(tasks: int) -> None:
    rows = torch.randn(tasks, 5000, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(_gram(rows, pairs=True), rows @ rows.T, rtol=1e-5, atol=1e-3)
    assert torch.equal(_gram(rows), rows @ rows.T)


@pytest.mark.parametrize(("device", "chosen"), [("cpu", False), ("meta", True)])
def test_convolutions_take_the_quickest_way_wherever_a_problem_is_not_on_a_cpu(
    rooms: DenseTensors, monkeypatch: pytest.MonkeyPatch, device: str, chosen: bool
) -> None:
    """A worker process of a study makes its own problem, so that it holds there too."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    DenseProblem(rooms, device)
    assert torch.backends.cudnn.benchmark is chosen
