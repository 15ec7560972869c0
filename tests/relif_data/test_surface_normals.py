"""Normals from depth: exact on planes, honest at edges and holes, close to published ones on real frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.errors import DataError, InputError
from relif_data.nyuv2 import COLOUR_CAMERA, OFFICIAL_SIZE
from relif_data.surface_normals import (
    Intrinsics,
    angles,
    default_radius,
    find_axis_order,
    normals_from_depth,
)

CAMERA = Intrinsics(fx=52.0, fy=50.0, cx=30.7, cy=22.4)
SIZE = (48, 64)


def plane_depth(normal: np.ndarray, distance: float) -> np.ndarray:
    """Depth of the plane normal · P = -distance (the normal points to the camera)."""
    u, v = CAMERA.rays(*SIZE)
    return -distance / (normal[0] * u + normal[1] * v + normal[2])


@settings(max_examples=25, deadline=None)
@given(
    tilt=st.floats(0, 45),
    turn=st.floats(0, 360),
    distance=st.floats(0.3, 8),
    smoothing=st.sampled_from([0.0, 1.2]),
)
def test_a_plane_gives_its_own_normal(tilt: float, turn: float, distance: float, smoothing: float) -> None:
    tilt, turn = np.radians([tilt, turn])
    normal = np.array([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), -np.cos(tilt)])
    found = normals_from_depth(plane_depth(normal, distance), CAMERA, radius=3, edge=0.9, smoothing=smoothing)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.broadcast_to(normal[:, None, None], found.shape), atol=2e-3)


def test_two_planes_keep_their_normals_beside_a_depth_edge() -> None:
    near, far = plane_depth(np.array([0.0, 0, -1]), 1.0), plane_depth(np.array([0.6, 0, -0.8]), 4.0)
    left = np.arange(SIZE[1]) < 32
    depth = np.where(left, near, far)
    found = normals_from_depth(depth, CAMERA, radius=4, smoothing=0.0)
    assert np.abs(found[:, :, left] - np.array([0, 0, -1.0])[:, None, None]).max() < 1e-3
    assert np.abs(found[:, :, ~left] - np.array([0.6, 0, -0.8])[:, None, None]).max() < 1e-2


def test_pixels_without_depth_get_no_normal_and_disturb_none() -> None:
    normal = np.array([0.0, 0.28, -0.96])
    depth = plane_depth(normal, 2.0)
    depth[10:14, 20:30] = 0
    found = normals_from_depth(depth, CAMERA, radius=3)
    assert (found[:, depth == 0] == 0).all()
    np.testing.assert_allclose(
        found[:, depth > 0], np.broadcast_to(normal[:, None], (3, (depth > 0).sum())), atol=2e-3
    )
    assert (normals_from_depth(np.zeros(SIZE), CAMERA) == 0).all()


def test_an_isolated_pixel_has_no_plane() -> None:
    depth = np.zeros(SIZE)
    depth[20, 20] = 1.0
    assert (normals_from_depth(depth, CAMERA) == 0).all()


@pytest.mark.parametrize("bad", [np.full(SIZE, np.nan), -np.ones(SIZE), np.ones((2, *SIZE))])
def test_bad_depth_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="depth must be"):
        normals_from_depth(bad, CAMERA)


def test_resized_intrinsics_send_a_pixel_centre_to_the_same_ray() -> None:
    half = CAMERA.resized((48, 64), (24, 32))
    u, v = CAMERA.rays(48, 64)
    small_u, small_v = half.rays(24, 32)
    np.testing.assert_allclose(small_u[0], (u[0, ::2] + u[0, 1::2]) / 2)
    np.testing.assert_allclose(small_v[:, 0], (v[::2, 0] + v[1::2, 0]) / 2)
    assert default_radius(384) == 5
    assert default_radius(32) == 2


def test_axis_order_is_found_and_undone() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(3, 20, 30))
    truth /= np.linalg.norm(truth, axis=0)
    stored = np.stack([truth[2], -truth[0], truth[1]])
    order = find_axis_order(stored, truth)
    assert order.median_angle < 1e-4
    np.testing.assert_allclose(order.to_camera(stored), truth)


def test_normals_that_do_not_belong_to_the_depth_are_refused() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 3, 40, 40))
    with pytest.raises(DataError, match="do not belong together"):
        find_axis_order(first, second)
    with pytest.raises(DataError, match="nothing to find"):
        find_axis_order(np.zeros((3, 4, 4)), first[:, :4, :4])


@pytest.mark.parametrize(
    ("frame", "part", "channels", "signs", "limit"),
    [("0433", "test", (0, 2, 1), (1, -1, 1), 6.1), ("0003", "train", (2, 1, 0), (1, 1, 1), 14.5)],
)
def test_published_frames(data_folder, frame, part, channels, signs, limit) -> None:
    """Median angles to two published normal maps; the limits are those of a plain 9 x 9 plane fit."""
    from PIL import Image

    from relif_data.nyuv2 import nearest

    folder = data_folder / "nyuv2"
    size = (288, 384)
    stored = np.asarray(Image.open(folder / "reference" / f"{frame}_normal.png")).astype(np.float32)
    stored = nearest(stored.transpose(2, 0, 1) / 255 * 2 - 1, size)
    stored = stored * (np.abs(stored).max(axis=0) > 0.03)
    depth = np.asarray(Image.open(folder / part / "depth" / f"{frame}.png")) / 1000
    fitted = normals_from_depth(depth, COLOUR_CAMERA.resized(OFFICIAL_SIZE, size))
    order = find_axis_order(stored, fitted)
    assert order.channels == channels
    assert order.signs == signs
    assert order.median_angle < limit
    assert np.nanmean(angles(order.to_camera(stored), fitted)) < 1.5 * limit
