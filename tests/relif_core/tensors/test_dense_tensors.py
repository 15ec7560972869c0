"""The dense tensor folder: what goes in comes out, and faults are named."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relif_core.errors import DataError
from relif_core.tensors.dense import (
    IGNORE,
    DenseContents,
    DenseTensors,
    Frame,
    check_dense_tensors,
    choose_validation,
    decode_normals,
    encode_normals,
    write_dense_tensors,
)

HEIGHT, WIDTH = 6, 8


def make_frames(count: int) -> list[Frame]:
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        normals = generator.normal(size=(3, HEIGHT, WIDTH))
        normals /= np.linalg.norm(normals, axis=0)
        normals[:, 0] = 0
        labels = generator.integers(0, 4, (HEIGHT, WIDTH))
        labels[1] = IGNORE
        depth = generator.uniform(0.5, 9, (HEIGHT, WIDTH))
        depth[2] = 0
        image = generator.integers(0, 256, (3, HEIGHT, WIDTH)).astype(np.uint8)
        frames.append(Frame(image, labels, depth, normals))
    return frames


def write(target, frames, **changes):
    count = len(frames)
    options = {
        "dataset": "test_set",
        "title": "Test",
        "licence": "none",
        "output_policy": "person",
        "synthetic": True,
        "sources": [],
        "frames": iter(frames),
        "height": HEIGHT,
        "width": WIDTH,
        "class_names": ["a", "b", "c", "d"],
        "intrinsics": {"fx": 7.0, "fy": 7.0, "cx": 3.5, "cy": 2.5},
        "split": np.arange(count) % 3,
        "ids": np.arange(count) + 100,
    } | changes
    return write_dense_tensors(target, DenseContents(**options))


def test_round_trip_and_statistics(tmp_path) -> None:
    frames = make_frames(6)
    tensors = check_dense_tensors(write(tmp_path / "set", frames))
    assert tensors.size == (HEIGHT, WIDTH)
    assert tensors.class_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(tensors.frames_of("validation"), [1, 4])
    batch = tensors.batch([4, 0])
    np.testing.assert_array_equal(batch["ids"], [104, 100])
    np.testing.assert_array_equal(batch["images"][0], frames[4].image)
    np.testing.assert_array_equal(batch["labels"][1], frames[0].labels)
    np.testing.assert_allclose(batch["depth"][0], frames[4].depth, rtol=1e-3)
    np.testing.assert_allclose(decode_normals(batch["normals"])[0], frames[4].normals, atol=0.006)
    training = [frames[0], frames[3]]
    statistics = tensors.manifest["statistics"]
    images = np.stack([frame.image for frame in training]) / 255
    np.testing.assert_allclose(statistics["image_mean"], images.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(statistics["image_standard_deviation"], images.std(axis=(0, 2, 3)), rtol=1e-4)
    labels = np.stack([frame.labels for frame in training])
    np.testing.assert_allclose(statistics["class_share"], [(labels == k).mean() for k in range(4)])
    assert statistics["ignored_share"] == pytest.approx(1 / 6)
    depth = np.stack([frame.depth for frame in training])
    assert statistics["depth_mean"] == pytest.approx(depth[depth > 0].mean())


def test_int8_normals_stay_within_half_a_degree() -> None:
    normals = np.random.default_rng(0).normal(size=(3, 200, 200))
    normals /= np.linalg.norm(normals, axis=0)
    back = decode_normals(encode_normals(normals))
    angle = np.degrees(np.arccos(np.clip((back * normals).sum(axis=0), -1, 1)))
    assert angle.max() < 0.5
    assert (decode_normals(np.zeros((3, 2, 2), np.int8)) == 0).all()


BAD = {
    "shape": ({"image": np.zeros((3, 4, 4), np.uint8)}, "image is uint8"),
    "label 13": ({"labels": np.full((HEIGHT, WIDTH), 13)}, r"labels outside 0..3 and 255: 13"),
    "label -1": ({"labels": np.full((HEIGHT, WIDTH), -1)}, "labels outside"),
    "float labels": ({"labels": np.zeros((HEIGHT, WIDTH))}, "not integers"),
    "NaN depth": ({"depth": np.full((HEIGHT, WIDTH), np.nan)}, "48 depth values are NaN"),
    "negative depth": ({"depth": np.full((HEIGHT, WIDTH), -1.0)}, "depth spans"),
    "millimetres": ({"depth": np.full((HEIGHT, WIDTH), 2500.0)}, "expected metres"),
    "zero normals": ({"normals": np.zeros((3, HEIGHT, WIDTH))}, "every normal is zero"),
    "long normals": ({"normals": np.full((3, HEIGHT, WIDTH), 1.0)}, "unit length"),
    "NaN normals": ({"normals": np.full((3, HEIGHT, WIDTH), np.nan)}, "NaN"),
    "wrong normals": ({"normals": np.zeros((3, 2, 2))}, "normals have shape"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_frame_is_named_and_leaves_nothing_behind(tmp_path, fault) -> None:
    change, message = BAD[fault]
    frames = make_frames(4)
    frames[2] = dataclasses.replace(frames[2], **change)
    with pytest.raises(DataError, match=f"test_set frame 102: .*{message}"):
        write(tmp_path / "set", frames)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.zeros(4)}, "ids repeat"),
        ({"split": np.full(4, 3)}, "split holds"),
        ({"split": np.ones(4)}, "no training frames"),
        ({"ids": np.arange(5), "split": np.zeros(5)}, "4 frames for 5 ids"),
        ({"ids": np.arange(3), "split": np.zeros(3)}, "more frames than the 3"),
        ({"scenes": np.zeros(4), "scene_names": ["one"]}, "scene 'one' stands in more than one split"),
        ({"scenes": np.full(4, 7)}, "scenes beyond"),
        # Label 299 of 300 classes would be stored as 43.
        (
            {"class_names": [str(code) for code in range(300)]},
            "300 classes; a label is a byte: give at most 255",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path, changes, message) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / "set", make_frames(4), **changes)
    assert not (tmp_path / "set").exists()


def test_another_set_is_not_overwritten(tmp_path) -> None:
    write(tmp_path / "set", make_frames(3))
    with pytest.raises(DataError, match="holds data set 'test_set'"):
        write(tmp_path / "set", make_frames(3), dataset="other")
    write(tmp_path / "set", make_frames(6))
    assert len(DenseTensors.open(tmp_path / "set").arrays["ids"]) == 6


def test_damage_is_found(tmp_path) -> None:
    folder = write(tmp_path / "set", make_frames(3))
    path = folder / "labels.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"labels\.npy differs"):
        check_dense_tensors(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"labels\.npy is missing"):
        DenseTensors.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": "other"}))
    with pytest.raises(DataError, match="format 'other'"):
        DenseTensors.open(folder)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=30),
    fraction=st.floats(0.05, 0.5),
    seed=st.integers(0, 5),
)
def test_validation_takes_whole_groups_near_the_wanted_share(sizes, fraction, seed) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    candidates = np.ones(len(groups), dtype=bool)
    try:
        mask, chosen = choose_validation(groups, candidates, fraction, seed)
    except DataError as error:
        assert "cannot be cut" in str(error)  # noqa: PT017
        return
    assert len(np.unique(groups[mask])) == chosen
    assert not set(groups[mask]) & set(groups[~mask])
    assert abs(mask.sum() - fraction * len(groups)) <= max(sizes)
    np.testing.assert_array_equal(mask, choose_validation(groups, candidates, fraction, seed)[0])


def test_validation_share_must_be_possible() -> None:
    with pytest.raises(DataError, match="give a share"):
        choose_validation(np.arange(4), np.ones(4, bool), 1.0, 0)
    with pytest.raises(DataError, match="cannot be cut"):
        choose_validation(np.zeros(4, int), np.ones(4, bool), 0.2, 0)
    mask, chosen = choose_validation(np.arange(4), np.ones(4, bool), 0.0, 0)
    assert not mask.any()
    assert chosen == 0
