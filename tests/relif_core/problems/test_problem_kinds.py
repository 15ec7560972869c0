"""The one table of problems: every kind opens, checks and changes settings; nothing else knows formats."""

import json
from pathlib import Path

import pytest

from relif_core.errors import DataError, InputError
from relif_core.files import sha256_of
from relif_core.problems import KINDS, changes_for, check_folder, kind_of, kind_of_settings, open_problem
from relif_core.problems.clinical import ClinicalProblem
from relif_core.problems.dense import DenseProblem
from relif_core.settings import dense_settings, method_settings
from relif_data import prepare

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("kinds")
    return {
        "clinical": prepare("synthetic_icu", None, root / "icu", stays=60, seed=1),
        "dense": prepare(
            "synthetic_rooms", None, root / "rooms", frames=24, height=32, width=32, views=1, seed=1
        ),
    }


def test_every_kind_opens_and_checks_its_folders(folders: dict[str, Path]) -> None:
    classes = {"clinical": ClinicalProblem, "dense": DenseProblem}
    assert [kind.name for kind in KINDS] == list(classes) == list(folders)
    for kind in KINDS:
        folder = folders[kind.name]
        assert kind_of(folder) == kind
        settings = method_settings("relif", **changes_for(folder, {"training": {"epochs": 2}}))
        assert kind_of_settings(settings) == kind
        assert getattr(settings.model, kind.size)
        for other in KINDS:
            assert other.takes(settings) == other.allows({"model": settings.model}) == (other is kind)
            assert other.allows({"model": {"hidden": 3}})
            assert other.allows({})
        assert settings.training.epochs == 2
        assert isinstance(open_problem(folder, "cpu", settings), classes[kind.name])
        assert check_folder(folder)["format"] == kind.format


def test_what_no_kind_reads_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "relif-sound-1"}), encoding="utf-8")
    with pytest.raises(DataError, match="has format 'relif-sound-1', which no problem reads"):
        open_problem(tmp_path, "cpu", method_settings("erm"))
    manifest = json.loads((folders["clinical"] / "manifest.json").read_text(encoding="utf-8"))
    for changed in ({"output_policy": "aggregate"}, {"fingerprint": None}):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | changed), encoding="utf-8")
        with pytest.raises(DataError, match=r"manifest\.json was changed after it was written"):
            changes_for(tmp_path, {})
    with pytest.raises(InputError, match=r"--weights is for dense models, and .* is clinical"):
        changes_for(folders["clinical"], {}, tmp_path / "manifest.json")


def test_weights_given_twice_must_be_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    own = sha256_of(tmp_path / "w")
    for stated in ({}, {"weights": own}):
        changes = changes_for(folders["dense"], {"model": stated}, tmp_path / "w")
        assert method_settings("erm", **changes).model.weights == own
    for other in (None, "download"):
        with pytest.raises(InputError, match=rf"w and --set model\.weights={other} differ; give one of them"):
            changes_for(folders["dense"], {"model": {"weights": other}}, tmp_path / "w")


def test_too_little_memory_is_no_fault_of_the_folder(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(ClinicalProblem, "__init__", fail)
    with pytest.raises(InputError, match=r"memory is too small for its arrays \(Unable to allocate 9 GiB\)"):
        open_problem(folders["clinical"], "cpu", method_settings("erm"))


def test_dense_runs_wait_for_the_erm_run_of_their_seed() -> None:
    clinical, dense = (kind.waits_for for kind in KINDS)
    relif, erm = dense_settings("relif"), dense_settings("erm")
    assert dense(relif, erm)
    assert not dense(relif, dense_settings("erm", seed=1))
    assert not dense(erm, erm)
    assert not dense(relif, dense_settings("single_depth"))
    assert not clinical(method_settings("relif"), method_settings("erm"))


def test_formats_are_named_in_the_table_and_by_their_writers_alone() -> None:
    naming = {
        path.relative_to(ROOT).as_posix()
        for room in ("relif_core", "data/relif_data", "book/relif_book")
        for path in (ROOT / room).rglob("*.py")
        if any(f'"{kind.format}"' in path.read_text(encoding="utf-8") for kind in KINDS)
    }
    assert naming == {
        "relif_core/problems/__init__.py", "relif_core/tensors/clinical.py", "relif_core/tensors/dense.py",
    }  # fmt: skip
