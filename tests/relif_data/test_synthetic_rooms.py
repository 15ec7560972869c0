"""Rendered rooms: depth, normals and labels describe the same surfaces."""

import numpy as np
import pytest

from relif_core.errors import DataError, InputError
from relif_core.tensors.dense import IGNORE, check_dense_tensors
from relif_data.surface_normals import angles, normals_from_depth
from relif_data.synthetic_rooms import (
    CLASS,
    Box,
    Camera,
    Room,
    default_intrinsics,
    make_frame,
    prepare,
    render,
    sample_camera,
    sample_room,
)

SIZE = (72, 96)


def scenes(count: int):
    for seed in range(count):
        generator = np.random.default_rng(seed)
        room = sample_room(generator)
        yield room, sample_camera(room, generator, default_intrinsics(*SIZE))


def points_of(camera: Camera, depth: np.ndarray) -> np.ndarray:
    u, v = camera.intrinsics.rays(*SIZE)
    return np.stack([u * depth, v * depth, depth])


def test_normals_are_the_gradients_of_depth() -> None:
    """Within a planar face, neighbouring points differ at right angles to the normal, to rounding."""
    for room, camera in scenes(8):
        seen = render(room, camera, *SIZE)
        points = points_of(camera, seen.depth)
        for axis in (1, 2):
            step = np.diff(points, axis=axis)
            same = np.diff(seen.surface, axis=axis - 1) == 0
            normal = np.take(seen.normals, np.arange(step.shape[axis]), axis=axis)
            assert np.abs((step * normal).sum(axis=0)[same]).max() < 1e-9
        np.testing.assert_allclose(np.linalg.norm(seen.normals, axis=0), 1, atol=1e-12)
        u, v = camera.intrinsics.rays(*SIZE)
        towards = seen.normals[0] * u + seen.normals[1] * v + seen.normals[2]
        assert (towards < 0).all()


def test_cross_products_of_finite_differences_give_the_normals() -> None:
    room, camera = next(scenes(1))
    seen = render(room, camera, *SIZE)
    points = points_of(camera, seen.depth)
    across, down = np.diff(points, axis=2)[:, :-1], np.diff(points, axis=1)[:, :, :-1]
    normal = np.cross(down, across, axis=0)
    normal /= np.linalg.norm(normal, axis=0)
    face = seen.surface
    inside = (face[:-1, :-1] == face[1:, :-1]) & (face[:-1, :-1] == face[:-1, 1:])
    assert inside.mean() > 0.8
    np.testing.assert_allclose(normal[:, inside], seen.normals[:, :-1, :-1][:, inside], atol=1e-9)


def test_labels_are_those_of_the_nearest_object() -> None:
    """Compare with a plain ray march through the boxes, written without slabs and rectangles."""
    for room, camera in scenes(3):
        seen = render(room, camera, *SIZE)
        axes = camera.axes()
        u, v = camera.intrinsics.rays(*SIZE)
        rays = u[..., None] * axes[0] + v[..., None] * axes[1] + axes[2]
        generator = np.random.default_rng(1)
        for _ in range(60):
            row, column = generator.integers(SIZE[0]), generator.integers(SIZE[1])
            before, behind = (
                np.asarray(camera.position) + (seen.depth[row, column] + shift) * rays[row, column]
                for shift in (-1e-6, 1e-6)
            )
            path = (
                np.asarray(camera.position)
                + np.linspace(0.06, seen.depth[row, column] - 1e-6, 400)[:, None] * rays[row, column]
            )
            assert not any(inside(box, point) for box in room.boxes for point in path[::8])
            number = seen.surface[row, column] // 6
            if number == 0:
                assert any(not 0 <= behind[k] <= room.size[k] for k in range(3))
                assert all(-1e-9 <= before[k] <= room.size[k] + 1e-9 for k in range(3))
            else:
                box = room.boxes[number - 1]
                assert inside(box, behind)
                assert not inside(box, before)
                assert seen.labels[row, column] == box.label


def inside(box: Box, point: np.ndarray) -> bool:
    across, along = point[:2] - np.asarray(box.centre[:2])
    cosine, sine = np.cos(box.yaw), np.sin(box.yaw)
    local = (cosine * across + sine * along, -sine * across + cosine * along, point[2] - box.centre[2])
    return all(abs(value) <= half for value, half in zip(local, box.half, strict=True))


def test_a_room_worked_by_hand() -> None:
    """A camera in the middle of a bare room looks along +x at a wall 2 m away, with a cube 1 m before it."""
    room = Room(
        size=(4.0, 4.0, 1.6), colours={name: (0.5, 0.5, 0.5) for name in ("wall", "floor", "ceiling")}
    )
    room.boxes.append(Box((3.5, 2.0, 0.8), (0.5, 0.1, 0.1), 0.0, CLASS["tv"], (0.1, 0.1, 0.1)))
    room.lights.append((2.0, 2.0, 1.5))
    camera = Camera((2.0, 2.0, 0.8), yaw=0.0, pitch=0.0, intrinsics=default_intrinsics(*SIZE))
    seen = render(room, camera, *SIZE)
    middle = (SIZE[0] // 2, SIZE[1] // 2)
    assert seen.depth[middle] == pytest.approx(1.0)
    assert seen.labels[middle] == CLASS["tv"]
    np.testing.assert_allclose(seen.normals[:, *middle], [0, 0, -1], atol=1e-12)
    assert seen.depth[middle[0], 20] == pytest.approx(2.0)
    assert seen.labels[middle[0], 20] == CLASS["wall"]
    assert seen.labels[-1, SIZE[1] // 2] == CLASS["floor"]
    np.testing.assert_allclose(seen.normals[:, -1, SIZE[1] // 2], [0, -1, 0], atol=1e-12)
    assert seen.labels[0, SIZE[1] // 2] == CLASS["ceiling"]


def test_fitted_normals_agree_with_the_exact_ones() -> None:
    """The estimator for real depth, run on rendered depth: exact on most pixels, wrong only near creases."""
    room, camera = next(scenes(1))
    seen = render(room, camera, *SIZE)
    found = angles(normals_from_depth(seen.depth, camera.intrinsics), seen.normals)
    assert np.nanmedian(found) < 0.5


def test_the_same_seed_gives_the_same_frame_and_all_classes_occur() -> None:
    first, again = make_frame(3, 5, 11, *SIZE), make_frame(3, 5, 11, *SIZE)
    for name in ("image", "labels", "depth", "normals"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (make_frame(4, 5, 11, *SIZE).image != first.image).any()
    seen = np.unique(np.concatenate([make_frame(0, k, k, 48, 64).labels.ravel() for k in range(80)]))
    assert set(seen) == {*range(13), IGNORE}


def test_prepared_folder(tmp_path) -> None:
    folder = prepare(None, tmp_path / "rooms", frames=48, height=32, width=48, views=3, seed=2, workers=2)
    tensors = check_dense_tensors(folder)
    assert tensors.manifest["synthetic"] is True
    sizes = [len(tensors.frames_of(split)) for split in ("train", "validation", "test")]
    assert sum(sizes) == 48
    assert min(sizes) >= 3
    again = prepare(None, tmp_path / "again", frames=48, height=32, width=48, views=3, seed=2, workers=1)
    assert check_dense_tensors(again).fingerprint == tensors.fingerprint


@pytest.mark.parametrize("options", [{"frames": 4}, {"height": 8}, {"views": 0}, {"unlabelled": 1.5}])
def test_sizes_that_make_no_data_set_are_refused(tmp_path, options) -> None:
    with pytest.raises(InputError, match="at least"):
        prepare(None, tmp_path / "rooms", **options)


def test_a_test_part_that_no_rooms_can_make_is_not_called_validation(tmp_path) -> None:
    with pytest.raises(DataError, match=r"4 groups of frames .* share of 0\.01; give another fraction"):
        prepare(None, tmp_path / "rooms", frames=16, test_fraction=0.01)
