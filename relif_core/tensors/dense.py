"""Images with labels, depth and surface normals as tensors on disk: one format for every dense source.

=============  ===========================================================================================
array          content
=============  ===========================================================================================
``images``     uint8 [frames, 3, height, width], RGB
``labels``     uint8 [frames, height, width], class 0..classes-1, 255 where the pixel has no class
``depth``      float16 [frames, height, width], metres along the optical axis, 0 where nothing was measured
``normals``    int8 [frames, 3, height, width], unit normal times 127, all zero where there is none
``split``      uint8 [frames], 0 train, 1 validation, 2 test
``ids``        int64 [frames], the source's own frame numbers, unique
``scenes``     int32 [frames], index into the manifest's scene names, -1 where the source names no scene
=============  ===========================================================================================

Normals are in camera axes: x to the right, y down, z forward, pointing towards the camera. The manifest adds
the classes, the pinhole intrinsics at this size, and statistics over the *training* frames.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from relif_core.errors import DataError, listed
from relif_core.files import reserve, scratch_folder
from relif_core.tensors.folder import (
    SPLITS,
    Contents,
    TensorFolder,
    check_array_folder,
    refuse_to_overwrite,
    require,
    whole_numbers,
    write_array_folder,
)

FORMAT = "relif-dense-1"
IGNORE = 255
NORMAL_SCALE = 127
MAXIMUM_DEPTH = 1000.0
#: The arrays of every frame, and their types.
FRAME_ARRAYS: dict[str, type[np.generic]] = {
    "images": np.uint8,
    "labels": np.uint8,
    "depth": np.float16,
    "normals": np.int8,
}
TASKS = (
    {"name": "segmentation", "title": "Semantic segmentation", "kind": "pixel classes", "unit": ""},
    {"name": "depth", "title": "Depth", "kind": "pixel depth", "unit": "m"},
    {"name": "normals", "title": "Surface normals", "kind": "pixel directions", "unit": "degrees"},
)


@dataclass(frozen=True)
class Frame:
    """One image and its targets, in the axes and units of the module.

    Attributes:
        image: uint8 [3, height, width].
        labels: Integers [height, width].
        depth: float [height, width] in metres.
        normals: float [3, height, width], per pixel of unit length or all zero.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


def _check_frame(frame: Frame, *, height: int, width: int, classes: int, place: str) -> None:
    """Refuse (``DataError``) a frame of a wrong shape, type or range.

    Depth lies in 0..1000 m; normals are zero or of unit length (within 2 %), and there where depth is.
    """
    check = functools.partial(require, place)
    size = (height, width)
    check(
        frame.image.shape == (3, *size) and frame.image.dtype == np.uint8,
        f"image is {frame.image.dtype}{list(frame.image.shape)}, expected uint8{[3, *size]}",
    )
    check(frame.labels.shape == size, f"labels have shape {frame.labels.shape}, expected {size}")
    check(np.issubdtype(frame.labels.dtype, np.integer), f"labels are {frame.labels.dtype}, not integers")
    known = (frame.labels == IGNORE) | ((frame.labels >= 0) & (frame.labels < classes))
    strange = np.unique(frame.labels[~known])
    check(not len(strange), f"labels outside 0..{classes - 1} and {IGNORE}: {listed(strange)}")
    check(frame.depth.shape == size, f"depth has shape {frame.depth.shape}, expected {size}")
    lost = int((~np.isfinite(frame.depth)).sum())
    check(not lost, f"{lost} depth values are NaN or infinite; write 0 where none was measured")
    check(
        frame.depth.min() >= 0 and frame.depth.max() <= MAXIMUM_DEPTH,
        f"depth spans {frame.depth.min():.3g}..{frame.depth.max():.3g}, expected metres in"
        f" 0..{MAXIMUM_DEPTH:g}",
    )
    shape, wanted = frame.normals.shape, (3, *size)
    check(shape == wanted, f"normals have shape {shape}, expected {wanted}")
    length = np.einsum("chw,chw->hw", frame.normals, frame.normals, dtype=np.float64)
    check(np.isfinite(length).all(), "normals hold NaN or infinity; write 0 where there is none")
    present = length > 0
    unit = (np.abs(np.sqrt(length[present]) - 1) < 0.02).all()
    check(unit, "normals are neither zero nor of unit length; divide them by their length")
    check(
        present.any() or not (frame.depth > 0).any(),
        "every normal is zero although depth was measured; the normals are missing",
    )


@dataclass(frozen=True, kw_only=True)
class DenseContents(Contents):
    """What a dense tensor folder holds.

    Attributes:
        frames: One ``Frame`` per entry of ``ids`` in that order, read once, a frame at a time.
        height: Of every frame in pixels.
        width: Of every frame in pixels.
        class_names: Of the segmentation.
        intrinsics: fx, fy, cx, cy in pixels, pixel centres at whole numbers.
        split: Array as in the module.
        ids: Array as in the module.
        scenes: Array as in the module; None where the source names no scenes.
        scene_names: What ``scenes`` counts.
    """

    frames: Iterable[Frame]
    height: int
    width: int
    class_names: Sequence[str]
    intrinsics: Mapping[str, float]
    split: np.ndarray
    ids: np.ndarray
    scenes: np.ndarray | None = None
    scene_names: Sequence[str] = ()
    sources: Sequence[Mapping[str, Any]] = ()
    synthetic: bool = False
    output_policy: Literal["person", "aggregate"] = "person"


def write_dense_tensors(target: Path, contents: DenseContents) -> Path:
    """Write a dense tensor folder in one atomic step and return it.

    Args:
        target: The folder.
        contents: What it holds.

    Raises:
        DataError: A bad frame (naming its id), a wrong number of frames, more than 255 classes, a set without
            training frames, or a target that holds another data set.
    """
    target = Path(target)
    count, height, width = len(contents.ids), contents.height, contents.width
    scenes, dataset, classes = contents.scenes, contents.dataset, len(contents.class_names)
    require(str(target), classes <= IGNORE, f"{classes} classes; a label is a byte: give at most {IGNORE}")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        **contents.manifest(),
        "height": height,
        "width": width,
        "tasks": [dict(task) for task in TASKS],
        "classes": list(contents.class_names),
        "ignore": IGNORE,
        "normal_scale": NORMAL_SCALE,
        "intrinsics": {name: float(contents.intrinsics[name]) for name in ("fx", "fy", "cx", "cy")},
        "scenes": list(contents.scene_names),
    }
    refuse_to_overwrite(target, manifest)
    arrays: dict[str, np.ndarray] = {
        "split": whole_numbers("split", contents.split, np.uint8),
        "ids": whole_numbers("ids", contents.ids, np.int64),
        "scenes": whole_numbers("scenes", np.full(count, -1) if scenes is None else scenes, np.int32),
    }
    _check_index(arrays, manifest, count, str(target))
    place = target.resolve()
    with scratch_folder(place.with_name(f"{place.name}.frames")) as scratch:
        for name, dtype in FRAME_ARRAYS.items():
            path, shape = scratch / f"{name}.npy", _shape(name, count, height, width)
            arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            reserve(path, path.stat().st_size)
        statistics = _Statistics(classes)
        written = 0
        for frame in contents.frames:
            if written == count:
                raise DataError(f"{dataset}: more frames than the {count} ids given")
            _check_frame(
                frame,
                height=height,
                width=width,
                classes=classes,
                place=f"{dataset} frame {int(arrays['ids'][written])}",
            )
            arrays["images"][written] = frame.image
            arrays["labels"][written] = frame.labels
            arrays["depth"][written] = frame.depth
            arrays["normals"][written] = encode_normals(frame.normals)
            if arrays["split"][written] == SPLITS.index("train"):
                statistics.add(frame)
            written += 1
        if written != count:
            raise DataError(f"{dataset}: {written} frames for {count} ids")
        manifest["statistics"] = statistics.result()
        return write_array_folder(target, manifest, arrays)


def _shape(name: str, count: int, height: int, width: int) -> tuple[int, ...]:
    channels = (3,) if name in ("images", "normals") else ()
    return count, *channels, height, width


def encode_normals(normals: np.ndarray) -> np.ndarray:
    """Return unit normals as int8: each component times 127, rounded (angular error at most 0.4 degrees)."""
    return np.rint(normals * NORMAL_SCALE).astype(np.int8)


def decode_normals(encoded: np.ndarray) -> np.ndarray:
    """Return float32 unit normals [..., 3, height, width] from int8; zero stays zero."""
    normals = encoded.astype(np.float32)
    length = np.sqrt(np.square(normals).sum(axis=-3, keepdims=True))
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)


@dataclass(frozen=True)
class DenseTensors(TensorFolder):
    """An opened dense tensor folder; the arrays are memory-mapped and read-only."""

    format = FORMAT

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 0..classes-1."""
        return tuple(self.manifest["classes"])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.manifest["height"], self.manifest["width"]

    def frames_of(self, split: str) -> np.ndarray:
        """Return the indices of the frames of a split ("train", "validation" or "test"), in file order."""
        return self.samples_of(split)

    def batch(self, frames: np.ndarray | Sequence[int]) -> dict[str, np.ndarray]:
        """Return copies of the given frames' arrays: images, labels, depth, normals, ids."""
        rows = np.asarray(frames, dtype=np.int64)
        return {name: np.array(self.arrays[name][rows]) for name in (*FRAME_ARRAYS, "ids")}


def check_dense_tensors(folder: Path | str) -> DenseTensors:
    """Verify (schema, shapes, ranges, checksums) and open a dense tensor folder; else ``DataError``."""
    manifest = check_array_folder(Path(folder))
    tensors = DenseTensors.open(folder)
    missing = {*FRAME_ARRAYS, "split", "ids", "scenes"} - tensors.arrays.keys()
    if missing:
        raise DataError(f"{folder}: arrays missing: {listed(sorted(missing))}; make the tensors again")
    count = len(tensors.arrays["ids"])
    _check_index(tensors.arrays, manifest, count, str(folder))
    for name in FRAME_ARRAYS:
        found, shape = tensors.arrays[name].shape, _shape(name, count, *tensors.size)
        require(str(folder), found == shape, f"{name} has shape {found}, expected {shape}")
    classes = len(tensors.class_names)
    for index in range(count):
        labels, depth = tensors.arrays["labels"][index], tensors.arrays["depth"][index]
        known, place = (labels < classes) | (labels == IGNORE), f"{folder}: frame {index}"
        require(place, known.all(), f"labels outside 0..{classes - 1} and {IGNORE}")
        require(place, (np.isfinite(depth) & (depth >= 0)).all(), "negative or non-finite depth")
    return tensors


def choose_validation(
    groups: np.ndarray, candidates: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, int]:
    """Choose about a ``fraction`` of the candidates as whole groups, so that no group stands on both sides.

    Groups are shuffled by ``seed`` and taken while they bring the share closer to ``fraction``.

    Args:
        groups: [frames] group code of every frame.
        candidates: bool [frames], which frames may be chosen.
        fraction: Share in [0, 1).
        seed: Of the shuffle.

    Returns:
        Mask [frames] of the chosen, and the number of groups.

    Raises:
        DataError: A fraction outside [0, 1), or a positive one that no choice of whole groups can serve.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"a fraction of {fraction} is none; give a share in [0, 1)")
    wanted = fraction * int(candidates.sum())
    codes, sizes = np.unique(groups[candidates], return_counts=True)
    order = np.random.default_rng(seed).permutation(len(codes))
    chosen: list[int] = []
    taken = 0
    for index in order:
        if abs(taken + sizes[index] - wanted) < abs(taken - wanted):
            chosen.append(int(codes[index]))
            taken += int(sizes[index])
    if fraction > 0 and (not chosen or len(chosen) == len(codes)):
        raise DataError(
            f"the {len(codes)} groups of frames cannot be cut at a share of {fraction}; give another fraction"
        )
    return candidates & np.isin(groups, chosen), len(chosen)


class _Statistics:
    """Sums over training frames: colour mean and deviation, class shares, depth and normal coverage."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.sums: defaultdict[str, Any] = defaultdict(int)

    def add(self, frame: Frame) -> None:
        image = frame.image.reshape(3, -1).astype(np.float32) / 255
        terms = {
            "pixels": image.shape[1],
            "colour": image.sum(axis=1, dtype=np.float64),
            "colour_squared": np.square(image).sum(axis=1, dtype=np.float64),
            "labels": np.bincount(frame.labels.ravel(), minlength=256),
            "depth": float(frame.depth.sum(dtype=np.float64)),
            "depth_pixels": int((frame.depth > 0).sum()),
            "normal_pixels": int((frame.normals != 0).any(axis=0).sum()),
        }
        for name, term in terms.items():
            self.sums[name] = self.sums[name] + term

    def result(self) -> dict[str, Any]:
        sums, pixels = self.sums, self.sums["pixels"]
        if not pixels:
            raise DataError("no training frames: statistics need some; check the split")
        mean = sums["colour"] / pixels
        variance = np.maximum(sums["colour_squared"] / pixels - mean**2, 0)
        return {
            "image_mean": mean.tolist(),
            "image_standard_deviation": np.sqrt(variance).tolist(),
            "class_share": (sums["labels"][: self.classes] / pixels).tolist(),
            "ignored_share": float(sums["labels"][IGNORE] / pixels),
            "depth_mean": sums["depth"] / max(sums["depth_pixels"], 1),
            "depth_share": sums["depth_pixels"] / pixels,
            "normal_share": sums["normal_pixels"] / pixels,
        }


def _check_index(
    arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any], count: int, place: str
) -> None:
    """Refuse (``DataError``) ids, split and scenes that contradict each other."""
    split, ids, scenes = arrays["split"], arrays["ids"], arrays["scenes"]
    same = split.shape == ids.shape == scenes.shape == (count,)
    require(place, same, "split, ids and scenes need one entry per frame")
    require(place, len(np.unique(ids)) == count, "frame ids repeat")
    require(place, (split < len(SPLITS)).all(), "split holds values other than 0, 1 and 2")
    names = manifest["scenes"]
    named = ((scenes >= -1) & (scenes < len(names))).all()
    require(place, named, f"scenes beyond the {len(names)} names of the manifest")
    for scene in np.unique(scenes[scenes >= 0]):
        one = len(np.unique(split[scenes == scene])) == 1
        require(place, one, f"scene {names[scene]!r} stands in more than one split")
