"""The rented-GPU package, rehearsed: packed, carried, run on a bare machine, and its records brought back."""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from safetensors.torch import save_file

from benchmarks import rented_gpu, step_rates
from benchmarks.dense_step import CLASS, SHARE, estimated_seconds, training_gflop
from benchmarks.rented_gpu import CHECKS, MIB, PIECE, Rent, blocks_of, main
from relif_core.errors import DataError, InputError
from relif_core.files import write_json
from relif_core.models.vision import Encoder
from relif_core.record import Record
from relif_core.settings import DenseModelSettings, RunSettings, dense_settings
from relif_core.studies.grid import SEVEN_METHODS, StudySummary, grid
from relif_core.training import loop as training
from relif_data.nyuv2 import COLOUR_CAMERA, OFFICIAL_SIZE
from relif_data.nyuv2_travel import write_travel_form
from relif_data.synthetic_rooms import Camera, render, sample_camera, sample_room

ROOT = Path(__file__).parents[1]
SIZE, LARGE = (32, 48), (48, 64)
#: MiB that a rental takes in one go, and files that it gives back.
IN_ONE_GO, FILES_BACK = 64, 8
#: What a rented machine is promised to have.
PROMISED = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors", "h5py", "pillow")


def bare() -> set[str]:
    """Return the top-level modules of the promised packages and of what these require."""
    found: set[str] = set()
    waiting = list(PROMISED)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            needs = map(Requirement, metadata.requires(name) or ())
            waiting += [
                need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})
            ]
    return {
        module
        for module, packages in metadata.packages_distributions().items()
        if found & set(map(canonicalize_name, packages))
    }


GUARD = f"""
import sys
class Guard:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        found = self.finder.find_spec(name, path, target)
        installed = found is not None and path is None and "site-packages" in str(found.origin)
        return None if installed and name not in {bare()!r} else found
sys.meta_path[:] = map(Guard, sys.meta_path)
"""


#: Both calls of a rehearsal in one process, since most of its time goes into importing torch.
REHEARSAL = """
from pathlib import Path

from benchmarks.rented_gpu import main

if __name__ == "__main__":
    home = Path(__file__).parent
    options = "--rehearsal resnet18 --device cpu --try-workers 1 2 --reserve 1".split()
    options += ["--back", str(home / "back"), "--scratch", str(home / "memory")]
    main(["run", *options, "--minutes", "20"])
    (home / "back" / "first.json").write_text((home / "back" / "rented.json").read_text())
    main(["run", *options, "--minutes", "0", "--measured", str(home / "back" / "first.json")])
"""


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two sizes of the travelling form of a few rendered rooms under official numbers."""
    folder = tmp_path_factory.mktemp("form")
    camera = COLOUR_CAMERA.resized(OFFICIAL_SIZE, LARGE)
    for number in range(1, 21):
        generator = np.random.default_rng(number)
        room = sample_room(generator)
        view = sample_camera(room, generator, camera)
        frame = render(room, Camera(view.position, view.yaw, view.pitch, camera), *LARGE)
        part = folder / "source" / ("test" if number % 5 == 0 else "train")
        kinds = {
            "image": frame.image.transpose(1, 2, 0),
            "label": frame.labels,
            "depth": np.rint(frame.depth * 1000).astype(np.uint16),
        }
        for kind, array in kinds.items():
            (part / kind).mkdir(parents=True, exist_ok=True)
            # Numbers with gaps: every frame is a room of its own.
            Image.fromarray(array).save(part / kind / f"{2 * number:04d}.png")
    small, large = (
        write_travel_form(folder / "source", folder / str(height), height=height, width=width)
        for height, width in (SIZE, LARGE)
    )
    return small, large


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the form of trained ones."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file({name: value.half() for name, value in Encoder("resnet18").backbone.state_dict().items()}, path)
    return path


def test_the_package_runs_where_only_the_promised_packages_are(
    forms: tuple[Path, Path], weights: Path, icu_folder: Path, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    options = [
        "--large",
        forms[1],
        "--clinical",
        icu_folder,
        "--weights",
        weights,
        "--piece",
        "8",
        "--rehearsal",
    ]
    main(["pack", str(forms[0]), str(package), *map(str, options)])
    pieces = sorted(package.glob("*.tar.xz.*"))
    assert len(pieces) > 1
    assert max(piece.stat().st_size for piece in pieces) <= 8 * MIB
    sums = dict(line.split()[::-1] for line in (package / "SHA256SUMS").read_text().splitlines())
    assert sums == {piece.name: hashlib.sha256(piece.read_bytes()).hexdigest() for piece in pieces}
    subprocess.run(f"cat {package}/*.tar.xz.* | tar xJ", shell=True, check=True, cwd=tmp_path)
    tree = tmp_path / "relif" / "tree"
    assert not [*tree.glob("data/records"), *tree.glob("notebooks"), *tree.glob("tests")]

    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    alone = {**os.environ, "PYTHONPATH": f"{tmp_path / 'guard'}:{tree}"}
    alone["GIT_CEILING_DIRECTORIES"] = str(tmp_path)
    (tmp_path / "rehearse.py").write_text(REHEARSAL)
    done = subprocess.run(
        [sys.executable, tmp_path / "rehearse.py"],
        cwd=tree, env=alone, text=True, capture_output=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    back = tmp_path / "back"
    diary, late = (json.loads((back / name).read_text()) for name in ("first.json", "rented.json"))
    blocks = {block["block"]: block for block in diary["blocks"]}
    assert [block.get("made") for block in blocks.values()] == [2, 1, 2, None, 2]
    assert not [
        block
        for block in blocks.values()
        if block.get("failed") or block.get("not_finished") or "failed_whole" in block
    ]
    assert set(diary["measured"]) == {"nyuv2", "nyuv2_large", "clinical"}
    for name, measured in diary["measured"].items():
        assert min(measured["steps_per_second"].values()) > 0, name
        assert measured["workers"] == 2
        ratio = measured["relif_over_erm"]
        assert measured["bars_met"]["relif_over_erm"] == (ratio <= diary["bars"]["relif_over_erm"])
        assert ("plain_over_own" in measured["bars_met"]) == (name != "clinical")
    depth = blocks["ERM and ReLiF, large images"]["depth_rmse"]
    floor = min(depth["Constant"], depth["Constant per pixel"])
    assert depth["worse_than_a_constant"] == [
        name for name in ("erm seed 400", "relif seed 400") if depth[name] >= floor
    ]
    # On the device that it is compared with, everything is the same to the last bit.
    assert blocks[CHECKS]["resumed"] == {"was_resumed": True, "largest_score_difference": 0.0}
    for compared in blocks[CHECKS]["cpu_against_device"].values():
        assert len(set(compared["cpu"])) == 2
        assert compared["difference"] == 0
        assert compared["within_three_errors"]
    assert diary["records"] == 7
    assert not diary["did_not_fit"]
    assert len([path for path in back.iterdir() if path.name != "first.json"]) <= FILES_BACK
    with tarfile.open(back / "records-0.tar") as tar:
        tar.extractall(tmp_path / "home", filter="data")
    records = [Record.load(path.parent) for path in (tmp_path / "home").glob("*/*/record.json")]
    assert len(records) == 7
    dense = [
        record.settings.model for record in records if record.settings.model.__class__ is DenseModelSettings
    ]
    assert [model.weights for model in dense] == [hashlib.sha256(weights.read_bytes()).hexdigest()] * 5
    stamp = json.loads((tree / "relif_core" / "source_stamp.json").read_text())
    assert {record.content["made"]["source"] for record in records} == {stamp["source"]}
    assert {record.content["made"]["commit"] for record in records} == {stamp["commit"]}
    assert {record.settings.method for record in records} == {"erm", "relif", "uncertainty"}

    # Called again without time it begins nothing and still packs; what was rehearsed is not unpacked.
    assert [block["not_begun"] for block in late["blocks"]] == ["the time is used up"] * 5
    assert late["records"] == 7
    # What the first call measured can be given to the second.
    assert late["measured"] == diary["measured"]
    with pytest.raises(DataError, match="modified sources"):
        main(["unpack", str(back), str(tmp_path / "published")])


@pytest.mark.parametrize("content", [None, "{}", "[1]", "no JSON"])
def test_measurements_that_cannot_be_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    earlier = tmp_path / "rented.json"
    if content is not None:
        earlier.write_text(content)
    with pytest.raises(SystemExit):
        main(["run", "--back", str(tmp_path / "back"), "--measured", str(earlier)])
    assert f"{earlier} is no rented.json of an earlier call" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_a_piece_and_the_tracked_tree_travel_in_one_go() -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    tree = sum((ROOT / name).stat().st_size for name in names if (ROOT / name).is_file())
    assert tree / MIB + PIECE <= IN_ONE_GO


def test_clinical_tensors_that_may_not_leave_are_refused(
    forms: tuple[Path, Path], icu_folder: Path, tmp_path: Path
) -> None:
    guarded = shutil.copytree(icu_folder, tmp_path / "guarded")
    content = json.loads((guarded / "manifest.json").read_text())
    write_json(guarded / "manifest.json", {**content, "title": "MIMIC-III", "output_policy": "aggregate"})
    with pytest.raises(InputError, match="guarded: the licence of MIMIC-III keeps"):
        main(["pack", str(forms[0]), str(tmp_path / "package"), "--clinical", str(guarded), "--rehearsal"])
    assert not (tmp_path / "package").exists()


def test_a_worker_that_does_not_answer_counts_as_none(icu_folder: Path) -> None:
    settings = blocks_of(None, "resnet18")[-1].runs[0]
    assert step_rates.rate(settings, icu_folder, "cpu", None, 1, 1, left=0.1) == 0.0


def asked(folder: Path, *, minutes: float = 20, rehearsal: str | None = None) -> argparse.Namespace:
    """The options of a run whose inputs are empty folders."""
    for name in ("nyuv2", "nyuv2_large", "clinical"):
        (folder / "inputs" / name).mkdir(parents=True)
        (folder / "inputs" / name / "manifest.json").touch()
    (folder / "inputs" / "weights.safetensors").touch()
    return argparse.Namespace(
        back=folder / "back", inputs=folder / "inputs", scratch=folder / "scratch", minutes=minutes,
        reserve=0, device="cpu", evaluate_every=1, try_workers=(1,), piece=1.0, files=8, rehearsal=rehearsal,
        measured={},
    )  # fmt: skip


def finished(settings: RunSettings, rmse: float) -> Record:
    utility = {"tasks": {"depth": {"metrics": {"rmse": rmse}}}}
    content = {
        "settings": {"method": settings.method, "seed": settings.seed},
        "dataset": {"tasks": [{"name": "depth"}]},
        "result": {"utility": {"test": utility}},
    }
    return Record(content, {})


def floor(rmse: float) -> dict[str, Any]:
    """A constant's row."""
    return {"title": f"constant of {rmse} m", "tasks": {"depth": {"metrics": {"rmse": rmse}}}}


@pytest.mark.parametrize(("worst", "large"), [(1.1, "failed_whole"), (1.3, "not_begun")])
def test_a_block_that_fails_and_a_method_worse_than_a_constant_end_only_what_they_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worst: float, large: str
) -> None:
    given, studies = asked(tmp_path), []

    def measure(settings: RunSettings, folder: Path, *_: object) -> dict[str, float]:
        if folder.name == "nyuv2_large":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"run_seconds": 80.0, "workers": 3}

    def study(runs: tuple[RunSettings, ...], folder: Path, *_: object, **options: float) -> StudySummary:
        studies.append(
            (folder.name, options["workers"], options["epoch_seconds"], options["checkpoint_seconds"])
        )
        if folder.name == "clinical":
            raise DataError("the disk is gone")
        depth = {"erm": 1.0, "relif": worst}
        return StudySummary([finished(run, depth.get(run.method, 1.0)) for run in runs], made=len(runs))

    rows = [floor(1.35), floor(1.2)]
    monkeypatch.setattr(rented_gpu, "measure", measure)
    monkeypatch.setattr(rented_gpu, "run_study", study)
    monkeypatch.setattr(rented_gpu, "constant_predictors", lambda tensors: {"rows": rows})
    monkeypatch.setattr(rented_gpu.DenseTensors, "open", lambda folder: None)
    diverged = given.scratch / "records" / "nyuv2" / "pcgrad-seed400"
    diverged.mkdir(parents=True)
    write_json(diverged / "failed.json", {"method": "pcgrad", "seed": 400, "error": "losses are not finite"})
    rented_gpu.run(given)
    with tarfile.open(given.back / "records-0.tar") as tar:
        assert tar.getnames() == ["nyuv2/pcgrad-seed400/failed.json"]
    blocks = json.loads((given.back / "rented.json").read_text())["blocks"]
    assert [block["block"] for block in blocks] == [block.name for block in blocks_of("w")]
    assert blocks[0]["made"] == 25
    assert blocks[2].get(large)
    # The checks fail on empty folders too, and table3 is begun whatever happened before.
    assert "failed_whole" in blocks[3]
    assert blocks[4]["failed_whole"] == "DataError: the disk is gone"
    assert studies[0] == ("nyuv2", 3, 2.0, 60.0)
    seeds = ", ".join(f"relif seed {seed}" for seed in range(400, 405))
    if worst > 1.2:
        assert f"depth of {seeds[:26]}" in blocks[2]["not_begun"]
        assert [name for name, *_ in studies] == ["nyuv2", "clinical"]
    else:
        assert "out of memory" in blocks[2]["failed_whole"]
        assert [name for name, *_ in studies] == ["nyuv2", "nyuv2", "clinical"]
        assert blocks[0]["depth_rmse"]["worse_than_a_constant"] == []


@pytest.mark.parametrize(("seconds", "reason"), [(80.0, "a run takes 80 s"), (30.0, "measuring took 61 s")])
def test_nothing_begins_that_cannot_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, reason: str
) -> None:
    rent = Rent(asked(tmp_path, minutes=2))

    def measure(*_: object) -> dict[str, float]:
        rent.began -= 61
        return {"run_seconds": seconds, "workers": 1}

    monkeypatch.setattr(rented_gpu, "measure", measure)
    monkeypatch.setattr(rented_gpu, "run_study", lambda *_, **__: StudySummary())
    monkeypatch.setattr(rented_gpu, "constant_predictors", lambda tensors: {"rows": [floor(1.35)]})
    monkeypatch.setattr(rented_gpu.DenseTensors, "open", lambda folder: None)
    first, _, large, _, _ = blocks_of("w")
    found = rent.work(first)
    if seconds < 60:
        assert "made" in found
        found = rent.work(large)
    assert reason in found["not_begun"]


def test_no_more_files_go_back_than_were_asked_for(tmp_path: Path) -> None:
    given = asked(tmp_path)
    given.piece, given.back = 0.02, tmp_path
    for number in range(80):
        folder = given.scratch / "records" / "nyuv2" / f"pcgrad-seed{number}"
        folder.mkdir(parents=True)
        (folder / "failed.json").touch()
    rented_gpu._pack_records(given, {})
    back = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(back) == FILES_BACK
    assert max(path.stat().st_size for path in back) <= 0.02 * MIB
    assert 0 < len(json.loads((tmp_path / "rented.json").read_text())["did_not_fit"]) < 20


def planned(study: str) -> list[str]:
    """The cells of a study's row in the plan."""
    text = (ROOT / "data" / "analysis_plan.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| {study} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_blocks_are_those_of_the_plan() -> None:
    *dense, check, table = blocks_of("w")
    _, size, _, seeds, encoder, epochs = planned("`nyuv2`, with a GPU")
    first, pair, last, others = map(int, re.findall(r"\d+", seeds)[:4])
    assert seeds == f"ERM and ReLiF {first}–{pair}, the others {first}–{others}"
    assert last == first
    found: dict[str, set[int]] = {}
    for block in dense:
        for run in block.runs:
            assert run.model.encoder == encoder.lower()
            assert epochs == f"{run.training.epochs} ({run.training.patience})"
            if block.data == "nyuv2":
                found.setdefault(run.method, set()).add(run.seed)
    assert found == {
        method: set(range(first, (pair if method in ("erm", "relif") else others) + 1))
        for method in SEVEN_METHODS
    }
    book = (ROOT / "book" / "rerun_a_page.md").read_text(encoding="utf-8")
    height, width = size.removeprefix("NYUv2, ").split(" × ")
    assert f"-o height={height} -o width={width}" in book
    _, _, methods, seeds, width, epochs = planned("`table3`")
    low, high = map(int, seeds.split("–"))
    assert len(table.runs) == len(methods.split(",")) * (high - low + 1)
    for run in table.runs:
        assert low <= run.seed <= high
        assert (str(run.model.hidden), epochs) == (
            width, f"up to {run.training.epochs} ({run.training.patience})",
        )  # fmt: skip
    text = (ROOT / "data" / "analysis_plan.md").read_text(encoding="utf-8")
    assert not [run.seed for run in check.runs if re.search(rf"\b{run.seed}\b", text)]


def test_the_estimates_of_the_book_follow_from_counted_operations() -> None:
    blocks = {block.name: block.runs for block in blocks_of("w")}
    counted = {size: training_gflop(*size) for size in ((144, 192), (288, 384))}
    everything = [dense_settings(run.method, seed=run.seed) for run in grid(SEVEN_METHODS, range(7))]
    rows = []
    for (height, width), gflop in counted.items():
        numbers = [gflop["step"], gflop["by task"]]
        times = [f"{1e12 * number / (CLASS * SHARE):.1f}" for number in numbers]
        cells = [f"{number:.0f}" for number in numbers] + times
        rows.append(f"| {height} × {width} | {' | '.join(cells)} |")
    for name, runs in [*blocks.items(), ("all seven methods, seven seeds, 100 epochs", everything)]:
        size = (288, 384) if "large" in name or runs is everything else (144, 192)
        if name not in (CHECKS, "table3"):
            minutes = estimated_seconds(runs, counted[size]) / 60
            shown = f"{float(f'{minutes:.2g}'):g}"
            rows.append(f"| {name} | {size[0]} × {size[1]} | {len(runs)} | {shown} |")
    text = (ROOT / "book" / "rerun_a_page.md").read_text(encoding="utf-8")
    assert f"{CLASS / 1e12:.0f} TFLOP/s" in text
    assert f"{100 * SHARE:.0f} %" in text
    assert [row for row in rows if row not in text] == []


def test_a_first_wave_begins_nothing_that_the_measured_epoch_forbids(
    icu_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [*blocks_of(None, "resnet18")[-1].runs]
    summary = rented_gpu.run_study(runs, icu_folder, tmp_path, minutes=1, epoch_seconds=100, workers=2)
    assert (summary.made, len(summary.paused)) == (0, 2)
    seen: list[float] = []
    monkeypatch.setattr(training, "run", lambda *given: seen.append(given[-1]))
    rented_gpu.run_study(runs[:1], icu_folder, tmp_path, minutes=1, epoch_seconds=10, checkpoint_seconds=60)
    assert seen == [60]


def test_the_age_of_checkpoints_reaches_the_workers(icu_folder: Path, tmp_path: Path) -> None:
    runs = grid(["erm"], [0], model={"hidden": 8}, training={"epochs": 20, "patience": 20})
    seen: list[bool] = []
    rented_gpu.run_study(
        runs, icu_folder, tmp_path, engine="processes", checkpoint_seconds=0.0,
        watch=lambda name, report: seen.append(any(tmp_path.glob("*/checkpoint.pt"))),
    )  # fmt: skip
    assert seen[0]
