"""An ERM epoch against the plain loop: ``python -m benchmarks.clinical_epoch TENSORS [TENSORS ...]``.

The plain loop is what this project ran before: ``nn.LSTM`` over the padded batch with its own dropout,
Bernoulli dropout on every state, AdamW one parameter at a time, validation in float32. Both make the steps of
one epoch in turn, batch by batch, each in its own process, and evaluate the validation split; model of
Table 5 (two layers of width 256, batch 64), one thread, processor time, medians over the batches. Where the
processor multiplies in bfloat16 the project's loop runs once more in it, which `relif run` takes there.
"""

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.machine import machine
from relif_core.models.clinical import ClinicalModel, ClinicalOutputs, Dropout
from relif_core.problems.clinical import ClinicalProblem
from relif_core.provenance import has_bfloat16, processor_instructions
from relif_core.settings import ModelSettings, changed, method_settings
from relif_core.tensors.clinical import ClinicalTensors
from relif_core.training.loop import TrainingLoop, keep_freed_memory

BATCHES = 10
RESULT = Path(__file__).parent / "results" / "clinical_epoch.md"


class PlainModel(ClinicalModel):
    """Every hour of every padded stay, and dropout wherever a head might read."""

    def forward(self, batch: Mapping[str, Tensor]) -> ClinicalOutputs:
        """Return what ``ClinicalModel`` returns."""
        states, _ = self.encoder(batch["inputs"])
        last, stays = batch["lengths"] - 1, torch.arange(len(states))
        dropped = self.dropout(states)
        logits = {}
        for task in self.tasks:
            hour = last if task.horizon_hours is None else last.clamp(max=task.horizon_hours - 1)
            read = dropped if task.level == "hourly" else dropped[stays, hour]
            logits[task.name] = self.heads[task.name](read)
        return ClinicalOutputs(states[stays, last], logits)


class PlainProblem(ClinicalProblem):
    """The same batches with the plain model."""

    def build_model(self, settings: ModelSettings) -> ClinicalModel:
        """Return a plain model, its dropout PyTorch's."""
        model = PlainModel(self.tensors.inputs, self.tensors.tasks, settings)
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, Dropout):
                    setattr(module, name, nn.Dropout(child.p))
        return model


def precisions() -> list[str]:
    """Float32, and bfloat16 where the processor multiplies in it."""
    return ["float32", "bfloat16"] if has_bfloat16() else ["float32"]


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    before = time.process_time()
    call()
    return time.process_time() - before


def floor(inputs: int, model: ModelSettings, rows: int) -> str:
    """Say how long the LSTM's matrix products alone take at the processor's measured float32 rate."""
    forward = inputs + 2 * model.hidden * model.layers - model.hidden
    back = 2 * model.hidden * model.layers - model.hidden
    count = 2 * rows * 4 * model.hidden * (2 * forward + back)
    left, right = torch.randn(rows, model.hidden), torch.randn(model.hidden, 4 * model.hidden)
    spent = min(seconds(lambda: left @ right) for _ in range(20))
    rate = 2 * rows * model.hidden * 4 * model.hidden / spent
    return (
        f"A step on {rows:,} hours multiplies {count / 1e9:.1f} GFLOP in the LSTM. At {rate / 1e9:.0f}"
        " GFLOP/s, the best that a product of its size reaches here in float32, that is"
        f" {1e3 * count / rate:.0f} ms: no float32 loop over as many hours is faster."
    )


class Runner:
    """One loop in a process of its own, as a run is: each with its own memory allocator."""

    loop: TrainingLoop
    batches: list[Mapping[str, Tensor]]

    @classmethod
    def start(cls, name: str, folder: Path) -> None:
        """Build the loop called ``name`` ("plain", or a precision) in this process."""
        torch.set_num_threads(1)
        tensors, settings = ClinicalTensors.open(folder), method_settings("erm")
        if name == "plain":
            cls.loop = TrainingLoop(settings, PlainProblem(tensors))
            groups = [dict(group) for group in cls.loop.optimizer.param_groups]
            cls.loop.optimizer = torch.optim.AdamW(
                [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups],
                lr=settings.training.learning_rate,
                foreach=False,
            )
        else:
            keep_freed_memory()
            ours = changed(settings, {"training": {"precision": name}})
            cls.loop = TrainingLoop(ours, ClinicalProblem(tensors))
        cls.batches = list(cls.loop.problem.training_batches(64, 0, 0))

    @classmethod
    def step(cls, turn: int) -> float:
        """Return the seconds of a step on batch ``turn``."""
        cls.loop.model.train()
        return seconds(lambda: cls.loop.step(cls.batches[turn]))

    @classmethod
    def check(cls, turn: int) -> float:
        """Return the seconds of a validation."""
        return seconds(lambda: cls.loop._evaluate("validation"))


def measure(folder: Path) -> list[str]:
    """Return the table rows of one data set."""
    tensors = ClinicalTensors.open(folder)
    batches = list(ClinicalProblem(tensors).training_batches(64, 0, 0))
    with contextlib.ExitStack() as stack:
        loops = {
            name: stack.enter_context(
                ProcessPoolExecutor(
                    1, get_context("spawn"), initializer=Runner.start, initargs=(name, folder)
                )
            )
            for name in ("plain", *precisions())
        }

        def in_turn(what: Callable[[int], float], turns: int) -> dict[str, list[float]]:
            """Times of every loop, one after the other; the first turn warms up."""
            times: dict[str, list[float]] = {name: [] for name in loops}
            for turn in range(turns + 1):
                for name, process in loops.items():
                    times[name].append(process.submit(what, turn).result())
            return {name: each[1:] for name, each in times.items()}

        steps, checks = in_turn(Runner.step, BATCHES), in_turn(Runner.check, 3)
    valid = sum(int(batch["lengths"].sum()) for batch in batches)
    padded = sum(batch["inputs"].shape[0] * batch["inputs"].shape[1] for batch in batches)
    rows = []
    step = {name: statistics.median(times) for name, times in steps.items()}
    check = {name: statistics.median(times) for name, times in checks.items()}
    epoch = {name: len(batches) * step[name] + check[name] for name in loops}
    for what, cost, unit, scale in (
        ("step", step, "ms", 1e3),
        ("validation", check, "ms", 1e3),
        ("epoch", epoch, "s", 1),
    ):
        rows += [
            f"| {tensors.manifest['dataset']} | {padded / valid:.2f} | {what}, {unit} |"
            f" {cost['plain'] * scale:.1f} | {precision} | {cost[precision] * scale:.1f} |"
            f" {cost['plain'] / cost[precision]:.2f} |"
            for precision in precisions()
        ]
    return rows


def main() -> None:
    """Measure every data set named on the command line and keep the table."""
    torch.set_num_threads(1)
    lines = [
        "# An ERM epoch against the plain loop",
        "",
        (
            f"{machine()}; instructions {processor_instructions()}; PyTorch {torch.__version__}; the plain"
            f" loop in float32; load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores. Medians of"
            f" {BATCHES} steps."
        ),
        "",
        "| data | padded ÷ true hours | what | plain loop | precision here | this project | ratio |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: |",
    ]
    for folder in sys.argv[1:]:
        lines += measure(Path(folder))
    inputs = ClinicalTensors.open(Path(sys.argv[1])).inputs
    lines += ["", floor(inputs, ModelSettings(), 64 * 48)]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
