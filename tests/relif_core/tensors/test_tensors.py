"""The clinical tensor format: what is written can be trusted, what is broken is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relif_core.errors import DataError
from relif_core.tensors.clinical import (
    Channel,
    ClinicalContents,
    ClinicalTensors,
    Group,
    Task,
    check_tensors,
    training_statistics,
    write_tensors,
)


def small_set(**changes: Any) -> dict[str, Any]:
    """Three stays of 2, 3 and 1 hours: the smallest set with every kind of label."""
    rows = 6
    content: dict[str, Any] = {
        "dataset": "toy",
        "title": "Toy",
        "licence": "none",
        "output_policy": "person",
        "synthetic": True,
        "sources": [{"name": "toy", "bytes": 1, "sha256": "0" * 64}],
        "channels": [Channel("pulse", "1/min", ("pulse",), 80.0), Channel("pain", "", ("no", "yes"), "no")],
        "tasks": [
            Task("death", "Death", "binary", "stay", horizon_hours=2),
            Task("stay", "Length of stay", "binned", "hourly", classes=3),
            Task("codes", "Codes", "multilabel", "stay", classes=2),
        ],
        "groups": [Group("sex", "Sex", ("female", "male"))],
        "group_codes": {"sex": np.array([0, 1, 1])},
        "values": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3),
        "observed": np.ones((rows, 2)),
        "offsets": np.array([0, 2, 5, 6]),
        "stays": np.array([11, 12, 13]),
        "subjects": np.array([1, 2, 3]),
        "split": np.array([0, 1, 2]),
        "labels": {
            "death": np.array([0, 1, 0]),
            "stay": np.array([0, 1, 2, 0, 1, 2]),
            "codes": np.ones((3, 2)),
        },
        "label_masks": {"death": np.array([1, 1, 0]), "stay": np.ones(rows), "codes": np.ones(3)},
    }
    return content | changes


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    content = small_set()
    tensors = check_tensors(write_tensors(tmp_path / "toy", ClinicalContents(**content)))
    np.testing.assert_array_equal(tensors.arrays["values"], content["values"])
    assert isinstance(tensors.arrays["values"], np.memmap)
    assert tensors.tasks == tuple(content["tasks"])
    assert tensors.channels == tuple(content["channels"])
    assert tensors.inputs == 5
    assert [list(tensors.stays_of(split)) for split in ("train", "validation", "test")] == [[0], [1], [2]]


def test_statistics_come_from_training_rows_only(tmp_path: Path) -> None:
    content = small_set()
    first = write_tensors(tmp_path / "first", ClinicalContents(**content))
    content["values"][2:] *= -1000
    second = write_tensors(tmp_path / "second", ClinicalContents(**content))
    assert (
        ClinicalTensors.open(first).manifest["statistics"]
        == ClinicalTensors.open(second).manifest["statistics"]
    )
    assert ClinicalTensors.open(first).manifest["statistics"]["mean"] == [1.5, 2.5, 3.5]
    assert ClinicalTensors.open(first).fingerprint != ClinicalTensors.open(second).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.full((6, 3), np.nan)}, "NaN"),
        ({"values": np.zeros((6, 2))}, "3 columns"),
        ({"offsets": np.array([0, 2, 2, 6])}, "offsets"),
        ({"stays": np.array([11, 11, 13])}, "stay ids repeat"),
        ({"subjects": np.array([1, 1, 3])}, "more than one split"),
        ({"observed": np.full((6, 2), 2)}, "other than 0 and 1"),
        ({"split": np.array([1, 1, 2])}, "no training rows"),
        ({"group_codes": {"sex": np.array([0, 1, 2])}}, "beyond its 2 levels"),
        ({"label_masks": small_set()["label_masks"] | {"death": np.ones(3)}}, "end before hour 2"),
        ({"labels": small_set()["labels"] | {"stay": np.array([0, 1, 2, 3, 0, 0])}}, "outside 0..2"),
        ({"labels": {"death": np.zeros(3)}}, "no labels"),
        *[
            ({"labels": small_set()["labels"] | {"death": np.array(bad)}}, f"labels/death: {count} of 3")
            for bad, count in (([0.7, 1.9, 0], 2), ([65537, 0, 1], 1), ([np.nan, 0, 1], 1), (["a"] * 3, 3))
        ],
        ({"split": np.array([256, 257, 258])}, "split: 3 of 3 entries are no whole number from 0 to 255"),
        ({"group_codes": {"sex": np.array([0, 257, 1])}}, "groups/sex: 1 of 3"),
        ({"subjects": np.array([1.5, 2, 3])}, "subjects: 1 of 3"),
        ({"offsets": np.array([0, 2, 6])}, "offsets do not cut"),
        ({"offsets": np.array([0, 5, 2, 6])}, "offsets do not cut"),
        ({"values": np.zeros(6)}, r"values have shape \(6,\)"),
        ({"values": np.full((6, 3), "Ann")}, "values are not all numbers; pass"),
        ({"labels": small_set()["labels"] | {"codes": np.full((3, 2), 0.5)}}, "labels/codes: 6 of 6"),
        ({"labels": small_set()["labels"] | {"codes": np.full((3, 2), "a")}}, "labels/codes: 6 of 6"),
        ({"tasks": [small_set()["tasks"][0]] * 2}, "two tasks have one name"),
        ({"groups": small_set()["groups"] * 2}, "two groups have one name"),
        *[
            ({"tasks": [Task("death", "Death", *kind, horizon_hours=horizon)]}, message)
            for kind, horizon, message in (
                (("regression", "stay"), None, "'regression' is no kind"),
                (("binary", "hour"), None, "'hour' no level"),
                (("binned", "stay", 3, ("few", "many")), None, "2 class names for 3 classes"),
                (("binary", "stay"), 0, "horizon_hours is 0"),
                (("binary", "stay"), 1.5, "horizon_hours is 1.5"),
            )
        ],
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_tensors(tmp_path / "toy", ClinicalContents(**small_set(**changes)))
    assert not list(tmp_path.iterdir())


def test_another_data_set_or_source_is_never_overwritten(tmp_path: Path) -> None:
    target = write_tensors(tmp_path / "toy", ClinicalContents(**small_set()))
    write_tensors(target, ClinicalContents(**small_set()))
    with pytest.raises(DataError, match="holds data set 'toy', not 'other'"):
        write_tensors(target, ClinicalContents(**small_set(dataset="other")))
    with pytest.raises(DataError, match="other source files"):
        write_tensors(
            target, ClinicalContents(**small_set(sources=[{"name": "toy", "bytes": 2, "sha256": "1" * 64}]))
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="no tensor folder"):
        write_tensors(tmp_path / "mine", ClinicalContents(**small_set()))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    check_tensors(target)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_stays_a_link(tmp_path: Path, there: bool) -> None:
    """As to another disk: the tensors lie where it points, whether something is there already or not."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "toy")
    if there:
        write_tensors(tmp_path / "disk" / "toy", ClinicalContents(**small_set(title="Before")))
    check_tensors(write_tensors(tmp_path / "link", ClinicalContents(**small_set())))
    assert (tmp_path / "link").is_symlink()
    assert ClinicalTensors.open(tmp_path / "disk" / "toy").manifest["title"] == "Toy"
    assert {path.name for path in tmp_path.rglob("*") if path.name.startswith(".")} == set()


def test_no_array_is_written_outside_the_folder(tmp_path: Path) -> None:
    content = small_set(tasks=[Task("../../death", "Death", "binary", "stay")])
    for of in ("labels", "label_masks"):
        content[of] = {"../../death": np.array([0, 1, 1])}
    with pytest.raises(DataError, match=r"'labels/../../death.npy' leads out of the folder"):
        write_tensors(tmp_path / "toy", ClinicalContents(**content))
    assert not list(tmp_path.iterdir())


def test_damage_is_found(tmp_path: Path) -> None:
    good = write_tensors(tmp_path / "good", ClinicalContents(**small_set()))

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    folder = damaged("flipped")
    raw = bytearray((folder / "values.npy").read_bytes())
    raw[-1] ^= 1
    (folder / "values.npy").write_bytes(raw)
    with pytest.raises(DataError, match="checksum"):
        check_tensors(folder)

    folder = damaged("lost")
    (folder / "split.npy").unlink()
    with pytest.raises(DataError, match=r"split\.npy is missing"):
        ClinicalTensors.open(folder)

    folder = damaged("edited")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["licence"] = "anything goes"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="changed after"):
        check_tensors(folder)

    folder = damaged("truncated")
    (folder / "manifest.json").write_text((good / "manifest.json").read_text()[:50])
    with pytest.raises(DataError, match="not valid JSON"):
        ClinicalTensors.open(folder)

    folder = damaged("stranger")
    (folder / "labels" / "extra.npy").write_bytes(b"")
    with pytest.raises(DataError, match="does not name: labels/extra"):
        check_tensors(folder)


def test_statistics_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen rows' mean and deviation are the same to the last bit, however many rows a block has."""
    rng = np.random.default_rng(0)
    values = rng.normal(3, 7, (5000, 4)).astype(np.float32)
    chosen = rng.random(5000) < 0.6
    found = []
    for size in (1, 77, 5000):
        monkeypatch.setattr("relif_core.tensors.clinical.BLOCK_ROWS", size)
        found.append(training_statistics(values, chosen))
    for mean, deviation in found:
        np.testing.assert_array_equal(mean, found[0][0])
        np.testing.assert_array_equal(deviation, found[0][1])
    np.testing.assert_allclose(found[0][0], values[chosen].mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found[0][1], values[chosen].std(axis=0, dtype=np.float64), rtol=1e-12)
