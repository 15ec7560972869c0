"""Synthetic rooms: ray-cast indoor frames whose classes, depth and normals are known exactly.

A room is a box with furniture made of boxes, each turned about the vertical; a few point lights shade it.
Every pixel's ray is intersected in closed form, so depth and normals are those of the same surface point up
to rounding, and labels are those of the object that was hit. The frames use the 13 classes and the target
format of NYU Depth V2 and stand in for it where there is no data; every result made on them must say
"synthetic".
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from relif_core.errors import InputError
from relif_core.tensors.dense import (
    IGNORE,
    SPLITS,
    DenseContents,
    Frame,
    choose_validation,
    write_dense_tensors,
)
from relif_data.nyuv2 import CLASS_NAMES
from relif_data.parallel import in_order
from relif_data.sources import own_table
from relif_data.surface_normals import Intrinsics

CLASS = {name: code for code, name in enumerate(CLASS_NAMES)}
#: Typical colour of each class. Objects depart from it at random, so that colour hints at the class only.
BASE_COLOURS = {
    name: (float(red), float(green), float(blue))
    for name, red, green, blue in map(dict.values, own_table("tables/room_colours.csv"))
}
NEAREST = 0.05
AMBIENT = 0.35


@dataclass(frozen=True)
class Box:
    """A box in a room, in metres: centre, half sizes in its own axes, ``yaw`` radians about the vertical."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float
    label: int
    colour: tuple[float, float, float]
    glow: float = 0.0


@dataclass
class Room:
    """A room ``[0, x] × [0, y] × [0, z]`` in metres (z up) with boxes and point lights."""

    size: tuple[float, float, float]
    colours: dict[str, tuple[float, float, float]]
    boxes: list[Box] = field(default_factory=list)
    lights: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: position in metres, ``yaw`` about the vertical, ``pitch`` down, in radians."""

    position: tuple[float, float, float]
    yaw: float
    pitch: float
    intrinsics: Intrinsics

    def axes(self) -> np.ndarray:
        """Return [3, 3]: the camera's x (right), y (down) and z (forward) as rows in room axes."""
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        down, level = math.sin(self.pitch), math.cos(self.pitch)
        forward = np.array([cosine * level, sine * level, -down])
        right = np.array([sine, -cosine, 0.0])
        return np.stack([right, np.cross(forward, right), forward])


@dataclass(frozen=True)
class Rendering:
    """What a camera sees.

    Attributes:
        image: uint8 [3, h, w].
        labels: uint8 [h, w].
        depth: float64 [h, w], metres along the optical axis.
        normals: float64 [3, h, w] in camera axes.
        surface: int64 [h, w], a number per planar face: 6 × object + face, object 0 is the room.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    surface: np.ndarray


def default_intrinsics(height: int, width: int) -> Intrinsics:
    """Return a camera of NYU Depth V2's horizontal view (63 degrees), principal point at the centre."""
    focal = 0.81 * width
    return Intrinsics(fx=focal, fy=focal, cx=(width - 1) / 2, cy=(height - 1) / 2)


def render(
    room: Room, camera: Camera, height: int, width: int, generator: np.random.Generator | None = None
) -> Rendering:
    """Return what a camera sees of a room.

    A ray is ``position + t (u right + v down + forward)``, so t *is* the depth along the optical axis. A
    ``generator`` adds patterns and sensor noise to the colours; sizes are in pixels.
    """
    axes = camera.axes()
    position = np.asarray(camera.position)
    u, v = camera.intrinsics.rays(height, width)
    rays = u[..., None] * axes[0] + v[..., None] * axes[1] + axes[2]
    rays[rays == 0] = 1e-12
    walls = (np.where(rays > 0, room.size, 0.0) - position) / rays
    axis = walls.argmin(axis=2)
    depth = np.take_along_axis(walls, axis[..., None], axis=2)[..., 0]
    positive = np.take_along_axis(rays, axis[..., None], axis=2)[..., 0] > 0
    surface = 2 * axis + positive
    for number, box in enumerate(room.boxes, start=1):
        _cast_box(box, number, camera, axes, rays, depth, surface)
    face_normals, labels, colours, glow = _surface_tables(room)
    world_normals = face_normals[surface]
    image = _shade(room, position, rays, depth, surface, world_normals, colours, glow, generator)
    return Rendering(
        image=image,
        labels=labels[surface],
        depth=depth,
        normals=np.ascontiguousarray((world_normals @ axes.T).transpose(2, 0, 1)),
        surface=surface,
    )


def _cast_box(
    box: Box,
    number: int,
    camera: Camera,
    axes: np.ndarray,
    rays: np.ndarray,
    depth: np.ndarray,
    surface: np.ndarray,
) -> None:
    """Write the box into ``depth`` and ``surface`` where it is nearest (slab method, in its rectangle)."""
    turn = _turn(box.yaw)
    half = np.asarray(box.half)
    origin = turn.T @ (np.asarray(camera.position) - np.asarray(box.centre))
    if (np.abs(origin) < half + NEAREST).all():
        return
    rows, columns = _rectangle(box, turn, camera, axes, depth.shape)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    local = rays[rows, columns] @ turn
    local[local == 0] = 1e-12
    first, second = (-half - origin) / local, (half - origin) / local
    entry, leaving = np.minimum(first, second), np.maximum(first, second).min(axis=2)
    axis = entry.argmax(axis=2)
    reached = np.take_along_axis(entry, axis[..., None], axis=2)[..., 0]
    hit = (reached <= leaving) & (reached > NEAREST) & (reached < depth[rows, columns])
    # A ray that grows along an axis enters through the face that looks the other way.
    negative_face = np.take_along_axis(local, axis[..., None], axis=2)[..., 0] > 0
    depth[rows, columns][hit] = reached[hit]
    surface[rows, columns][hit] = (6 * number + 2 * axis + negative_face)[hit]


def _rectangle(
    box: Box, turn: np.ndarray, camera: Camera, axes: np.ndarray, shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """Return the rows and columns that can show the box: its corners' bounds, or all if one lies behind."""
    signs = np.array(list(itertools.product((-1, 1), repeat=3)))
    corners = np.asarray(box.centre) + (signs * np.asarray(box.half)) @ turn.T
    seen = (corners - np.asarray(camera.position)) @ axes.T
    if (seen[:, 2] <= NEAREST).all():
        return slice(0, 0), slice(0, 0)
    if (seen[:, 2] <= NEAREST).any():
        return slice(0, shape[0]), slice(0, shape[1])
    columns = camera.intrinsics.fx * seen[:, 0] / seen[:, 2] + camera.intrinsics.cx
    rows = camera.intrinsics.fy * seen[:, 1] / seen[:, 2] + camera.intrinsics.cy
    top, bottom = np.clip([math.floor(rows.min()), math.ceil(rows.max()) + 1], 0, shape[0])
    left, right = np.clip([math.floor(columns.min()), math.ceil(columns.max()) + 1], 0, shape[1])
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _turn(yaw: float) -> np.ndarray:
    cosine, sine = math.cos(yaw), math.sin(yaw)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _surface_tables(room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return per surface number: normal in room axes, label, colour and glow."""
    outward = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    # Room faces are seen from inside: number 2 axis is the wall at 0, whose inner side looks along +axis.
    normals = np.concatenate([outward, *(outward @ _turn(box.yaw).T for box in room.boxes)])
    faces = [(CLASS[name], room.colours[name], 0.0) for name in (*["wall"] * 4, "floor", "ceiling")]
    faces += [(box.label, box.colour, box.glow) for box in room.boxes for _ in range(6)]
    labels, colours, glow = zip(*faces, strict=True)
    return normals, np.asarray(labels, np.uint8), np.asarray(colours), np.asarray(glow)


def _shade(
    room: Room,
    position: np.ndarray,
    rays: np.ndarray,
    depth: np.ndarray,
    surface: np.ndarray,
    normals: np.ndarray,
    colours: np.ndarray,
    glow: np.ndarray,
    generator: np.random.Generator | None,
) -> np.ndarray:
    """Return uint8 [3, h, w]: Lambert and ambient light, falling off with distance, pattern and noise."""
    points = position + depth[..., None] * rays
    light = np.full(depth.shape, AMBIENT)
    for place in room.lights:
        towards = np.asarray(place) - points
        squared = np.einsum("hwc,hwc->hw", towards, towards)
        facing = np.einsum("hwc,hwc->hw", towards, normals) / np.sqrt(squared + 1e-9)
        light += np.maximum(facing, 0) * (1.1 / (1 + 0.18 * squared))
    light += glow[surface]
    colour = colours[surface]
    if generator is not None:
        waves = generator.normal(0, 1.6, size=(len(room.boxes) + 1, 3))
        strength = generator.uniform(0, 0.12, size=len(room.boxes) + 1)
        thing = surface // 6
        phase = np.einsum("hwc,hwc->hw", points, waves[thing])
        light *= 1 + strength[thing] * np.sign(np.sin(2 * np.pi * phase))
        colour = colour + generator.normal(0, 0.015, size=colour.shape)
    seen = np.clip(colour * light[..., None], 0, 1) ** (1 / 1.6)
    return np.rint(seen * 255).astype(np.uint8).transpose(2, 0, 1)


# --- how rooms are furnished --------------------------------------------------------------------------------


def sample_room(generator: np.random.Generator, *, unlabelled: float = 0.08) -> Room:
    """Return a random furnished room; furniture has no label (255) with probability ``unlabelled``."""
    x, y, z = (float(generator.uniform(*span)) for span in ((3.2, 6.0), (3.2, 6.0), (2.3, 3.0)))
    colours = {name: _colour(generator, name) for name in ("wall", "floor", "ceiling")}
    room = Room((x, y, z), colours)
    for _ in range(int(generator.integers(1, 4))):
        u, v, w = (float(generator.uniform(*span)) for span in ((0.2, 0.8), (0.2, 0.8), (0.75, 0.95)))
        room.lights.append((u * x, v * y, w * z))
    _Furnisher(room, generator, unlabelled).furnish()
    return room


def sample_camera(room: Room, generator: np.random.Generator, intrinsics: Intrinsics) -> Camera:
    """Return a random standing view from near a wall of ``room`` towards its middle."""
    angle = generator.uniform(0, 2 * np.pi)
    middle = np.array(room.size[:2]) / 2
    reach = generator.uniform(0.55, 0.8)
    place = middle + reach * middle * np.array([math.cos(angle), math.sin(angle)])
    look = middle + generator.uniform(-0.35, 0.35, size=2) * middle - place
    return Camera(
        position=(float(place[0]), float(place[1]), float(generator.uniform(1.2, 1.75))),
        yaw=math.atan2(look[1], look[0]),
        pitch=float(generator.uniform(0.05, 0.45)),
        intrinsics=intrinsics,
    )


def _colour(generator: np.random.Generator, name: str) -> tuple[float, float, float]:
    red, green, blue = np.clip(np.asarray(BASE_COLOURS[name]) + generator.normal(0, 0.12, 3), 0.03, 0.97)
    return float(red), float(green), float(blue)


class _Furnisher:
    """Places furniture: pieces along walls and in the middle, none overlapping another on the floor plan."""

    def __init__(self, room: Room, generator: np.random.Generator, unlabelled: float) -> None:
        self.room = room
        self.generator = generator
        self.unlabelled = unlabelled
        self.taken: list[tuple[float, float, float]] = []
        # The piece in hand: where its own origin stands, which way it looks, and whether it carries labels.
        self.x = self.y = self.yaw = 0.0
        self.labelled = True

    def furnish(self) -> None:
        reaches = {"bed": 1.15, "sofa": 0.85, "cabinet": 0.6, "bookshelf": 0.6, "television": 0.85}
        names = self.generator.permutation(list(reaches))[: int(self.generator.integers(2, 5))]
        for name in map(str, names):
            if self.stand_at_wall(reaches[name]):
                getattr(self, name)()
        for most, reach, build in ((3, 0.75, self.table), (4, 0.32, self.chair), (4, 0.2, self.thing)):
            for _ in range(int(self.generator.integers(1, most))):
                if self.stand_free(reach):
                    build()
        for _ in range(int(self.generator.integers(1, 5))):
            self.hang(str(self.generator.choice(["picture", "picture", "window", "door"])))

    def uniform(self, low: float, high: float) -> float:
        return float(self.generator.uniform(low, high))

    def stand_at_wall(self, reach: float) -> bool:
        """Choose a wall and a free place with its back to it; ``reach`` is the half width kept free."""
        for _ in range(12):
            self.back_to(int(self.generator.integers(4)), reach)
            inward = (self.x + reach * math.cos(self.yaw), self.y + reach * math.sin(self.yaw))
            if self.free(*inward, reach):
                return True
        return False

    def back_to(self, wall: int, reach: float) -> None:
        """Stand with the back to a wall, ``reach`` or more from its ends."""
        width, length, _ = self.room.size
        along = self.uniform(reach, (width if wall in (1, 3) else length) - reach)
        self.x, self.y = ((0.0, along), (along, 0.0), (width, along), (along, length))[wall]
        self.yaw = (0.0, math.pi / 2, math.pi, -math.pi / 2)[wall]

    def stand_free(self, reach: float) -> bool:
        """Choose a free place anywhere, turned at random."""
        width, length, _ = self.room.size
        for _ in range(12):
            self.x, self.y = self.uniform(reach, width - reach), self.uniform(reach, length - reach)
            self.yaw = self.uniform(-math.pi, math.pi)
            if self.free(self.x, self.y, reach):
                return True
        return False

    def free(self, x: float, y: float, reach: float) -> bool:
        if any(math.hypot(x - a, y - b) < 0.9 * (reach + c) for a, b, c in self.taken):
            return False
        self.taken.append((x, y, reach))
        self.labelled = bool(self.generator.uniform() >= self.unlabelled)
        return True

    def put(
        self,
        name: str,
        front: tuple[float, float],
        side: tuple[float, float],
        up: tuple[float, float],
        colour: tuple[float, float, float] | None = None,
        glow: float = 0.0,
    ) -> None:
        """Add a box spanning the intervals forward, left and up from the current piece's origin."""
        forward, left, height = ((low + high) / 2 for low, high in (front, side, up))
        x, y, z = ((high - low) / 2 for low, high in (front, side, up))
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        place = (self.x + cosine * forward - sine * left, self.y + sine * forward + cosine * left, height)
        label = CLASS[name] if self.labelled else IGNORE
        colour = colour or _colour(self.generator, name)
        self.room.boxes.append(Box(place, (x, y, z), self.yaw, label, colour, glow))

    def legs(self, name: str, depth: float, width: float, height: float) -> None:
        colour = _colour(self.generator, name)
        for front in (-depth, depth - 0.06):
            for side in (-width, width - 0.06):
                self.put(name, (front, front + 0.06), (side, side + 0.06), (0.0, height), colour)

    def bed(self) -> None:
        width, length, height = self.uniform(0.5, 0.95), self.uniform(1.8, 2.1), self.uniform(0.4, 0.6)
        self.put("bed", (0.02, 0.1), (-width, width), (0.0, height + 0.45))
        self.put("bed", (0.1, length), (-width, width), (0.0, height))
        for side in (-width / 2, width / 2):
            self.put("objects", (0.14, 0.5), (side - 0.24, side + 0.24), (height, height + 0.12))

    def sofa(self) -> None:
        width, seat = self.uniform(0.7, 1.1), self.uniform(0.38, 0.48)
        colour = _colour(self.generator, "sofa")
        self.put("sofa", (0.05, 0.25), (-width, width), (0.0, seat + 0.42), colour)
        self.put("sofa", (0.25, 0.9), (-width, width), (0.0, seat), colour)
        for side in (-width, width - 0.18):
            self.put("sofa", (0.25, 0.9), (side, side + 0.18), (0.0, seat + 0.2), colour)

    def cabinet(self) -> None:
        width, height = self.uniform(0.3, 0.6), self.uniform(0.7, 2.0)
        self.put("furniture", (0.02, 0.5), (-width, width), (0.0, height))
        if height < 1.3:
            self.thing(height, front=0.26)

    def bookshelf(self) -> None:
        width, height = self.uniform(0.35, 0.6), self.uniform(1.2, 1.9)
        colour = _colour(self.generator, "furniture")
        self.put("furniture", (0.02, 0.06), (-width, width), (0.0, height), colour)
        for side in (-width, width - 0.04):
            self.put("furniture", (0.02, 0.35), (side, side + 0.04), (0.0, height), colour)
        shelves = int(self.generator.integers(3, 5))
        for level in range(shelves + 1):
            low = level * (height - 0.04) / shelves
            self.put("furniture", (0.02, 0.35), (-width, width), (low, low + 0.04), colour)
            if level < shelves:
                start = -width + 0.05
                for _ in range(int(self.generator.integers(1, 4))):
                    thick = self.uniform(0.06, 0.22)
                    if start + thick < width - 0.05:
                        self.put(
                            "books",
                            (0.06, self.uniform(0.22, 0.32)),
                            (start, start + thick),
                            (low + 0.04, low + self.uniform(0.2, 0.3)),
                        )
                    start += thick

    def television(self) -> None:
        width, height = self.uniform(0.4, 0.7), self.uniform(0.45, 0.7)
        self.put("furniture", (0.05, 0.5), (-width - 0.1, width + 0.1), (0.0, height))
        self.put("tv", (0.22, 0.28), (-width, width), (height + 0.06, height + 0.06 + 1.12 * width))
        self.put("tv", (0.18, 0.34), (-0.12, 0.12), (height, height + 0.06))

    def table(self) -> None:
        depth, width, height = self.uniform(0.3, 0.5), self.uniform(0.35, 0.7), self.uniform(0.45, 0.8)
        self.legs("table", depth, width, height)
        self.put("table", (-depth, depth), (-width, width), (height, height + 0.05))
        for _ in range(int(self.generator.integers(0, 4))):
            self.thing(height + 0.05, front=self.uniform(-0.2, 0.2), side=self.uniform(-0.25, 0.25))
        if self.generator.uniform() < 0.5:
            self.put("books", (-0.15, 0.1), (-0.3, -0.1), (height + 0.05, height + self.uniform(0.09, 0.2)))

    def chair(self) -> None:
        seat, colour = self.uniform(0.4, 0.5), _colour(self.generator, "chair")
        self.legs("chair", 0.2, 0.2, seat)
        self.put("chair", (-0.22, 0.22), (-0.22, 0.22), (seat, seat + 0.06), colour)
        self.put(
            "chair", (-0.22, -0.17), (-0.22, 0.22), (seat + 0.06, seat + self.uniform(0.4, 0.55)), colour
        )

    def thing(self, base: float = 0.0, front: float = 0.0, side: float = 0.0) -> None:
        depth, width, height = (self.uniform(0.04, 0.16) for _ in range(3))
        red, green, blue = self.generator.uniform(0.08, 0.92, 3).tolist()
        spans = (front - depth, front + depth), (side - width, side + width), (base, base + 2 * height)
        self.put("objects", *spans, (red, green, blue))

    def hang(self, kind: str) -> None:
        """Fix a flat box to a wall: a picture, a window (it glows) or a door (labelled as wall)."""
        wall, picture = int(self.generator.integers(4)), kind == "picture"
        across = self.uniform(0.2, 0.5) if picture else self.uniform(0.4, 0.8)
        self.back_to(wall, across)
        self.labelled = True
        if kind == "door":
            self.put("wall", (0.0, 0.04), (-0.42, 0.42), (0.0, 2.0), _colour(self.generator, "furniture"))
            return
        low = self.uniform(1.2, 1.5) if picture else self.uniform(0.7, 1.1)
        high = low + (self.uniform(0.3, 0.7) if picture else self.uniform(0.8, 1.2))
        high = min(high, self.room.size[2] - 0.1)
        self.put(kind, (0.0, 0.03), (-across, across), (low, high), glow=0.9 if kind == "window" else 0.0)


# --- a data set of rooms ------------------------------------------------------------------------------------


def prepare(
    source: Path | None,
    target: Path,
    *,
    frames: int = 768,
    height: int = 96,
    width: int = 128,
    views: int = 4,
    test_fraction: float = 0.3,
    validation_fraction: float = 0.15,
    unlabelled: float = 0.08,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write synthetic frames as a dense tensor folder and return it; ``source`` is not used.

    The same arguments give the same arrays.

    Args:
        source: Not used.
        target: Folder of the tensors.
        frames: Number of frames.
        height: In pixels.
        width: In pixels.
        views: Places from which each room is seen.
        test_fraction: Share of all frames, whole rooms.
        validation_fraction: Share of the others, whole rooms.
        unlabelled: Probability that a piece of furniture has no label.
        seed: Of the rooms.
        workers: Threads; default the processors, at most 8.
        progress: Called with a line of text per step.

    Raises:
        InputError: Sizes that make no data set.
        DataError: As ``write_dense_tensors``.
    """
    if frames < 8 or views < 1 or height < 32 or width < 32 or not 0 <= unlabelled <= 1:
        raise InputError("give at least 8 frames, 1 view per room, 32 x 32 pixels, and unlabelled in 0..1")
    rooms = np.arange(frames) // views
    everything = np.ones(frames, dtype=bool)
    test, _ = choose_validation(rooms, everything, test_fraction, seed)
    validation, _ = choose_validation(rooms, ~test, validation_fraction, seed + 1)
    split = np.where(test, SPLITS.index("test"), np.where(validation, SPLITS.index("validation"), 0))

    def make(index: int) -> Frame:
        return make_frame(seed, int(rooms[index]), index, height, width, unlabelled)

    contents = DenseContents(
        dataset="synthetic_rooms",
        title="Synthetic rooms",
        licence="Apache-2.0 (generated)",
        frames=in_order(make, range(frames), workers, progress, every=500),
        height=height,
        width=width,
        class_names=CLASS_NAMES,
        intrinsics=asdict(default_intrinsics(height, width)),
        split=split,
        ids=np.arange(frames),
        scenes=rooms,
        scene_names=[f"room_{number:05d}" for number in range(int(rooms[-1]) + 1)],
        options={
            "seed": seed,
            "views": views,
            "test_fraction": test_fraction,
            "validation_fraction": validation_fraction,
            "validation_rule": "whole rooms, chosen by the seed",
            "unlabelled": unlabelled,
        },
        notes=["synthetic: rendered rooms, not photographs"],
        synthetic=True,
    )
    return write_dense_tensors(target, contents)


def make_frame(seed: int, room: int, view: int, height: int, width: int, unlabelled: float = 0.08) -> Frame:
    """Return a frame of the data set: number ``view`` (over all rooms) of room ``room`` under ``seed``."""
    scene = sample_room(np.random.default_rng([seed, 0, room]), unlabelled=unlabelled)
    generator = np.random.default_rng([seed, 1, view])
    camera = sample_camera(scene, generator, default_intrinsics(height, width))
    seen = render(scene, camera, height, width, generator)
    return Frame(
        image=np.ascontiguousarray(seen.image),
        labels=seen.labels,
        depth=seen.depth.astype(np.float32),
        normals=seen.normals.astype(np.float32),
    )
