"""What the book says of dense tensors: shares and histograms per split, fitted against published normals."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from relif_core.files import read_json, write_json
from relif_core.problems.dense_utility import DenseMeter
from relif_core.tensors.dense import IGNORE, SPLITS, DenseTensors, decode_normals
from relif_data.nyuv2 import COLOUR_CAMERA, OFFICIAL_SIZE, nearest
from relif_data.surface_normals import angles, find_axis_order, normals_from_depth

#: Edges of the depth histogram in metres and of the histogram of the normals' upward component.
DEPTH_EDGES = np.linspace(0, 10, 41)
UPWARD_EDGES = np.linspace(-1, 1, 41)
#: Published normal maps in the folder ``reference`` of the image layout: frame, part, pipeline.
REFERENCE_FRAMES = (
    ("0433", "test", "multi-task RefineNet (Nekrasov et al. 2019)"),
    ("0003", "train", "Ladický et al. (2014)"),
)


def summarise_dense(tensors: DenseTensors) -> dict[str, Any]:
    """Return frames and shares of classes, depths and normals per split, of all or of valid pixels."""
    splits = {}
    for split in SPLITS:
        labels = np.zeros(256, dtype=np.int64)
        depth = np.zeros(len(DEPTH_EDGES) - 1, dtype=np.int64)
        upward = np.zeros(len(UPWARD_EDGES) - 1, dtype=np.int64)
        depths = normals = pixels = 0
        frames = tensors.frames_of(split)
        for frame in frames:
            labels += np.bincount(tensors.arrays["labels"][frame].ravel(), minlength=256)
            values = tensors.arrays["depth"][frame]
            pixels += values.size
            values = values[values > 0].astype(np.float32)
            depths += len(values)
            depth += np.histogram(values, DEPTH_EDGES)[0]
            found = decode_normals(tensors.arrays["normals"][frame])
            # y points down in camera axes.
            rising = -found[1][(found != 0).any(axis=0)]
            normals += len(rising)
            upward += np.histogram(rising, UPWARD_EDGES)[0]
        splits[split] = {
            "frames": len(frames),
            "class_share": _shares(labels[: len(tensors.class_names)], pixels),
            "ignored_share": float(labels[IGNORE] / max(pixels, 1)),
            "depth_share": depths / max(pixels, 1),
            "normal_share": normals / max(pixels, 1),
            "depth_histogram": _shares(depth, depths),
            "upward_histogram": _shares(upward, normals),
        }
    facts = ("dataset", "title", "licence", "synthetic", "fingerprint", "height", "width")
    return {
        **{name: tensors.manifest[name] for name in facts},
        "classes": list(tensors.class_names),
        "options": tensors.manifest["options"],
        "depth_edges": DEPTH_EDGES.tolist(),
        "upward_edges": UPWARD_EDGES.tolist(),
        "splits": splits,
    }


@torch.no_grad()
def constant_predictors(tensors: DenseTensors) -> dict[str, Any]:
    """Return the test utility of one training value everywhere, and of one per pixel.

    The first predicts the most frequent class, the median depth and the mean normal; the second each pixel's
    most frequent class, mean depth and mean normal.
    """
    classes = len(tensors.class_names)
    counts = np.zeros((classes, *tensors.size))
    depths, known = np.zeros(tensors.size), np.zeros(tensors.size)
    normals = np.zeros((3, *tensors.size))
    values = []
    for frame in tensors.frames_of("train"):
        counts += tensors.arrays["labels"][frame] == np.arange(classes)[:, None, None]
        depth = np.asarray(tensors.arrays["depth"][frame], dtype=np.float64)
        depths += depth
        known += depth > 0
        values.append(np.asarray(depth[depth > 0], dtype=np.float32))
        normals += decode_normals(tensors.arrays["normals"][frame])
    flat = np.ones(tensors.size)
    rows = {
        "Constant": (
            counts.sum((1, 2))[:, None, None] * flat,
            float(np.median(np.concatenate(values))) * flat,
            normals.sum((1, 2))[:, None, None] * flat,
        ),
        "Constant per pixel": (counts, depths / np.maximum(known, 1), normals),
    }
    meters = {title: DenseMeter(classes) for title in rows}
    for frame in tensors.frames_of("test"):
        stored = tensors.batch([frame])
        batch = {name: torch.from_numpy(stored[name].astype(np.float32)) for name in ("labels", "depth")}
        batch["normals"] = torch.from_numpy(decode_normals(stored["normals"][0]))[None]
        for title, parts in rows.items():
            predictions = [torch.from_numpy(part.astype(np.float32, order="C"))[None] for part in parts]
            predictions[1] = predictions[1].reshape(batch["depth"].shape)
            meters[title].add(dict(zip(meters[title].meters, predictions, strict=True)), batch)
    facts = {name: tensors.manifest[name] for name in ("dataset", "fingerprint", "height", "width")}
    rows_told = [{"title": title, **meter.utility().as_json()} for title, meter in meters.items()]
    return {**facts, "rows": rows_told}


def write_constant_predictors(tensors: Path, target: Path) -> Path:
    """Add a tensor folder's constant predictors to ``constants.json`` in ``target``, one entry a size."""
    path = target / "constants.json"
    before = read_json(path) if path.is_file() else []
    own = constant_predictors(DenseTensors.open(tensors))
    write_json(path, [*(item for item in before if item["fingerprint"] != own["fingerprint"]), own])
    return path


def compare_with_published_normals(source: Path) -> list[dict[str, Any]]:
    """Return per published normal map the angles in degrees to normals fitted to the depth.

    ``channels`` and ``signs`` say how the published file stores its axes; they are found, not assumed.
    """
    from PIL import Image

    rows = []
    for frame, part, pipeline in REFERENCE_FRAMES:
        depth = np.asarray(Image.open(source / part / "depth" / f"{frame}.png")) / 1000
        size = (depth.shape[0], depth.shape[1])
        stored = np.asarray(Image.open(source / "reference" / f"{frame}_normal.png")).astype(np.float32)
        stored = nearest(stored.transpose(2, 0, 1) / 255 * 2 - 1, size)
        stored = stored * (np.abs(stored).max(axis=0) > 0.03)
        fitted = normals_from_depth(depth, COLOUR_CAMERA.resized(OFFICIAL_SIZE, size))
        order = find_axis_order(stored, fitted)
        found = angles(order.to_camera(stored), fitted)
        found = found[~np.isnan(found)]
        rows.append(
            {
                "frame": frame,
                "part": part,
                "pipeline": pipeline,
                "channels": list(order.channels),
                "signs": list(order.signs),
                "pixels": len(found),
                "median": float(np.median(found)),
                "mean": float(found.mean()),
                "within_11.25": float((found < 11.25).mean()),
                "within_30": float((found < 30).mean()),
                "histogram": _shares(np.histogram(found, np.linspace(0, 90, 46))[0], len(found)),
            }
        )
    return rows


def write_dense_summary(tensors: Path, source: Path | None, target: Path) -> Path:
    """Write ``summary.json`` into ``target``; an NYUv2 image layout as ``source`` adds its normals."""
    content = summarise_dense(DenseTensors.open(tensors))
    content["published_normals"] = compare_with_published_normals(source) if source else []
    write_json(target / "summary.json", content)
    return target / "summary.json"


def _shares(counts: np.ndarray, total: int) -> list[float]:
    return [round(float(count) / max(total, 1), 6) for count in counts]
