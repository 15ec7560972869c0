"""Dense training: ReLiF's step against ERM's, an epoch against a plain loader: ``-m benchmarks.dense_step``.

``training_gflop`` and ``estimated_seconds`` say what a GPU should need where none was to be had.

Steps of both methods are timed in turn on the same batches. The plain loop is what a reader would write: one
.npy file per frame and kind, a map-style dataset, ``torch.utils.data.DataLoader``, the same model and AdamW.
On a CPU times are processor time of one thread (other programs may share the machine), on a GPU wall time
with the device's queue emptied.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from relif_core.balancers import balancer_class
from relif_core.models.vision import DenseModel
from relif_core.problems.dense import DenseProblem
from relif_core.settings import RunSettings, dense_settings
from relif_core.tensors.dense import FRAME_ARRAYS, DenseTensors
from relif_core.training.epochs import TEST_EVERY
from relif_core.training.loop import TrainingLoop
from relif_core.training.outcome import machine
from relif_data.synthetic_rooms import prepare

BATCH = 8
#: What the estimates assume: bfloat16 operations a second of a GPU of the 200 TFLOP/s class, and the share of
#: them that training reaches.
CLASS, SHARE = 200e12, 0.3
#: NYUv2's frames as this project splits them.
FRAMES = {"train": 675, "validation": 120, "test": 654}


class FrameFiles(Dataset[dict[str, torch.Tensor]]):
    """One file per frame and kind, read when it is asked for."""

    def __init__(self, folder: Path, tensors: DenseTensors, frames: np.ndarray) -> None:
        self.folder, self.frames = folder, frames
        for name in FRAME_ARRAYS:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for frame in frames:
                np.save(folder / name / f"{frame}.npy", tensors.arrays[name][frame])

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        frame = self.frames[index]
        return {name: torch.from_numpy(np.load(self.folder / name / f"{frame}.npy")) for name in FRAME_ARRAYS}


def clock(device: torch.device) -> float:
    """Processor time on a CPU; wall time once the queue is empty on a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes."""
    before = clock(device)
    call()
    return clock(device) - before


def plain_batches(
    files: FrameFiles, device: torch.device, workers: int = 0, batch: int = BATCH
) -> Iterator[dict[str, torch.Tensor]]:
    """One epoch of the plain loop's batches on the device."""
    loader = DataLoader(files, batch, shuffle=True, drop_last=True, num_workers=workers)
    for arrays in loader:
        yield {name: array.to(device) for name, array in arrays.items()}


def against_loader(
    loop: TrainingLoop,
    problem: DenseProblem,
    scratch: Path,
    *,
    plain: TrainingLoop | None = None,
    workers: int = 0,
    turns: int = 3,
    most: int | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Time epochs (at ``most`` so many batches) of this project and the plain loop, with the same model.

    The plain loop makes the steps of ``plain``, which no CUDA graph captures (None: those of ``loop``).

    Returns:
        Seconds per image of making an epoch's batches and of training on them, the least of some turns.
    """
    batch, device = loop.settings.training.batch_size, problem.device
    frames = problem.tensors.frames_of("train")[: most and most * batch]
    files = FrameFiles(scratch, problem.tensors, frames)
    feeds: dict[str, Callable[[], Iterable[dict[str, torch.Tensor]]]] = {
        "this project": lambda: itertools.islice(problem.training_batches(batch, 0, 0), most),
        "DataLoader": lambda: plain_batches(files, device, workers, batch),
    }
    feed = dict.fromkeys(feeds, float("inf"))
    epoch = dict.fromkeys(feeds, float("inf"))
    for name in [*feeds] * turns:
        images = sum(len(batch["images"]) for batch in feeds[name]())
        feed[name] = min(feed[name], timed(lambda: list(feeds[name]()), device) / images)  # noqa: B023
        step = (plain or loop).step if name == "DataLoader" else loop.step
        spent = timed(lambda: [step(batch) for batch in feeds[name]()], device)  # noqa: B023
        epoch[name] = min(epoch[name], spent / images)
    return feed, epoch


def training_gflop(height: int, width: int, encoder: str = "resnet50") -> dict[str, float]:
    """Count the operations (a multiplication and an addition are two) of a batch, without computing them.

    Returns:
        GFLOP of "forward", of a training "step", and of a step "by task", whose methods need the gradient of
        each task's loss.
    """
    counts = {}
    with torch.device("meta"):
        model = DenseModel(encoder)
        batch = {
            "images": torch.zeros(BATCH, 3, height, width, dtype=torch.uint8),
            "labels": torch.zeros(BATCH, height, width, dtype=torch.uint8),
            "depth": torch.zeros(BATCH, height, width),
            "normals": torch.zeros(BATCH, 3, height, width, dtype=torch.int8),
        }
        for kind in ("forward", "step", "by task"):
            with FlopCounterMode(display=False) as counter:
                losses = model.losses(model(batch), batch).values
                if kind == "step":
                    losses.sum().backward()
                for loss, head in zip(
                    losses if kind == "by task" else (), model.heads.values(), strict=False
                ):
                    own = [*model.encoder.parameters(), *head.parameters()]
                    torch.autograd.grad(loss, own, retain_graph=True)
            counts[kind] = counter.get_total_flops() / 1e9
    return counts


def estimated_seconds(runs: Iterable[RunSettings], gflop: dict[str, float]) -> float:
    """Return what runs on NYUv2 should last one after another on a GPU that ``SHARE`` of ``CLASS`` fills.

    Every epoch evaluates validation, every fifth the test split too, and so do three times at the end. What
    starting, reading and writing take is not in it.
    """
    total = 0.0
    for run in runs:
        step = "by task" if balancer_class(run.balancer).needs_gradients else "step"
        epochs = run.training.epochs
        images = epochs * FRAMES["validation"] + (epochs // TEST_EVERY + 3) * FRAMES["test"]
        total += (epochs * FRAMES["train"] * gflop[step] + images * gflop["forward"]) / BATCH
    return total * 1e9 / (CLASS * SHARE)


def main() -> None:
    """Print the table and write it beside this script's other results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--loader-workers", type=int, default=0)
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.set_num_threads(1)
    precision = "bfloat16" if device.type == "cuda" else "float32"
    with tempfile.TemporaryDirectory() as scratch:
        size = {"height": given.height, "width": given.height * 4 // 3}
        tensors = DenseTensors.open(
            prepare(None, Path(scratch) / "rooms", frames=given.frames, views=1, **size)
        )
        problem = DenseProblem(tensors, device)
        loops = {
            method: TrainingLoop(
                dense_settings(method, model={"encoder": given.encoder}, training={"precision": precision}),
                problem,
            )
            for method in ("erm", "relif")
        }
        batch = problem.batch(tensors.frames_of("train")[:BATCH])
        steps: dict[str, list[float]] = {method: [] for method in loops}
        for loop in loops.values():
            loop.model.train()
            loop.step(batch)
        for _ in range(given.repeats):
            for method, loop in loops.items():
                steps[method].append(timed(lambda loop=loop: loop.step(batch), device))  # type: ignore[misc]
        cost = {method: float(np.median(times)) for method, times in steps.items()}

        feed, epoch = against_loader(
            loops["erm"], problem, Path(scratch) / "files", workers=given.loader_workers
        )
    made = machine(device, precision)
    lines = [
        (
            f"Device: {made['device']}; {precision}; {given.encoder}; {size['height']} × {size['width']},"
            f" batch {BATCH}; {'processor time of one thread' if device.type == 'cpu' else 'wall time'}."
        ),
        "",
        "| what | ERM | ReLiF | ratio |",
        "| --- | ---: | ---: | ---: |",
        (
            f"| training step, ms (median of {given.repeats}) | {cost['erm'] * 1e3:.1f} |"
            f" {cost['relif'] * 1e3:.1f} | {cost['relif'] / cost['erm']:.3f} |"
        ),
        "",
        "| what | this project | DataLoader and .npy files | ratio |",
        "| --- | ---: | ---: | ---: |",
        (
            f"| making an epoch's batches, ms per image | {feed['this project'] * 1e3:.3f} |"
            f" {feed['DataLoader'] * 1e3:.3f} | {feed['DataLoader'] / feed['this project']:.1f} |"
        ),
        (
            f"| training, images per second | {1 / epoch['this project']:.1f} | {1 / epoch['DataLoader']:.1f}"
            f" | {epoch['DataLoader'] / epoch['this project']:.2f} |"
        ),
    ]
    if device.type == "cpu":
        lines += [
            "",
            (
                "No GPU was at hand: on a CPU the model's arithmetic decides, and how batches are made hardly"
                " shows."
            ),
        ]
    text = "\n".join(lines)
    print(text)
    target = Path(__file__).parent / "results" / f"dense_step_{device.type}.md"
    target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
