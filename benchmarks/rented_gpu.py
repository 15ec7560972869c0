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
that would not end. A block that fails is noted, and the next one begins; dense blocks stop once a method's
depth is worse than a constant's. After every run all finished records lie in ``BACK/records-0.tar`` ...
beside ``BACK/rented.json`` (together at most ``--files`` files, of ``--piece`` MiB), which says what was
measured, made and left out, so that whatever interrupts the rent costs the runs under way at most.
"""

import argparse
import contextlib
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "data"))

from benchmarks.step_rates import BARS, measure  # noqa: E402
from relif_core.errors import DataError, InputError, RunPaused, listed  # noqa: E402
from relif_core.files import atomic_file, sha256_of, write_json  # noqa: E402
from relif_core.models.vision import TASKS  # noqa: E402
from relif_core.problems import open_problem  # noqa: E402
from relif_core.provenance import STAMP, sources  # noqa: E402
from relif_core.record import Record  # noqa: E402
from relif_core.settings import RunSettings, dense_settings  # noqa: E402
from relif_core.studies.grid import grid, named_study, run_study  # noqa: E402
from relif_core.tensors.dense import DenseTensors  # noqa: E402
from relif_core.tensors.folder import MANIFEST, read_manifest  # noqa: E402
from relif_core.training.loop import FAILED, EpochReport  # noqa: E402
from relif_core.training.loop import run as train  # noqa: E402
from relif_core.training.outcome import machine  # noqa: E402
from relif_data.dense_summary import constant_predictors  # noqa: E402

#: What travels of the tree: nothing that a run does not read, no records.
TREE = (
    "relif_core",
    "data/relif_data",
    "data/analysis_plan.md",
    "benchmarks/rented_gpu.py",
    "benchmarks/dense_step.py",
    "benchmarks/step_rates.py",
)
MIB = 2**20
#: MiB of a piece: beside the tracked tree it stays below the 64 MiB that a rental takes at a time.
PIECE = 20.0
CHECKS = "checks of the device"
#: No checkpoint follows another sooner: what a kill costs at most, against the time that writing takes.
CHECKPOINT_SECONDS = 60.0
#: What goes back of a run: its record, or why its numbers left the finite ones, which counts.
RESULTS = ("record.json", "arrays.npz", FAILED)
#: Seconds kept for the last evaluation under way, the last packing and the goodbye.
RESERVE = 20.0


@dataclass(frozen=True)
class Block:
    """Runs of about one length and of one value: a data set of the package and settings in their order."""

    name: str
    data: str
    runs: tuple[RunSettings, ...]


def blocks_of(weights: str | None, rehearsal: str | None = None, every: int = 1) -> tuple[Block, ...]:
    """Return the blocks of ``nyuv2`` and ``table3`` (sizes, seeds: data/analysis_plan.md) by falling value.

    Dense runs evaluate every so many epochs (the plan: 1). In a rehearsal, which names the encoder, every
    block has two methods, one seed and an epoch of small models. Before ``table3`` comes what the checks
    train: no evidence, a few epochs of seeds that no study has.
    """
    pair, by_task, quick = (
        ("erm", "relif"),
        ("gradnorm", "pcgrad", "fairgrad"),
        ("uncertainty", "cats_as_released"),
    )
    # One block of one size, since workers wait for each other where one ends. One seed of all methods comes
    # first, then three of ERM and ReLiF; among equals what others wait for and what lasts longest.
    parts = (
        (("erm", *by_task, "relif"), range(400, 401)),
        (pair, range(401, 402)),
        (quick, range(400, 401)),
        (pair, range(402, 403)),
        ((*by_task, *quick), range(401, 402)),
        (pair, range(403, 405)),
        ((*by_task, *quick), range(402, 403)),
    )
    plan: tuple[tuple[str, str, tuple[tuple[tuple[str, ...], range], ...]], ...] = (
        ("seven methods", "nyuv2", parts),
        ("ERM and ReLiF, large images", "nyuv2_large", ((pair, range(400, 402)),)),
    )
    model: dict[str, Any] = {"weights": weights}
    training: dict[str, Any] = {"epochs": 40, "patience": 40, "precision": "bfloat16"}
    if every != 1:
        training["evaluate_every"] = every
    clinical: dict[str, Any] = {}
    check: dict[str, Any] = {"model": {"hidden": 64}, "training": {"epochs": 3, "precision": "float32"}}
    if rehearsal:
        plan = tuple((name, data, ((pair, range(400, 401)),)) for name, data, _ in plan)
        model["encoder"] = rehearsal
        training = {"epochs": 1, "batch_size": 2, "precision": "float32"}
        clinical = {"model": {"hidden": 8}, "training": {"epochs": 1, "precision": "float32"}}
        check = {**clinical, "training": {"epochs": 2, "precision": "float32"}}
    dense = [
        Block(
            name,
            data,
            tuple(
                dense_settings(method, seed=seed, model=model, training=training)
                for methods, seeds in parts
                for seed in seeds
                for method in methods
            ),
        )
        for name, data, parts in plan
    ]
    alone = tuple(
        dense_settings("erm", seed=400, model={**model, "task": task}, training=training) for task in TASKS
    )
    dense.insert(1, Block("one task alone", "nyuv2", alone[:1] if rehearsal else alone))
    table = named_study("table3", [200] if rehearsal else None, **clinical)
    seeds = range(950, 952 if rehearsal else 955)
    return (
        *dense,
        Block(CHECKS, "clinical", tuple(grid(["relif"], seeds, **check))),
        Block("table3", "clinical", tuple(table[:2] if rehearsal else table)),
    )


def pack(given: argparse.Namespace) -> None:
    """Write the package's pieces."""

    def git(*arguments: str) -> str:
        whole = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(whole, capture_output=True, text=True, check=True).stdout

    state = sources()
    if not given.rehearsal and git("status", "--porcelain", "--untracked-files=no", "--", *TREE):
        raise InputError(f"{ROOT}: commit what is modified, since the records name the commit that made them")
    inputs = {name: getattr(given, name) for name in ("nyuv2", "nyuv2_large", "clinical")}
    for source in filter(None, inputs.values()):
        if (source / MANIFEST).is_file() and (read_manifest(source)["output_policy"] != "person"):
            raise InputError(
                f"{source}: the licence of {read_manifest(source)['title']} keeps everything about single"
                " people where the data are; pack open data, such as the tensors of PhysioNet 2012"
            )
    given.package.mkdir(parents=True, exist_ok=False)
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch) / STAMP, {**state, "modified": given.rehearsal})
        whole = Path(scratch) / "relif.tar.xz"
        with tarfile.open(whole, "w:xz", preset=1) as tar:
            new = ["--cached", "--others", "--exclude-standard"] if given.rehearsal else []
            for name in git("ls-files", "-z", *new, "--", *TREE).split("\0")[:-1]:
                tar.add(ROOT / name, f"relif/tree/{name}")
            tar.add(Path(scratch) / STAMP, f"relif/tree/relif_core/{STAMP}")
            if given.weights is not None:
                tar.add(given.weights, f"relif/inputs/weights{given.weights.suffix}")
            for name, source in inputs.items():
                if source is not None:
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
    """Work off the blocks until the time is used up; one that fails does not end the others."""
    rent = Rent(given)
    given.back.mkdir(parents=True, exist_ok=True)
    weights = sha256_of(rent.weights) if rent.weights else None
    for block in blocks_of(weights, given.rehearsal, given.evaluate_every):
        try:
            found = rent.work(block)
        except Exception as error:
            found = {"failed_whole": f"{type(error).__name__}: {error}"}
        # What a failure may have left on the device.
        torch.cuda.empty_cache()
        rent.diary["blocks"].append({"block": block.name, **found, "at_seconds": round(rent.spent(), 1)})
        print(json.dumps(rent.diary["blocks"][-1]), flush=True)
        _pack_records(given, rent.diary)
    print(f"done after {rent.spent():.0f} s: {given.back}", flush=True)


class Rent:
    """One call of ``run``: its clock, what it has measured, and whether dense blocks still begin."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.began = time.time()
        self.weights: Path | None = next(given.inputs.glob("weights*"), None)
        #: Why no further dense block begins.
        self.cause = ""
        self.measured: dict[str, dict[str, Any]] = dict(given.measured)
        self.constants: dict[str, Future[dict[str, Any]]] = {}
        self.aside = ThreadPoolExecutor(1)
        device = machine(torch.device(given.device), "as each record says")
        self.diary: dict[str, Any] = {
            "machine": device, "bars": BARS, "measured": self.measured, "blocks": [],
        }  # fmt: skip

    def spent(self) -> float:
        """Seconds since the call began."""
        return time.time() - self.began

    def left(self) -> float:
        """Seconds until nothing may go on."""
        return 60 * self.given.minutes - self.given.reserve - self.spent()

    def work(self, block: Block) -> dict[str, Any]:
        """Work off a block; return what happened, for the diary."""
        given, dense = self.given, block.data != "clinical"
        source = given.inputs / block.data
        if not source.is_dir():
            return {"not_begun": f"the package holds no {block.data}"}
        if dense and self.weights is None:
            return {"not_begun": "the package holds no encoder weights"}
        if dense and self.cause:
            return {"not_begun": self.cause}
        if self.left() <= 0:
            return {"not_begun": "the time is used up"}
        folder = _tensors(source, given.scratch / "tensors" / block.data)
        if block.name == CHECKS:
            return checks(block, folder, given, self.left())
        if block.data not in self.measured:
            before = self.spent()
            longest = max((other["seconds"] for other in self.measured.values()), default=0.0)
            if longest > self.left():
                return {"not_begun": f"measuring took {longest:.0f} s, {self.left():.0f} s are left"}
            self.measured[block.data] = measure(
                block.runs[0], folder, given, self.weights if dense else None, time.time() + self.left()
            )
            self.measured[block.data]["seconds"] = self.spent() - before
        cost, left = self.measured[block.data], self.left()
        if cost["run_seconds"] > left:
            return {"not_begun": f"a run takes {cost['run_seconds']:.0f} s, {left:.0f} s are left"}
        if dense and block.data not in self.constants:
            self.constants[block.data] = self.aside.submit(constant_predictors, DenseTensors.open(folder))
        summary = run_study(
            block.runs,
            folder,
            given.scratch / "records" / block.data,
            workers=cost["workers"],
            device=given.device,
            minutes=left / 60,
            weights=self.weights if dense else None,
            epoch_seconds=cost["run_seconds"] / block.runs[0].training.epochs,
            checkpoint_seconds=CHECKPOINT_SECONDS,
            watch=self._ended,
        )
        found = {
            "made": summary.made,
            "found": summary.found,
            "not_finished": summary.paused,
            "failed": summary.failed,
            "seconds": round(summary.seconds, 1),
        }
        if dense:
            found["depth_rmse"] = self._against_constants(
                summary.records, self.constants[block.data].result()
            )
        return found

    def _ended(self, name: str, report: EpochReport | None) -> None:
        if report is None:
            print(f"{self.spent():.0f} s: {name} has ended", flush=True)
            _pack_records(self.given, self.diary)

    def _against_constants(self, records: list[Record], constants: Mapping[str, Any]) -> dict[str, Any]:
        """Compare test depth with the training median and a mean per pixel; if worse, dense blocks stop."""
        floors = {row["title"]: _depth_rmse(row) for row in constants["rows"]}
        found = {
            f"{record.method} seed {record.seed}": _depth_rmse(record.result["utility"]["test"])
            for record in records
            if "depth" in record.tasks
        }
        worse = [name for name, error in found.items() if error >= min(floors.values())]
        # An epoch of a rehearsal beats nothing.
        if worse and not self.given.rehearsal:
            self.cause = f"depth of {listed(worse)} is worse than a constant's; find out why before going on"
        return {**floors, **found, "worse_than_a_constant": worse}


def _depth_rmse(utility: Mapping[str, Any]) -> float:
    return float(utility["tasks"]["depth"]["metrics"]["rmse"])


def checks(block: Block, folder: Path, given: argparse.Namespace, left: float) -> dict[str, Any]:
    """Compare a run that paused with a straight one on the device, and its seeds with those of a CPU.

    Nothing of it becomes a record. Seeds are compared in distribution: dropout draws differ between devices.
    """
    until, place, first = time.time() + left, given.scratch / "checks", block.runs[0]
    problem = open_problem(folder, given.device, first)
    straight = train(first, problem, place / "straight", deadline=until)
    with contextlib.suppress(RunPaused):
        train(first, problem, place / "resumed", deadline=0)
    resumed = train(first, problem, place / "resumed", deadline=until)
    apart = [
        float(np.abs(scores - resumed.arrays[name]).max())
        for name, scores in straight.arrays.items()
        if name.startswith("score/")
    ]
    sides = {}
    for side, device in (("cpu", "cpu"), ("device", given.device)):
        crew = len(block.runs) if side == "cpu" and not given.rehearsal else 1
        minutes = max(0.0, until - time.time()) / 60
        study = run_study(block.runs, folder, place / side, workers=crew, device=device, minutes=minutes)
        utilities = [record.result["utility"]["test"] for record in study.records]
        sides[side] = {name: [each[name] for each in utilities] for name in ("worst", "macro")}
    compared = {}
    for name, cpu in sides["cpu"].items():
        other = sides["device"][name]
        if min(len(cpu), len(other)) < 2:
            raise DataError(f"the time was too short for the seeds of {block.name}; give more --minutes")
        error = float(np.sqrt(np.var(cpu, ddof=1) / len(cpu) + np.var(other, ddof=1) / len(other)))
        difference = float(np.mean(other) - np.mean(cpu))
        within = abs(difference) <= 3 * error
        compared[name] = {
            "cpu": cpu, "device": other, "difference": difference, "standard_error": error,
            "within_three_errors": within,
        }  # fmt: skip
    return {
        "resumed": {
            "was_resumed": resumed.content["made"]["resumed"],
            "largest_score_difference": max(apart),
        },
        "cpu_against_device": compared,
    }


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
    """Write what every ended run left into the files that go back, each whole; say which did not fit."""
    ended = [path for name in RESULTS[::2] for path in (given.scratch / "records").glob(f"*/*/{name}")]
    folders = list(dict.fromkeys(path.parent for path in sorted(ended, key=_age)))
    room, limit = [int(given.piece * MIB)] * (given.files - 1), []
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
    return [path for name in RESULTS if (path := folder / name).is_file()]


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


def _measured(name: str) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads(Path(name).read_text(encoding="utf-8"))["measured"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{name} is no rented.json of an earlier call: {error!r}") from None


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
    packing.add_argument("--piece", type=float, default=PIECE, help="MiB of a piece")
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
        "--measured", type=_measured, default={}, help="rented.json of a call that measured this machine"
    )
    running.add_argument(
        "--evaluate-every", type=int, default=1, help="epochs; another number than 1 needs an amendment"
    )
    running.add_argument("--try-workers", type=int, nargs="+", default=(1, 2, 4, 6))
    running.add_argument("--piece", type=float, default=16.0, help="MiB of a file that goes back")
    running.add_argument("--files", type=int, default=8, help="files that go back")
    running.add_argument(
        "--rehearsal", nargs="?", const="resnet50", metavar="ENCODER",
        help="tiny settings, evidence of nothing; the encoder that the package's weights are of",
    )  # fmt: skip
    running.set_defaults(do=run)
    back = commands.add_parser("unpack")
    back.add_argument("back", type=Path)
    back.add_argument("target", type=Path)
    back.set_defaults(do=unpack)
    given = parser.parse_args(arguments)
    given.do(given)


if __name__ == "__main__":
    main()
