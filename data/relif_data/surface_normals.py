"""Surface normals from a depth map: local plane fits that respect depth edges.

A plane ``n · P = d`` seen through a pinhole camera, ``P = Z (u, v, 1)``, has an inverse depth ``1/Z = (n / d)
· (u, v, 1)`` that is *linear* in the image coordinates. So fitting a plane to a window of pixels is a
weighted linear least-squares problem in 1/Z with three unknowns, solved for all pixels at once from moving
sums, and exact on planes at any slant. Smoothing 1/Z beforehand keeps planes exact for the same reason.
Neighbours across a depth edge get weight zero.

Camera axes: x to the right, y down, z forward; normals point towards the camera.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from relif_core.errors import DataError, InputError

#: Relative difference of inverse depth from which a neighbour counts no more.
EDGE = 0.05
#: Degrees between stored and fitted normals in the best order of axes.
LARGEST_MEDIAN = 30.0


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera in pixels: focal lengths and principal point, pixel centres at whole numbers."""

    fx: float
    fy: float
    cx: float
    cy: float

    def resized(self, old: tuple[int, int], new: tuple[int, int]) -> "Intrinsics":
        """Return the intrinsics of the same view after a resize from ``old`` to ``new`` (height, width)."""
        vertical, horizontal = new[0] / old[0], new[1] / old[1]
        return Intrinsics(
            fx=self.fx * horizontal,
            fy=self.fy * vertical,
            cx=(self.cx + 0.5) * horizontal - 0.5,
            cy=(self.cy + 0.5) * vertical - 0.5,
        )

    def rays(self, height: int, width: int, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
        """Return u [1, width] and v [height, 1]: the ray of pixel (row, column) is (u, v, 1)."""
        u: np.ndarray = ((np.arange(width) - self.cx) / self.fx).astype(dtype)
        v: np.ndarray = ((np.arange(height) - self.cy) / self.fy).astype(dtype)
        return u[None, :], v[:, None]


def default_radius(width: int) -> int:
    """Return the half window in pixels that spans the same angle at every image width: 5 at 384."""
    return max(2, round(5 * width / 384))


def normals_from_depth(
    depth: np.ndarray,
    intrinsics: Intrinsics,
    *,
    radius: int | None = None,
    edge: float = EDGE,
    smoothing: float | None = None,
) -> np.ndarray:
    """Return unit normals float32 [3, height, width] of a depth map; zero without depth or plane.

    A window of (2 ``radius`` + 1)² pixels is fitted; with r the relative difference of inverse depth to the
    central pixel, a neighbour weighs ``max(0, 1 - (r / edge)²)²``.

    Args:
        depth: [height, width] in metres along the optical axis, 0 = none.
        intrinsics: Of the camera at this size.
        radius: Of the window in pixels; default by the size.
        edge: Relative difference from which a neighbour counts no more.
        smoothing: Standard deviation in pixels of the Gaussian applied to 1/Z first; default 1.2 at width
            384, in proportion elsewhere; 0: none.

    Raises:
        InputError: Depth that is not a finite, non-negative matrix.
    """
    if depth.ndim != 2 or not np.isfinite(depth).all() or (depth < 0).any():
        raise InputError("depth must be a matrix of finite, non-negative metres (0 = none)")
    height, width = depth.shape
    radius = default_radius(width) if radius is None else radius
    smoothing = 1.2 * width / 384 if smoothing is None else smoothing
    valid = depth > 0
    inverse = np.zeros((height, width), dtype=np.float32)
    np.divide(1, depth, out=inverse, where=valid)
    inverse = _smooth(inverse, valid, smoothing)
    slope_x, slope_y, level, sound = _fit_planes(inverse, valid, radius, edge)
    u, v = intrinsics.rays(height, width, np.float32)
    a, b = slope_x * np.float32(intrinsics.fx), slope_y * np.float32(intrinsics.fy)
    normals = np.stack([-a, -b, a * u + b * v - level])
    length = np.sqrt(np.square(normals).sum(axis=0))
    sound &= valid & (length > 0)
    return np.divide(normals, length, out=np.zeros_like(normals), where=sound)


def _smooth(values: np.ndarray, valid: np.ndarray, deviation: float) -> np.ndarray:
    """Return a Gaussian mean over valid neighbours, kept symmetric in the window: planes stay planes."""
    if deviation <= 0:
        return values
    reach = max(1, int(np.ceil(2.5 * deviation)))
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / deviation)).astype(np.float32)
    weight = _convolve(valid.astype(np.float32), kernel, reach)
    total = _convolve(values, kernel, reach)
    mean = np.divide(total, weight, out=np.zeros_like(values), where=weight > 0)
    # A window cut by the border or a hole is lopsided and would bend a slanted plane: such pixels stay.
    whole = weight > 0.9999 * kernel.sum() ** 2
    return np.where(whole, mean, values)


def _convolve(values: np.ndarray, kernel: np.ndarray, reach: int) -> np.ndarray:
    height, width = values.shape
    padded = np.pad(values, ((reach, reach), (0, 0)))
    rows = sum(weight * padded[k : k + height] for k, weight in enumerate(kernel))
    padded = np.pad(rows, ((0, 0), (reach, reach)))
    result: np.ndarray = sum(weight * padded[:, k : k + width] for k, weight in enumerate(kernel))
    return result


def _fit_planes(
    inverse: np.ndarray, valid: np.ndarray, radius: int, edge: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit ``inverse ≈ level + slope_x dx + slope_y dy`` around every pixel.

    Returns the slopes per pixel, the level at the pixel, and where the fit is determined. Offsets are counted
    in pixels and values relative to the central pixel, so that float32 sums suffice.
    """
    height, width = inverse.shape
    padded = np.pad(inverse, radius)
    relative = np.divide(1, inverse, out=np.zeros_like(inverse), where=valid)
    sharpness = relative / np.float32(edge)
    sums = {name: np.zeros_like(inverse) for name in ("1", "x", "y", "xx", "xy", "yy", "q", "xq", "yq")}
    difference, weight, product = (np.empty_like(inverse) for _ in range(3))
    for dy in range(-radius, radius + 1):
        row = {name: np.zeros_like(inverse) for name in ("1", "x", "xx", "q", "xq")}
        for dx in range(-radius, radius + 1):
            neighbour = padded[radius + dy : radius + dy + height, radius + dx : radius + dx + width]
            np.subtract(neighbour, inverse, out=difference)
            np.multiply(difference, sharpness, out=weight)
            np.square(weight, out=weight)
            np.subtract(1, weight, out=weight)
            np.maximum(weight, 0, out=weight)
            np.square(weight, out=weight)
            # A neighbour without depth has inverse 0, relative difference 1: no weight at any edge below 1.
            row["1"] += weight
            np.multiply(weight, difference, out=product)
            row["q"] += product
            if dx:
                product *= dx
                row["xq"] += product
                weight *= dx
                row["x"] += weight
                weight *= dx
                row["xx"] += weight
        for name, of_row, factor in (
            *((name, name, 1) for name in row),
            *(("y", "1", dy), ("yy", "1", dy * dy), ("xy", "x", dy), ("yq", "q", dy)),
        ):
            sums[name] += factor * row[of_row]
    total = np.maximum(sums["1"], 1e-6)
    x, y, q = sums["x"] / total, sums["y"] / total, sums["q"] / total
    xx, xy, yy = sums["xx"] / total - x * x, sums["xy"] / total - x * y, sums["yy"] / total - y * y
    xq, yq = sums["xq"] / total - x * q, sums["yq"] / total - y * q
    determinant = xx * yy - xy * xy
    sound = (sums["1"] >= 2) & (determinant > 0.02)
    safe = np.where(sound, determinant, 1)
    slope_x = (xq * yy - yq * xy) / safe
    slope_y = (yq * xx - xq * xy) / safe
    level = inverse + q - slope_x * x - slope_y * y
    return slope_x, slope_y, level, sound & (level > 0)


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the angles in degrees between two normal maps [3, height, width], NaN where either is zero."""
    lengths = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    cosine = np.divide(
        (first * second).sum(axis=0), lengths, out=np.full(lengths.shape, np.nan), where=lengths > 0
    )
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@dataclass(frozen=True)
class AxisOrder:
    """How a source stores normals: axis k is ``signs[k]`` × channel ``channels[k]``; the median angle."""

    channels: tuple[int, int, int]
    signs: tuple[int, int, int]
    median_angle: float

    def to_camera(self, stored: np.ndarray) -> np.ndarray:
        """Return [3, height, width] normals in camera axes from the source's channels [3, height, width]."""
        return np.stack(
            [sign * stored[channel] for channel, sign in zip(self.channels, self.signs, strict=True)]
        )


def find_axis_order(stored: np.ndarray, fitted: np.ndarray) -> AxisOrder:
    """Return which of the 48 channel orders and signs brings stored normals closest to fitted ones.

    Args:
        stored: [3, height, width], several frames side by side for a firmer answer; zeros are left out.
        fitted: Normals fitted to the depth, same shape.

    Raises:
        DataError: Even the best median angle exceeds ``LARGEST_MEDIAN``: normals and depth disagree.
    """
    if np.isnan(angles(stored, fitted)).all():
        raise DataError("no pixel has both a stored normal and depth; nothing to find the axes with")
    orders = (
        AxisOrder((a, b, c), (x, y, z), np.inf)
        for a, b, c in itertools.permutations(range(3))
        for x, y, z in itertools.product((1, -1), repeat=3)
    )
    medians = (
        replace(order, median_angle=float(np.nanmedian(angles(order.to_camera(stored), fitted))))
        for order in orders
    )
    best = min(medians, key=lambda order: order.median_angle)
    if best.median_angle > LARGEST_MEDIAN:
        raise DataError(
            f"stored normals differ from the depth by a median {best.median_angle:.1f} degrees in the best of"
            " all axis orders; depth and normals do not belong together"
        )
    return best
