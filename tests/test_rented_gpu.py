"""The rented-GPU package, rehearsed: packed, carried, run on a bare machine, and its records brought back."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from benchmarks.rented_gpu import main
from relif_core.errors import DataError
from relif_core.record import Record
from relif_data.nyuv2 import COLOUR_CAMERA, OFFICIAL_SIZE
from relif_data.nyuv2_travel import write_travel_form
from relif_data.synthetic_rooms import Camera, render, sample_camera, sample_room

SIZE = (32, 48)
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
    options = "--rehearsal --device cpu --try-workers 1 --reserve 1".split()
    options += ["--back", str(home / "back"), "--scratch", str(home / "memory")]
    main(["run", *options, "--minutes", "20"])
    (home / "back" / "first.json").write_text((home / "back" / "rented.json").read_text())
    main(["run", *options, "--minutes", "0"])
"""


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The travelling form of a few rendered rooms under official numbers."""
    folder = tmp_path_factory.mktemp("form")
    camera = COLOUR_CAMERA.resized(OFFICIAL_SIZE, SIZE)
    for number in range(1, 21):
        generator = np.random.default_rng(number)
        room = sample_room(generator)
        view = sample_camera(room, generator, camera)
        frame = render(room, Camera(view.position, view.yaw, view.pitch, camera), *SIZE)
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
    return write_travel_form(folder / "source", folder / "form", height=SIZE[0], width=SIZE[1])


def test_the_package_runs_where_only_the_promised_packages_are(
    form: Path, icu_folder: Path, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    main(["pack", str(form), str(package), "--clinical", str(icu_folder), "--piece", "0.1", "--rehearsal"])
    pieces = sorted(package.glob("*.tar.xz.*"))
    assert len(pieces) > 1
    assert max(piece.stat().st_size for piece in pieces) <= 0.1 * 2**20
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
    assert [block.get("made") for block in diary["blocks"]] == [2, 1, 0, None, 2]
    assert not any(block.get("failed") or block.get("paused") for block in diary["blocks"])
    assert diary["blocks"][3]["not_begun"] == "the package holds no nyuv2_large"
    assert set(diary["measured"]) == {"nyuv2", "clinical"}
    assert diary["records"] == 5
    assert not diary["did_not_fit"]
    with tarfile.open(back / "records-0.tar") as tar:
        tar.extractall(tmp_path / "home", filter="data")
    records = [Record.load(path.parent) for path in (tmp_path / "home").glob("*/*/record.json")]
    assert len(records) == 5
    stamp = json.loads((tree / "relif_core" / "source_stamp.json").read_text())
    assert {record.content["made"]["source"] for record in records} == {stamp["source"]}
    assert {record.content["made"]["commit"] for record in records} == {stamp["commit"]}
    assert {record.settings.method for record in records} == {"erm", "relif", "uncertainty"}

    # Called again without time it begins nothing and still packs; what was rehearsed is not unpacked.
    reasons = ["the time is used up"] * 5
    reasons[3] = "the package holds no nyuv2_large"
    assert [block["not_begun"] for block in late["blocks"]] == reasons
    assert late["records"] == 5
    with pytest.raises(DataError, match="modified sources"):
        main(["unpack", str(back), str(tmp_path / "published")])
