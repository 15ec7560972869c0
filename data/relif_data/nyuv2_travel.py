"""A small form of NYU Depth V2 that travels easily: smaller images in folders, and what that loses.

``write_travel_form`` writes ``{train,test}/{image,label,depth}/<NNNN>.{jpg,png,png}`` and ``travel.json``, a
statement of what was changed; ``relif data nyuv2`` reads the folder like any other in that layout. Labels and
depth take the nearest pixel, as they do in tensors of that size, so labels lose nothing against such tensors
and depth only what whole millimetres cost; images are JPEG files; surface normals are left out, since they
are fitted to the depth.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from relif_core.errors import DataError, listed
from relif_core.files import atomic_folder, write_json
from relif_core.tensors.dense import IGNORE
from relif_data.nyuv2 import (
    CLASS_NAMES,
    COLOUR_CAMERA,
    OFFICIAL_SIZE,
    TRAVEL,
    RawFrame,
    list_frames,
    nearest,
    shrink_image,
)
from relif_data.parallel import in_order
from relif_data.surface_normals import angles, normals_from_depth

KINDS = {"image": ".jpg", "label": ".png", "depth": ".png"}
#: Largest depth that 16 bits of millimetres hold.
MAXIMUM_MILLIMETRES = 65535


def write_travel_form(
    source: Path,
    target: Path,
    *,
    height: int = 144,
    width: int = 192,
    quality: int = 90,
    workers: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write the travelling form of NYU Depth V2 into the new folder ``target``; return it.

    The folder appears whole or not at all.

    Args:
        source: Any layout of ``relif data nyuv2``.
        target: The new folder.
        height: In pixels.
        width: In pixels.
        quality: Of the JPEG images, 1..95.
        workers: Threads; default the processors, at most 8.
        progress: Called with a line of text per step.

    Raises:
        DataError: A source that cannot be read, labels or depth that the form cannot hold, a quality outside
            1..95, or a target that exists.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise DataError(f"{target} exists; name a new folder for the travelling form")
    if not 1 <= quality <= 95 or height < 32 or width < 32:
        raise DataError(f"quality {quality} and size {height} x {width}: give 1..95 and at least 32 x 32")
    listing = list_frames(source)
    size = (height, width)
    with atomic_folder(target) as folder:
        for part, kind in itertools.product(("train", "test"), KINDS):
            (folder / part / kind).mkdir(parents=True)

        def convert(index: int) -> dict[str, int]:
            number = int(listing.ids[index])
            part = folder / ("test" if listing.test[index] else "train")
            return _write_frame(listing.read(index), part, number, size, quality)

        bytes_of: Counter[str] = Counter()
        for written in in_order(convert, range(len(listing.ids)), workers, progress, every=200):
            bytes_of.update(written)
        write_json(
            folder / TRAVEL,
            {
                "what": "NYU Depth V2, labelled set, made smaller so that it travels easily",
                "licence": "no explicit licence; research use (see the dataset page)",
                "changed": [
                    f"size {height} x {width}: images by area averages, labels and depth by the nearest"
                    " pixel",
                    f"images are JPEG files of quality {quality}",
                    "depth is in whole millimetres (16 bits)",
                    "surface normals are left out; they are fitted to the depth when tensors are made",
                    "scene names are left out; official frame numbers name the files",
                ],
                "frames": {"train": int((~listing.test).sum()), "test": int(listing.test.sum())},
                "height": height,
                "width": width,
                "quality": quality,
                "intrinsics": asdict(COLOUR_CAMERA.resized(OFFICIAL_SIZE, size)),
                "classes": list(CLASS_NAMES),
                "layout_of_source": listing.layout,
                "sources": listing.sources,
                "bytes": dict(bytes_of),
            },
        )
    return target


def measure_travel_form(source: Path, travel: Path, frames: int = 48) -> dict[str, Any]:
    """Return a travelling form's size and its losses, measured on ``frames`` images spread over the set.

    ``labels_changed``: share of pixels whose class differs from that of tensors of this size made from
    ``source``; ``depth_error``: largest difference in metres to their depth; ``image_psnr``: median over
    images of 10 log10(255² / mean squared error) in decibels against the same image without JPEG;
    ``normals_half`` and ``normals_full``: median angle in degrees between normals fitted to the form's depth
    and normals fitted to the source's depth at the form's size, and at the source's own size.

    Raises:
        DataError: The two hold different frames.
    """
    origin, small = list_frames(source), list_frames(travel)
    if not (np.array_equal(origin.ids, small.ids) and np.array_equal(origin.test, small.test)):
        raise DataError(f"{travel} holds other frames than {source}; write the travelling form again")
    picked = np.linspace(0, len(origin.ids) - 1, min(frames, len(origin.ids))).astype(int)
    size = small.read(0).labels.shape
    changed = pixels = 0
    depth_error = 0.0
    noise, half, full = [], [], []
    for index in picked:
        before, after = origin.read(int(index)), small.read(int(index))
        labels, depth = nearest(before.labels, size), nearest(before.depth, size)
        changed += int((labels != after.labels).sum())
        pixels += labels.size
        depth_error = max(depth_error, float(np.abs(depth - after.depth).max()))
        image = shrink_image(before.image, size).astype(np.float64)
        squared = float(np.square(image - after.image).mean())
        noise.append(10 * np.log10(255**2 / squared) if squared else np.inf)
        fitted, direct, own = (
            normals_from_depth(metres, COLOUR_CAMERA.resized(OFFICIAL_SIZE, metres.shape))
            for metres in (after.depth, depth, before.depth)
        )
        half.append(angles(fitted, direct).ravel())
        full.append(angles(fitted, nearest(own, size)).ravel())
    files = [path for path in Path(travel).rglob("*") if path.is_file()]
    return {
        "frames": len(small.ids),
        "measured_on": len(picked),
        "height": size[0],
        "width": size[1],
        "bytes": sum(path.stat().st_size for path in files),
        "bytes_of_kind": {
            kind: sum(path.stat().st_size for path in files if path.parent.name == kind) for kind in KINDS
        },
        "bytes_of_source": sum(int(entry["bytes"]) for entry in origin.sources),
        "labels_changed": changed / pixels,
        "depth_error": depth_error,
        "image_psnr": float(np.median(noise)),
        "normals_half": float(np.nanmedian(np.concatenate(half))),
        "normals_full": float(np.nanmedian(np.concatenate(full))),
    }


def write_travel_record(source: Path, travel: Path, target: Path, frames: int = 48) -> Path:
    """Write :func:`measure_travel_form` as ``travel.json`` into ``target`` and return its path."""
    path = Path(target) / TRAVEL
    write_json(path, measure_travel_form(source, travel, frames))
    return path


def _write_frame(
    raw: RawFrame, part: Path, number: int, size: tuple[int, int], quality: int
) -> dict[str, int]:
    from PIL import Image

    labels = nearest(raw.labels, size)
    known = ((labels >= 0) & (labels < len(CLASS_NAMES))) | (labels == IGNORE)
    if not known.all():
        raise DataError(
            f"NYUv2 frame {number}: labels outside 0..{len(CLASS_NAMES) - 1} and {IGNORE}:"
            f" {listed(np.unique(labels[~known]))}"
        )
    millimetres = np.rint(nearest(raw.depth, size).astype(np.float64) * 1000)
    if not np.isfinite(millimetres).all() or millimetres.min() < 0 or millimetres.max() > MAXIMUM_MILLIMETRES:
        raise DataError(f"NYUv2 frame {number}: depth is not within 0..{MAXIMUM_MILLIMETRES / 1000:g} m")
    places = {kind: part / kind / f"{number:04d}{suffix}" for kind, suffix in KINDS.items()}
    Image.fromarray(shrink_image(raw.image, size)).save(places["image"], quality=quality, optimize=True)
    Image.fromarray(labels.astype(np.uint8)).save(places["label"], optimize=True)
    Image.fromarray(millimetres.astype(np.uint16)).save(places["depth"], compress_level=9)
    return {kind: path.stat().st_size for kind, path in places.items()}
