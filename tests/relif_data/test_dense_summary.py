"""Aggregates of dense data: they are those of the arrays, and published normals agree with the fitted ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from relif_core.tensors.dense import DenseTensors
from relif_data.dense_summary import (
    compare_with_published_normals,
    summarise_dense,
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
