"""Dense training: ReLiF's step against ERM's, an epoch against a plain loader: ``-m benchmarks.dense_step``.

Steps of both methods are timed in turn on the same batches. The plain loop is what a reader would write: one
.npy file per frame and kind, a map-style dataset, ``torch.utils.data.DataLoader``, the same model and AdamW.
On a CPU times are processor time of one thread (other programs may share the machine), on a GPU wall time
with the device's queue emptied.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from relif_core.outcome import machine
from relif_core.problems.dense import DenseProblem
from relif_core.settings import dense_settings
from relif_core.tensors.dense import FRAME_ARRAYS, DenseTensors
from relif_core.training import TrainingLoop
from relif_data.synthetic_rooms import prepare

BATCH = 8


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


def plain_batches(files: FrameFiles, device: torch.device, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """One epoch of the plain loop's batches on the device."""
    loader = DataLoader(files, BATCH, shuffle=True, drop_last=True, num_workers=workers)
    for batch in loader:
        yield {name: array.to(device) for name, array in batch.items()}


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

        files = FrameFiles(Path(scratch) / "files", tensors, tensors.frames_of("train"))
        loop = loops["erm"]
        feeds = {
            "this project": lambda: problem.training_batches(BATCH, 0, 0),
            "DataLoader": lambda: plain_batches(files, device, given.loader_workers),
        }
        feed = dict.fromkeys(feeds, float("inf"))
        epoch = dict.fromkeys(feeds, float("inf"))
        for name in [*feeds] * 3:
            images = sum(len(batch["images"]) for batch in feeds[name]())
            feed[name] = min(feed[name], timed(lambda: list(feeds[name]()), device) / images)  # noqa: B023
            spent = timed(lambda: [loop.step(batch) for batch in feeds[name]()], device)  # noqa: B023
            epoch[name] = min(epoch[name], spent / images)
    made = machine(device)
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
