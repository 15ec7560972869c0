r"""The GPU part of the paper on a machine rented by the minute: one package, one command, a few files back.

At home, from a clean checkout (``FORM`` a travelling form of NYUv2, ``CLINICAL`` a clinical tensor folder)::

    python -m benchmarks.rented_gpu pack FORM PACKAGE --weights WEIGHTS \
        [--large LARGE_FORM] [--clinical CLINICAL]

writes ``PACKAGE/relif.tar.xz.00``, ``.01``, ... of at most ``--piece`` MiB each, with SHA256SUMS. There, with
all pieces side by side::

    sha256sum -c SHA256SUMS && cat relif.tar.xz.* | tar xJ && cd relif/tree
    python -m benchmarks.rented_gpu run --minutes 14 --back BACK

needs torch, torchvision, NumPy, SciPy, scikit-learn, safetensors, h5py and Pillow. Runs and their checkpoints
live in ``--scratch`` (memory). The blocks stand in the order of their value; a block is not begun where what
a step and an evaluation were measured to take says that its first run cannot end, and the study begins no run
that would not end. After every block all finished records lie in ``BACK/records-0.tar`` ... (at most
``--files`` of ``--piece`` MiB) beside ``BACK/rented.json``, which says what was measured, made and left out,
so that whatever interrupts the rent costs one block at most.
"""

import argparse
import hashlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "data"))

from relif_core.errors import DataError, InputError  # noqa: E402
from relif_core.files import atomic_file, sha256_of, write_json  # noqa: E402
from relif_core.outcome import machine  # noqa: E402
from relif_core.problems import open_problem  # noqa: E402
from relif_core.provenance import STAMP, sources  # noqa: E402
from relif_core.record import Record  # noqa: E402
from relif_core.settings import RunSettings, changed, dense_settings  # noqa: E402
from relif_core.studies.grid import SEVEN_METHODS, named_study, run_study  # noqa: E402
from relif_core.training import TrainingLoop  # noqa: E402

#: What travels of the tree: nothing that a run does not read, no records.
TREE = ("relif_core", "data/relif_data", "data/analysis_plan.md", "benchmarks/rented_gpu.py")
MIB = 2**20
#: Steps that a measurement takes after its warm-up.
STEPS = 20
#: Seconds kept for the last evaluation under way, the last packing and the goodbye.
RESERVE = 20.0


@dataclass(frozen=True)
class Block:
    """Runs of about one length and of one value: a data set of the package and settings in their order."""

    name: str
    data: str
    runs: tuple[RunSettings, ...]


def blocks_of(weights: str | None, rehearsal: bool, every: int = 1) -> tuple[Block, ...]:
    """Return the blocks of ``nyuv2`` and ``table3`` (sizes, seeds: data/analysis_plan.md) by falling value.

    Dense runs evaluate every so many epochs (the plan: 1). In a rehearsal every block has two methods, one
    seed and one epoch of small models.
    """
    pair, others = ("erm", "relif"), tuple(name for name in SEVEN_METHODS if name not in ("erm", "relif"))
    plan: tuple[tuple[str, str, tuple[str, ...], range], ...] = (
        ("seven methods, two seeds", "nyuv2", SEVEN_METHODS, range(400, 402)),
        ("ERM and ReLiF to five seeds", "nyuv2", pair, range(402, 405)),
        ("the others to three seeds", "nyuv2", ("erm", *others), range(402, 403)),
        ("ERM and ReLiF, large images", "nyuv2_large", pair, range(400, 402)),
    )
    model: dict[str, Any] = {"weights": weights}
    training: dict[str, Any] = {"epochs": 40, "patience": 40, "precision": "bfloat16"}
    if every != 1:
        training["evaluate_every"] = every
    clinical: dict[str, Any] = {}
    if rehearsal:
        plan = tuple((name, data, methods[:2], range(400, 401)) for name, data, methods, _ in plan)
        model = {"encoder": "resnet18"}
        training = {"epochs": 1, "batch_size": 2, "precision": "float32"}
        clinical = {"model": {"hidden": 8}, "training": {"epochs": 1, "precision": "float32"}, "seeds": [200]}
    dense = [
        Block(
            name,
            data,
            tuple(
                dense_settings(method, seed=seed, model=model, training=training)
                for seed in seeds
                for method in methods
            ),
        )
        for name, data, methods, seeds in plan
    ]
    table = named_study("table3", **clinical)
    return *dense, Block("table3", "clinical", tuple(table[:2] if rehearsal else table))


def pack(given: argparse.Namespace) -> None:
    """Write the package's pieces."""

    def git(*arguments: str) -> str:
        whole = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(whole, capture_output=True, text=True, check=True).stdout

    state = sources()
    if not given.rehearsal and git("status", "--porcelain", "--untracked-files=no", "--", *TREE):
        raise InputError(f"{ROOT}: commit what is modified, since the records name the commit that made them")
    given.package.mkdir(parents=True, exist_ok=False)
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch) / STAMP, {**state, "modified": given.rehearsal})
        whole = Path(scratch) / "relif.tar.xz"
        with tarfile.open(whole, "w:xz", preset=1) as tar:
            for name in git("ls-files", "-z", *TREE).split("\0")[:-1]:
                tar.add(ROOT / name, f"relif/tree/{name}")
            tar.add(Path(scratch) / STAMP, f"relif/tree/relif_core/{STAMP}")
            if given.weights is not None:
                tar.add(given.weights, f"relif/inputs/weights{given.weights.suffix}")
            for name in ("nyuv2", "nyuv2_large", "clinical"):
                if (source := getattr(given, name)) is not None:
                    tar.add(source, f"relif/inputs/{name}")
        sums = []
        with open(whole, "rb") as stream:
            for number, piece in enumerate(iter(lambda: stream.read(int(given.piece * MIB)), b"")):
                path = given.package / f"{whole.name}.{number:02d}"
                path.write_bytes(piece)
                sums.append(f"{hashlib.sha256(piece).hexdigest()}  {path.name}\n")
    (given.package / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print(f"{len(sums)} pieces in {given.package}, commit {state['commit']}")


def run(given: argparse.Namespace) -> None:
    """Work off the blocks until the time is used up."""
    began = time.time()
    deadline = began + 60 * given.minutes - given.reserve
    given.back.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    diary: dict[str, Any] = {
        "machine": machine(torch.device(given.device), "as each record says"),
        "blocks": [],
    }

    def note(**entry: Any) -> None:
        diary["blocks"].append({**entry, "at_seconds": round(time.time() - began, 1)})
        print(json.dumps(diary["blocks"][-1]), flush=True)
        _pack_records(given, diary)

    weights = None if given.rehearsal else next(given.inputs.glob("weights*"), None)
    measured: dict[str, dict[str, float]] = {}
    for block in blocks_of(sha256_of(weights) if weights else None, given.rehearsal, given.evaluate_every):
        source = given.inputs / block.data
        if not source.is_dir():
            note(block=block.name, not_begun=f"the package holds no {block.data}")
            continue
        if not given.rehearsal and block.data != "clinical" and weights is None:
            note(block=block.name, not_begun="the package holds no encoder weights")
            continue
        left = deadline - time.time()
        if left <= 0:
            note(block=block.name, not_begun="the time is used up")
            continue
        folder = _tensors(source, given.scratch / "tensors" / block.data)
        if block.data not in measured:
            measured[block.data] = measure(
                block.runs[0],
                folder,
                given.device,
                weights,
                tries=given.try_workers,
                repeats=2 if given.rehearsal else STEPS,
            )
            diary["measured"] = measured
        cost, left = measured[block.data], deadline - time.time()
        if cost["run_seconds"] > left:
            note(
                block=block.name, not_begun=f"a run takes {cost['run_seconds']:.0f} s, {left:.0f} s are left"
            )
            continue
        summary = run_study(
            block.runs,
            folder,
            given.scratch / "records" / block.data,
            workers=int(cost["workers"]),
            device=given.device,
            minutes=left / 60,
            weights=weights if block.data != "clinical" else None,
        )
        note(
            block=block.name,
            made=summary.made,
            found=summary.found,
            paused=summary.paused,
            failed=summary.failed,
            seconds=round(summary.seconds, 1),
        )
    print(f"done after {time.time() - began:.0f} s: {given.back}", flush=True)


def measure(
    settings: RunSettings,
    folder: Path,
    device: str,
    weights: Path | None,
    *,
    tries: Sequence[int],
    repeats: int,
) -> dict[str, float]:
    """Time ERM's and ReLiF's step, an evaluation and the steps of several workers; choose their number.

    Returns:
        Milliseconds of a step of both, their ratio, ``run_seconds`` of an ERM run that shares the device as
        the workers will, and ``steps_per_second`` of every number of workers tried.
    """
    problem = open_problem(folder, device, settings, weights)
    where = torch.device(device)
    steps: dict[str, float] = {}
    for method in ("erm", "relif"):
        # As many weights, and the same work; ReLiF's scores are not on their scale here, which costs nothing.
        own = changed(settings, {"method": method, "penalty": method == "relif"})
        loop = TrainingLoop(own, problem)
        batches = _endless(loop)
        taken = [_timed(lambda: loop.step(next(batches)), where) for _ in range(repeats + 3)]  # noqa: B023
        steps[method] = statistics.median(taken[3:])
    evaluation = _timed(loop.select, where)
    count = sum(1 for _ in problem.training_batches(settings.training.batch_size, 0, 0))
    rates = {number: _rate(settings, folder, device, weights, number, repeats) for number in tries}
    best = max(rates, key=lambda number: rates[number])
    if not rates[best]:
        raise DataError(f"{folder}: no worker could make its steps; see what it printed above")
    epoch = count * best / rates[best] + evaluation * best / settings.training.evaluate_every
    return {
        "erm_step_ms": 1e3 * steps["erm"],
        "relif_step_ms": 1e3 * steps["relif"],
        "relif_over_erm": steps["relif"] / steps["erm"],
        "evaluation_seconds": evaluation,
        **{f"steps_per_second_{number}_workers": rate for number, rate in rates.items()},
        "workers": best,
        "run_seconds": settings.training.epochs * epoch,
    }


def _rate(
    settings: RunSettings, folder: Path, device: str, weights: Path | None, workers: int, repeats: int
) -> float:
    """Return the steps per second that a number of worker processes make together."""
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(workers), context.SimpleQueue()
    crew = [
        context.Process(
            target=_pace, args=(settings, folder, device, weights, repeats, gate, results), daemon=True
        )
        for _ in range(workers)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    if any(process.exitcode for process in crew):
        return 0.0
    return repeats * workers / max(results.get() for _ in crew)


def _pace(
    settings: RunSettings,
    folder: Path,
    device: str,
    weights: Path | None,
    repeats: int,
    gate: Any,
    results: Any,
) -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    try:
        loop = TrainingLoop(settings, open_problem(folder, device, settings, weights))
        batches = _endless(loop)
        for _ in range(3):
            loop.step(next(batches))
        gate.wait(120)
    except BaseException:
        gate.abort()
        raise
    results.put(_timed(lambda: [loop.step(next(batches)) for _ in range(repeats)], torch.device(device)))


def _endless(loop: TrainingLoop) -> Iterator[Mapping[str, torch.Tensor]]:
    loop.model.train()
    epoch = 0
    while True:
        yield from loop.problem.training_batches(loop.settings.training.batch_size, 0, epoch)
        epoch += 1


def _timed(call: Callable[[], object], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    before = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - before


def _tensors(source: Path, target: Path) -> Path:
    """Return a tensor folder of an input: itself, or made of a travelling form at the form's size."""
    if (source / "manifest.json").is_file():
        return source
    if not target.exists():
        from relif_data.nyuv2 import TRAVEL, prepare

        form = json.loads((source / TRAVEL).read_text(encoding="utf-8"))
        prepare(source, target, height=form["height"], width=form["width"])
    return target


def _pack_records(given: argparse.Namespace, diary: Mapping[str, Any]) -> None:
    """Write every finished record into the files that go back, each whole; say which did not fit."""
    folders = [path.parent for path in sorted((given.scratch / "records").glob("*/*/record.json"), key=_age)]
    room, limit = [int(given.piece * MIB)] * given.files, []
    piles: list[list[Path]] = [[] for _ in room]
    for folder in folders:
        size = sum(-(-path.stat().st_size // 512) * 512 + 1024 for path in _record_files(folder))
        place = next((number for number, left in enumerate(room) if size + 10240 <= left), None)
        if place is None:
            limit.append(folder.name)
        else:
            room[place] -= size
            piles[place].append(folder)
    for number, pile in enumerate(piles):
        if pile:
            with (
                atomic_file(given.back / f"records-{number}.tar") as stream,
                tarfile.open(fileobj=stream, mode="w") as tar,
            ):
                for folder in pile:
                    for path in _record_files(folder):
                        tar.add(path, f"{folder.parent.name}/{folder.name}/{path.name}")
    write_json(given.back / "rented.json", {**diary, "records": len(folders), "did_not_fit": limit})


def _record_files(folder: Path) -> list[Path]:
    return [folder / name for name in ("record.json", "arrays.npz")]


def _age(path: Path) -> float:
    return path.stat().st_mtime


def unpack(given: argparse.Namespace) -> None:
    """At home: check the records that came back and put them into one folder per data set."""
    for path in sorted(given.back.glob("records-*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(given.target, filter="data")
    folders = sorted(given.target.glob("*/*/record.json"))
    for path in folders:
        made = Record.load(path.parent).content["made"]
        if made["modified"] is not False:
            raise DataError(f"{path.parent}: made by modified sources; it cannot be published")
    print(f"{len(folders)} records in {given.target}")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("nyuv2", type=Path)
    packing.add_argument("package", type=Path)
    packing.add_argument("--weights", type=Path, help="encoder weights; their sha256 is in every run's key")
    packing.add_argument("--large", dest="nyuv2_large", type=Path)
    packing.add_argument("--clinical", type=Path)
    packing.add_argument("--piece", type=float, default=60.0, help="MiB of a piece")
    packing.add_argument("--rehearsal", action="store_true", help="modified sources may travel, and say so")
    packing.set_defaults(do=pack)
    running = commands.add_parser("run")
    running.add_argument("--back", type=Path, required=True)
    running.add_argument("--inputs", type=Path, default=ROOT.parent / "inputs")
    running.add_argument("--scratch", type=Path, default=Path("/dev/shm/relif"))
    running.add_argument("--minutes", type=float, default=14.0)
    running.add_argument("--reserve", type=float, default=RESERVE, help="seconds kept for the end")
    running.add_argument("--device", default="cuda")
    running.add_argument(
        "--evaluate-every", type=int, default=1, help="epochs; another number than 1 needs an amendment"
    )
    running.add_argument("--try-workers", type=int, nargs="+", default=(1, 2, 4, 6))
    running.add_argument("--piece", type=float, default=16.0, help="MiB of a file that goes back")
    running.add_argument("--files", type=int, default=8, help="files of records that go back")
    running.add_argument("--rehearsal", action="store_true", help="tiny settings; evidence of nothing")
    running.set_defaults(do=run)
    back = commands.add_parser("unpack")
    back.add_argument("back", type=Path)
    back.add_argument("target", type=Path)
    back.set_defaults(do=unpack)
    given = parser.parse_args(arguments)
    given.do(given)


if __name__ == "__main__":
    main()
