"""What a training step costs with every method, relative to ERM: ``python -m benchmarks.step_cost``.

The clinical model at the paper's size (two-layer LSTM of width 256, 64 stays of 48 hours, four tasks) on
simulated stays, in the training loop itself: forward, surrogate, controller, balanced backward, clipping and
AdamW. One thread and processor time, so that other work on the machine does not count; all methods take
turns, and the ratio is that of the medians.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.machine import machine
from relif_book.evidence.results import title_of
from relif_core.methods import balancer_keys
from relif_core.problems.clinical import ClinicalProblem
from relif_core.settings import method_settings
from relif_core.tensors.clinical import ClinicalTensors
from relif_core.training.loop import TrainingLoop, keep_freed_memory
from relif_data import prepare

ROUNDS = 9
RESULT = Path(__file__).parent / "results" / "step_cost.md"


def floor(model: nn.Module, tasks: int) -> str:
    """Say how the LSTM's matrix products alone compare: the gradient of every task needs a backward pass."""
    encoder = model.encoder
    widths = [encoder.input_size] + [encoder.hidden_size] * (encoder.num_layers - 1)
    forward = sum(width + encoder.hidden_size for width in widths)
    backward = 2 * forward - encoder.input_size  # nobody asks for the gradient of the inputs
    ratio = (forward + tasks * backward) / (forward + backward)
    return (
        f"{tasks} gradients of their own take {ratio:.2f} times the matrix products of one: no method that"
        " looks at every task's gradient comes near ERM where these products decide."
    )


def main() -> None:
    """Measure and keep the table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    methods = ["erm", "relif", *(name for name in balancer_keys() if name != "erm"), "pcgrad+relif"]
    times: dict[str, list[float]] = {method: [] for method in methods}
    with tempfile.TemporaryDirectory() as scratch:
        tensors = ClinicalTensors.open(prepare("synthetic_icu", None, Path(scratch) / "icu", stays=400))
        problem = ClinicalProblem(tensors)
        batch = next(problem.training_batches(64, seed=0, epoch=0))
        loops = {method: TrainingLoop(method_settings(method), problem) for method in methods}
        for turn in range(ROUNDS + 1):
            for method, loop in loops.items():
                loop.model.train()
                start = time.process_time()
                loop.step(batch)
                if turn:  # the first turn warms up
                    times[method].append(time.process_time() - start)
    medians = {method: statistics.median(values) for method, values in times.items()}
    lines = [
        "# What a training step costs",
        "",
        (
            "Made by `python -m benchmarks.step_cost` on one thread (processor time, "
            f"{ROUNDS} turns; float32). {machine()}."
        ),
        "",
        f"ERM step: {1000 * medians['erm']:.0f} ms",
        "",
        "| method | step / ERM step |",
        "| --- | ---: |",
        *(f"| {title_of(method)} | {medians[method] / medians['erm']:.3f} |" for method in methods),
    ]
    lines += ["", floor(loops["erm"].model, len(problem.task_names))]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
