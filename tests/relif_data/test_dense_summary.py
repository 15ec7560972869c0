"""Aggregates of dense data are those of the arrays, and published normals agree with fitted ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from relif_core.tensors.dense import IGNORE, DenseTensors
from relif_data.dense_summary import (
    compare_with_published_normals,
    constant_predictors,
    summarise_dense,
    write_constant_predictors,
    write_dense_summary,
)
from relif_data.synthetic_rooms import prepare


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(None, tmp_path_factory.mktemp("rooms") / "set", frames=16, height=32, width=48, views=1)


def test_shares_are_those_of_the_arrays(rooms: Path) -> None:
    tensors = DenseTensors.open(rooms)
    found = summarise_dense(tensors)
    assert sum(part["frames"] for part in found["splits"].values()) == 16
    for split, part in found["splits"].items():
        frames = tensors.frames_of(split)
        labels = tensors.arrays["labels"][frames]
        assert sum(part["class_share"]) + part["ignored_share"] == pytest.approx(1, abs=1e-5)
        for code, share in enumerate(part["class_share"]):
            assert share == pytest.approx((labels == code).mean(), abs=1e-6)
        assert part["depth_share"] == 1
        depth = tensors.arrays["depth"][frames].astype(float)
        near = sum(part["depth_histogram"][:8])
        assert near == pytest.approx((depth < 2).mean(), abs=1e-5)
        assert sum(part["upward_histogram"]) == pytest.approx(1, abs=1e-4)


def test_the_training_shares_agree_with_the_manifest(rooms: Path) -> None:
    tensors = DenseTensors.open(rooms)
    found = summarise_dense(tensors)["splits"]["train"]
    np.testing.assert_allclose(found["class_share"], tensors.manifest["statistics"]["class_share"], atol=1e-6)
    assert found["normal_share"] == pytest.approx(tensors.manifest["statistics"]["normal_share"])


def test_the_file_holds_the_summary(rooms: Path, tmp_path: Path) -> None:
    content = json.loads(write_dense_summary(rooms, None, tmp_path).read_text(encoding="utf-8"))
    assert content["published_normals"] == []
    assert content["synthetic"]
    assert len(content["classes"]) == 13


def test_published_normals_are_close_to_fitted_ones(data_folder: Path) -> None:
    first, second = compare_with_published_normals(data_folder / "nyuv2")
    assert first["median"] < 6.1
    assert second["median"] < 14.5
    assert first["channels"] != second["channels"]
    assert 0.97 < sum(first["histogram"]) <= 1 + 1e-4  # the rest is beyond 90 degrees


def test_constants_have_the_error_that_their_training_frames_give_them(rooms: Path, tmp_path: Path) -> None:
    """RMSE of test depths about the training median, by hand; a file keeps every size once."""
    tensors = DenseTensors.open(rooms)
    found = constant_predictors(tensors)
    train, test = (
        np.asarray(tensors.arrays["depth"][tensors.frames_of(split)], dtype=np.float64)
        for split in ("train", "test")
    )
    everywhere, per_pixel = found["rows"]
    rmse = np.sqrt(np.mean((test - np.median(train)) ** 2))
    assert everywhere["tasks"]["depth"]["metrics"]["rmse"] == pytest.approx(rmse, rel=1e-4)
    rmse = np.sqrt(np.mean((test - train.mean(axis=0)) ** 2))
    assert per_pixel["tasks"]["depth"]["metrics"]["rmse"] == pytest.approx(rmse, rel=1e-4)
    labels = tensors.arrays["labels"]
    common = np.bincount(labels[tensors.frames_of("train")].ravel(), minlength=256)[:13].argmax()
    seen = labels[tensors.frames_of("test")]
    accuracy = (seen == common).sum() / (seen != IGNORE).sum()
    assert everywhere["tasks"]["segmentation"]["metrics"]["pixel_accuracy"] == pytest.approx(accuracy)
    for _ in range(2):
        path = write_constant_predictors(rooms, tmp_path)
    assert [item["fingerprint"] for item in json.loads(path.read_text())] == [tensors.fingerprint]
