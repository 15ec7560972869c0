"""NYU Depth V2, the labelled set: 1,449 indoor frames with classes, depth and surface normals.

Three layouts are read, told apart by what the source folder holds:

=========  ==========================================================================================
layout     content
=========  ==========================================================================================
official   ``nyu_depth_v2_labeled.mat``, and beside it ``splits.mat`` (the dataset page) and
           ``classMapping40.mat`` (894 → 40 classes, Gupta et al. 2013)
arrays     ``{train,val}/{image,label,depth,normal}/<k>.npy``, as published with MTAN (Liu et al. 2019)
images     ``{train,test}/{image,label,depth}/<NNNN>.{jpg|png,png,png}``: 13 classes, depth in mm
=========  ==========================================================================================

The 13 classes are those of Couprie et al. (ICLR 2013); ``tables/nyu40_to_13.csv`` maps the 40 classes of
Gupta et al. (CVPR 2013) to them and agrees with the mapping that A. Handa published with SceneNet. Where a
source has no surface normals they are fitted to the depth (``relif_data.surface_normals``). The dataset:
Silberman, Hoiem, Kohli, Fergus, ECCV 2012.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relif_core.errors import DataError, listed
from relif_core.files import described, read_json, sha256_of
from relif_core.tensors.dense import (
    IGNORE,
    SPLITS,
    DenseContents,
    Frame,
    choose_validation,
    write_dense_tensors,
)
from relif_core.tensors.folder import read_array
from relif_data.parallel import in_order
from relif_data.sources import own_table
from relif_data.surface_normals import (
    EDGE,
    AxisOrder,
    Intrinsics,
    default_radius,
    find_axis_order,
    normals_from_depth,
)

_CLASSES = own_table("tables/nyu40_to_13.csv")
CLASS_NAMES = tuple(dict(sorted((int(row["class_13"]), row["name_13"]) for row in _CLASSES)).values())
#: Colour camera of the dataset's toolbox at 640 x 480 (there counted from 1); depth is projected onto it.
COLOUR_CAMERA = Intrinsics(fx=518.857901, fy=519.469611, cx=325.582449 - 1, cy=253.736166 - 1)
OFFICIAL_SIZE = (480, 640)
#: Beside a travelling form (``relif_data.nyuv2_travel``): what was changed, and the sources' checksums.
TRAVEL = "travel.json"
MAT_FILE, SPLIT_FILE, MAPPING_FILE = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
#: Files beside it, and what each is for.
BESIDE = {
    SPLIT_FILE: "it holds the official train and test frames; take it from the dataset page",
    MAPPING_FILE: (
        "it maps the 894 classes to 40; take it from the data of Gupta, Arbelaez and Malik (CVPR 2013) or A."
        " Handa's nyuv2-meta-data"
    ),
}
#: Arrays of the .mat file, and the kinds of number that each may hold.
FRAME_KINDS = {"images": "iu", "labels": "iu", "depths": "f"}
#: Consecutive frames show one room: where the source names no scenes, blocks of this many stay together.
BLOCK = 16
#: Metres between which a frame's median depth lies (0.92 to 6.84 in the labelled set).
ROOM = (0.5, 10.0)
AXIS_FRAMES = 8
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class RawFrame:
    """A source's frame: image uint8 [h, w, 3], labels [h, w], depth m [h, w], normals [3, h, w] or None."""

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    normals: np.ndarray | None = None


@dataclass(frozen=True)
class Listing:
    """A layout's content: ids, official part and room of each frame, how to read one, which files."""

    layout: str
    ids: np.ndarray
    test: np.ndarray
    groups: np.ndarray
    read: Callable[[int], RawFrame]
    sources: list[dict[str, Any]]
    validation_rule: str
    scenes: np.ndarray | None = None
    scene_names: tuple[str, ...] = ()
    has_normals: bool = False


def map_40_to_13() -> np.ndarray:
    """Return uint8 [41]: the 13-class index of each of the 40 classes (counted from 1), 255 at 0."""
    classes = {int(row["class_40"]): int(row["class_13"]) for row in _CLASSES}
    return np.array([classes.get(code, IGNORE) for code in range(41)], dtype=np.uint8)


def prepare(
    source: Path,
    target: Path,
    *,
    height: int = 288,
    width: int = 384,
    validation_fraction: float = 0.15,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write NYU Depth V2, in any layout of the module, as the dense tensor folder ``target``; return it.

    Images shrink by area averaging; labels, depth and stored normals take the nearest pixel, normals brought
    back to unit length; missing normals are fitted at the stored size. The test part is the official one.

    Args:
        source: Folder of the data.
        target: Folder of the tensors.
        height: Stored, in pixels.
        width: Stored, in pixels.
        validation_fraction: Share of the training frames that becomes validation, whole rooms at a time.
        seed: Of that choice.
        workers: Threads that read and convert; default the processors, at most 8.
        progress: Called with a line of text per step.

    Raises:
        DataError: An unknown layout, missing or truncated files, an image without its label or depth, wrong
            shapes, labels outside 0..12 and 255, depth or normals that are NaN or all zero.
    """
    source = Path(source)
    if height < 32 or width < 32:
        raise DataError(f"a size of {height} x {width} is too small; give at least 32 x 32")
    listing = list_frames(source)
    if progress is not None:
        progress(f"{len(listing.ids)} frames in the {listing.layout} layout")
    camera = COLOUR_CAMERA.resized(OFFICIAL_SIZE, (height, width))
    validation, groups = choose_validation(listing.groups, ~listing.test, validation_fraction, seed)
    split = np.where(listing.test, SPLITS.index("test"), np.where(validation, SPLITS.index("validation"), 0))
    options: dict[str, Any] = {
        "layout": listing.layout,
        "validation_fraction": validation_fraction,
        "validation_rule": listing.validation_rule,
        "validation_groups": groups,
        "seed": seed,
    }
    travel = _travel_statement(source)
    if travel:
        options["travelling_form"] = travel
    axes = _axes_of(listing, camera, (height, width)) if listing.has_normals else None
    if axes is None:
        options["normals"] = {"from": "depth", "radius": default_radius(width), "edge": EDGE}
    else:
        options["normals"] = {
            "from": "source",
            "channels": list(axes.channels),
            "signs": list(axes.signs),
            "median_angle_to_depth": round(axes.median_angle, 3),
        }

    def convert(index: int) -> Frame:
        place = f"NYUv2 frame {int(listing.ids[index])}"
        return convert_frame(listing.read(index), (height, width), camera, axes, place)

    contents = DenseContents(
        dataset="nyuv2",
        title="NYU Depth V2, labelled set",
        licence="no explicit licence; research use (see the dataset page)",
        frames=in_order(convert, range(len(listing.ids)), workers, progress),
        height=height,
        width=width,
        class_names=CLASS_NAMES,
        intrinsics=asdict(camera),
        split=split,
        ids=listing.ids,
        scenes=listing.scenes,
        scene_names=listing.scene_names,
        sources=listing.sources,
        options=options,
        notes=[
            f"validation part: {listing.validation_rule}",
            *(f"travelling form: {change}" for change in travel.get("changed", ())),
        ],
    )
    return write_dense_tensors(target, contents)


def _travel_statement(source: Path) -> dict[str, Any]:
    """Return what a travelling form states of itself; empty for any other source."""
    path = source / TRAVEL
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        return {name: content[name] for name in ("changed", "height", "width", "quality", "sources")}
    except (DataError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no statement of a travelling form ({error}); write the form again"
        ) from error


def list_frames(source: Path) -> Listing:
    """Tell the layout of ``source`` and list its frames; ``DataError`` if unknown or pairs are incomplete."""
    for path in (source, source / MAT_FILE):
        if path.is_file() and path.suffix == ".mat":
            return _list_official(path)
    if (source / "val" / "image").is_dir():
        return _list_arrays(source)
    if (source / "test" / "image").is_dir():
        return _list_images(source)
    raise DataError(
        f"{source}: no NYU Depth V2 found; expected {MAT_FILE}, or train/ and val/ with .npy files, or train/"
        " and test/ with image, label and depth folders"
    )


def convert_frame(
    raw: RawFrame, size: tuple[int, int], camera: Intrinsics, axes: AxisOrder | None, place: str
) -> Frame:
    """Return a raw frame at ``size`` (height, width); normals in camera axes, fitted where it has none.

    Raises:
        DataError: Shapes that disagree, or depth that is negative, not finite, zero everywhere or in another
            unit.
    """

    def require(holds: Any, problem: str) -> None:
        if not holds:
            raise DataError(f"{place}: {problem}")

    shape = raw.image.shape[:2]
    whole = raw.image.ndim == 3 and raw.image.shape[2] == 3
    require(whole, f"image has shape {raw.image.shape}, expected [height, width, 3]")
    for name, array in (("label", raw.labels), ("depth", raw.depth)):
        require(array.shape == shape, f"{name} has shape {array.shape}, its image {shape}")
    require(np.isfinite(raw.depth).all(), "depth holds NaN or infinity; write 0 where none was measured")
    require((raw.depth >= 0).all(), "depth is negative; write 0 where none was measured")
    require(raw.depth.any(), "depth is 0 at every pixel, so none was measured; leave the frame out")
    middle = float(np.median(raw.depth[raw.depth > 0]))
    require(
        ROOM[0] <= middle <= ROOM[1],
        f"the median depth is {middle:.3g} m, and the sensor sees 0.7 to 10 m; folders of images hold depth"
        " in millimetres, arrays and the .mat file in metres",
    )
    depth = nearest(raw.depth, size)
    if raw.normals is None or axes is None:
        normals = normals_from_depth(depth, camera)
    else:
        stored = raw.normals
        require(stored.shape == (3, *shape), f"normals have shape {stored.shape}, expected {(3, *shape)}")
        normals = unit(nearest(axes.to_camera(stored), size), place)
    return Frame(
        image=shrink_image(raw.image, size).transpose(2, 0, 1),
        labels=nearest(raw.labels, size),
        depth=depth,
        normals=normals,
    )


def nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return [..., height, width] resized to ``size`` by the pixel under each new pixel's centre."""
    height, width = array.shape[-2:]
    if (height, width) == size:
        return array
    rows = ((2 * np.arange(size[0]) + 1) * height) // (2 * size[0])
    columns = ((2 * np.arange(size[1]) + 1) * width) // (2 * size[1])
    return array[..., rows[:, None], columns[None, :]]


def shrink_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 [height, width, 3] at ``size``: area averages to shrink, bilinear to grow."""
    if image.shape[:2] == size:
        return image
    from PIL import Image

    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), method))


def unit(normals: np.ndarray, place: str) -> np.ndarray:
    """Return normals [3, height, width] at unit length; those shorter than 0.1 become zero: none.

    Raises:
        DataError: Normals that are not finite, or none at all.
    """
    if not np.isfinite(normals).all():
        raise DataError(f"{place}: normals hold NaN or infinity; write 0 where there is none")
    normals = normals.astype(np.float32)
    length = np.sqrt(np.square(normals).sum(axis=0))
    if not (length > 0.1).any():
        raise DataError(f"{place}: every normal is zero; the normals are missing")
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0.1)


def _axes_of(listing: Listing, camera: Intrinsics, size: tuple[int, int]) -> AxisOrder:
    """Find the channel order of a source's normals from a few training frames spread over the set."""
    training = np.flatnonzero(~listing.test)
    picked = training[np.linspace(0, len(training) - 1, min(AXIS_FRAMES, len(training))).astype(int)]
    stored, fitted = [], []
    for index in picked:
        raw = listing.read(int(index))
        place = f"NYUv2 frame {int(listing.ids[index])}"
        if raw.normals is None or raw.normals.ndim != 3 or raw.normals.shape[0] != 3:
            raise DataError(f"{place}: normals need three channels")
        convert_frame(raw, size, camera, None, place)
        stored.append(unit(nearest(raw.normals, size), place))
        fitted.append(normals_from_depth(nearest(raw.depth, size), camera))
    return find_axis_order(np.concatenate(stored, axis=2), np.concatenate(fitted, axis=2))


# --- official .mat files ------------------------------------------------------------------------------------


def _list_official(path: Path) -> Listing:
    import h5py

    split_path, mapping_path = (path.parent / name for name in BESIDE)
    for name, why in BESIDE.items():
        if not (path.parent / name).is_file():
            raise DataError(f"{path.parent / name} is missing: {why}")
    training, testing = _mat_numbers(split_path, "trainNdxs", "testNdxs")
    (to_40,) = _mat_numbers(mapping_path, "mapClass")
    if to_40.min(initial=0) < 0 or to_40.max(initial=0) > 40:
        raise DataError(f"{mapping_path} maps to classes outside 0..40")
    to_13 = map_40_to_13()[np.concatenate([[0], to_40])]
    try:
        content = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be opened as HDF5 ({error}); download it again") from error
    missing = FRAME_KINDS.keys() - set(content)
    if missing:
        raise DataError(f"{path} holds no {listed(sorted(missing))}")
    count = _count_frames(path, content)
    ids = np.sort(np.concatenate([training, testing]))
    if len(np.unique(ids)) != len(ids) or len(ids) == 0 or ids[0] < 1 or ids[-1] > count:
        raise DataError(f"{split_path} names frames twice or outside 1..{count}")
    scenes: dict[str, Any] = {
        "groups": _blocks(ids, np.isin(ids, testing)),
        "validation_rule": "whole runs of consecutive official frame numbers",
    }
    if "scenes" in content:
        names = _scene_names(path, content, count)
        unique, codes = np.unique(np.asarray(names)[ids - 1], return_inverse=True)
        scenes = {"groups": codes, "scenes": codes, "scene_names": tuple(unique.tolist())}
        scenes["validation_rule"] = "whole scenes, as the source names them"

    def read(index: int) -> RawFrame:
        row = int(ids[index]) - 1
        try:
            image, labels, depth = (np.asarray(content[name][row]).T for name in FRAME_KINDS)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{path}: frame {row + 1} cannot be read ({error}); damaged? Download the file again"
            ) from error
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(to_13):
            raise DataError(f"NYUv2 frame {row + 1}: a class is below 0 or beyond {mapping_path.name}")
        return RawFrame(image=np.ascontiguousarray(image), labels=to_13[labels], depth=depth)

    return Listing(
        layout="official",
        ids=ids,
        test=np.isin(ids, testing),
        read=read,
        sources=[described(file) for file in (path, split_path, mapping_path)],
        **scenes,
    )


def _mat_numbers(path: Path, *names: str) -> list[np.ndarray]:
    """Return whole numbers of a MATLAB file by name; ``DataError`` where it is damaged or lacks one."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=names)
        return [np.asarray(content[name]).ravel().astype(np.int64) for name in names]
    except Exception as error:  # The parser raises whatever a damaged byte leads to.
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); damaged, or another file? Fetch it"
            " again"
        ) from error


def _count_frames(path: Path, content: Any) -> int:
    """Return the number of frames; ``DataError`` where images, depths and labels are no arrays of as many."""
    shapes: dict[str, tuple[int, ...]]
    shapes = {name: getattr(content.get(name), "shape", ()) for name in FRAME_KINDS}
    count, sizes = shapes["images"][:1], shapes["images"][2:]
    wanted = {"images": (*count, 3, *sizes), "labels": count + sizes, "depths": count + sizes}
    fits = len(sizes) == 2 and shapes == wanted
    if not (fits and all(content[name].dtype.kind in kinds for name, kinds in FRAME_KINDS.items())):
        raise DataError(
            f"{path}: images, depths and labels are no numbers of as many frames of one size"
            f" ({listed(f'{name} {shape}' for name, shape in shapes.items())}); download the file again"
        )
    return int(count[0])


def _text(content: Any, reference: Any) -> str:
    """Return the MATLAB string behind an HDF5 object reference."""
    return "".join(map(chr, np.asarray(content[reference]).ravel()))


def _scene_names(path: Path, content: Any, count: int) -> list[str]:
    """Return the MATLAB strings behind the HDF5 references ``scenes``."""
    try:
        references = np.asarray(content["scenes"]).ravel()
        names = [_text(content, reference) for reference in references]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: its scene names cannot be read ({error}); download it again") from error
    if len(names) != count:
        raise DataError(f"{path} names {len(names)} scenes for {count} frames; download it again")
    return names


# --- arrays as published with MTAN --------------------------------------------------------------------------


def _list_arrays(source: Path) -> Listing:
    kinds = ("image", "label", "depth", "normal")
    paths = {part: _paired(source / part, kinds, (".npy",)) for part in ("train", "val")}
    numbers = [(part, number) for part in ("train", "val") for number in sorted(paths[part])]
    test = np.asarray([part == "val" for part, _ in numbers])
    # Both parts are numbered from 0, so ids of the second part follow those of the first.
    offset = 1 + max((number for part, number in numbers if part == "train"), default=-1)
    ids = np.asarray([number + offset * (part == "val") for part, number in numbers])

    def read(index: int) -> RawFrame:
        part, number = numbers[index]
        image, labels, depth, normals = (
            read_array(paths[part][number][kind], "copy it again") for kind in kinds
        )
        place = f"{part}/image/{number}.npy"
        if not np.isfinite(image).all() or image.min(initial=0) < 0 or image.max(initial=0) > 1:
            raise DataError(f"{place}: colours outside 0..1")
        if not (np.isfinite(labels).all() and (labels == np.rint(labels)).all()):
            raise DataError(f"{part}/label/{number}.npy: labels are not whole numbers")
        whole = labels.astype(np.int64)
        return RawFrame(
            image=np.rint(image * 255).astype(np.uint8),
            labels=np.where(whole == -1, IGNORE, whole),
            depth=depth[..., 0] if depth.ndim == 3 else depth,
            normals=normals.transpose(2, 0, 1) if normals.ndim == 3 else normals,
        )

    return Listing(
        layout="arrays",
        ids=ids,
        test=test,
        groups=ids // BLOCK,
        read=read,
        sources=_folder_entries(source, paths, kinds),
        validation_rule=f"blocks of {BLOCK} consecutive frames (the source names no scenes)",
        has_normals=True,
    )


# --- image folders ------------------------------------------------------------------------------------------


def _list_images(source: Path) -> Listing:
    kinds = ("image", "label", "depth")
    paths = {part: _paired(source / part, kinds, (".png", ".jpg", ".jpeg")) for part in ("train", "test")}
    numbers = sorted((number, part) for part in paths for number in paths[part])
    ids = np.asarray([number for number, _ in numbers])
    twice = ids[:-1][np.diff(ids) == 0]
    if len(twice):
        raise DataError(f"{source}: frames in train and test: {listed(twice)}")
    test = np.asarray([part == "test" for _, part in numbers])

    def read(index: int) -> RawFrame:
        number, part = numbers[index]
        files = paths[part][number]
        depth = _load_image(files["depth"], ("I;16", "I"))
        return RawFrame(
            image=_load_image(files["image"], ("RGB",)),
            labels=_load_image(files["label"], ("L", "P")),
            depth=depth.astype(np.float32) / 1000,
        )

    return Listing(
        layout="images",
        ids=ids,
        test=test,
        groups=_blocks(ids, test),
        read=read,
        sources=_folder_entries(source, paths, kinds),
        validation_rule=(
            "whole runs of consecutive official frame numbers (the official parts divide scenes, so a run"
            " holds whole scenes)"
        ),
    )


def _load_image(path: Path, modes: Sequence[str]) -> np.ndarray:
    """Read a JPEG or PNG of one of the Pillow ``modes``; ``DataError`` where truncated or another kind."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in modes:
                raise DataError(f"{path} has pixel mode {image.mode}, expected {listed(modes, ' or ')}")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); copy it again") from error


# --- what the layouts share ---------------------------------------------------------------------------------


def _paired(folder: Path, kinds: Sequence[str], suffixes: Sequence[str]) -> dict[int, dict[str, Path]]:
    """Return frame number -> kind -> file; ``DataError`` naming the first frames that lack a kind."""
    found: dict[str, dict[int, Path]] = {}
    for kind in kinds:
        if not (folder / kind).is_dir():
            raise DataError(f"{folder / kind} is missing")
        inside = (path for path in (folder / kind).iterdir() if not path.name.startswith("."))
        files = [path for path in inside if path.suffix.lower() in suffixes and path.is_file()]
        strangers = sorted(path.name for path in files if not _NUMBER.fullmatch(path.stem))
        if strangers:
            names = f"names are not frame numbers: {listed(strangers)}"
            raise DataError(f"{folder / kind}: {names}; rename or remove them")
        found[kind] = {int(path.stem): path for path in files}
        if len(found[kind]) != len(files):
            raise DataError(f"{folder / kind}: a frame number occurs twice")
    every = set().union(*found.values())
    if not every:
        raise DataError(f"{folder} holds no frames")
    for kind in kinds:
        missing = sorted(every - found[kind].keys())
        if missing:
            raise DataError(
                f"{folder / kind}: {len(missing)} of {len(every)} frames have no {kind}: {listed(missing)};"
                " complete the pairs or remove the rest of these frames"
            )
    return {number: {kind: found[kind][number] for kind in kinds} for number in sorted(every)}


def _blocks(ids: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return a code per frame that changes where the id jumps or the part changes (ids ascending)."""
    change = (np.diff(ids) != 1) | (np.diff(test.astype(np.int8)) != 0)
    return np.concatenate([[0], np.cumsum(change)])


def _folder_entries(
    source: Path, paths: dict[str, dict[int, dict[str, Path]]], kinds: Sequence[str]
) -> list[dict[str, Any]]:
    """Describe each folder of files as one source: total size, sha256 of the list of names and checksums."""
    entries = []
    for part, kind in itertools.product(paths, kinds):
        files = [frame[kind] for frame in paths[part].values()]
        lines = "".join(f"{sha256_of(path)}  {path.relative_to(source).as_posix()}\n" for path in files)
        size, digest = sum(path.stat().st_size for path in files), hashlib.sha256(lines.encode()).hexdigest()
        entries.append({"name": f"{part}/{kind}", "files": len(files), "bytes": size, "sha256": digest})
    return entries
