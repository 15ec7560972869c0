"""What a decoder can reach at best: true labels and depth at the resolution at which it draws."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from relif_core.errors import DataError
from relif_core.files import write_json
from relif_core.problems.dense_utility import DepthMeter, SegmentationMeter
from relif_core.tensors.dense import IGNORE
from relif_data.nyuv2 import CLASS_NAMES, list_frames, nearest

#: The plain decoder draws at 1/4 of the image: 1/32 of the encoder, three times doubled.
DECODER_CELL = 4
CEILING = "ceiling.json"


def through_decoder(values: Tensor, valid: Tensor, cell: int = DECODER_CELL) -> Tensor:
    """Return maps as a decoder's last step shows them: cell means, made bilinear.

    Args:
        values: [B, C, H, W]; H and W are multiples of ``cell``.
        valid: bool [B, 1, H, W], the pixels that count in the means; a cell without any becomes 0.
        cell: Side of a cell in pixels.

    Raises:
        DataError: H or W is no multiple of ``cell``.
    """
    height, width = values.shape[-2:]
    if height % cell or width % cell:
        raise DataError(f"images of {height} x {width} cannot be cut into cells of {cell}; give multiples")
    weight = functional.avg_pool2d(valid.to(values.dtype), cell)
    mean = functional.avg_pool2d(values * valid, cell) / weight.clamp(min=1e-6)
    return functional.interpolate(mean, size=(height, width), mode="bilinear", align_corners=False)


def decoder_ceiling(
    labels: Sequence[np.ndarray], depths: Sequence[np.ndarray], classes: int
) -> dict[str, float]:
    """Return mIoU, pixel accuracy and depth RMSE in metres of the truth drawn at the decoder's resolution.

    Classes go through as one-hot maps whose largest value is taken; a decoder with free outputs may do
    slightly better than these averages.

    Args:
        labels: [H, W] per image, 255 for void.
        depths: [H, W] per image in metres, 0 for none.
        classes: Number of classes.
    """
    segmentation, depth = SegmentationMeter(classes), DepthMeter()
    for label, metres in zip(labels, depths, strict=True):
        truth = torch.from_numpy(label.astype(np.int64))[None]
        known = (truth != IGNORE)[:, None]
        one_hot = functional.one_hot(truth.masked_fill(~known[:, 0], 0), classes).permute(0, 3, 1, 2).float()
        segmentation.add(through_decoder(one_hot, known), truth)
        target = torch.from_numpy(metres.astype(np.float32))[None]
        depth.add(through_decoder(target[:, None], (target > 0)[:, None])[:, 0], target)
    return {**segmentation.utility().metrics, "rmse": depth.utility().metrics["rmse"]}


def write_ceiling(
    source: Path, target: Path, sizes: Sequence[tuple[int, int]] = ((288, 384), (96, 128))
) -> Path:
    """Write ``ceiling.json`` of NYUv2's test images (any layout), a row per size, into ``target``."""
    listing = list_frames(Path(source))
    test = np.flatnonzero(listing.test)
    frames = [listing.read(int(index)) for index in test]
    rows = [
        {
            "height": size[0],
            "width": size[1],
            "frames": len(test),
            **decoder_ceiling(
                [nearest(frame.labels, size) for frame in frames],
                [nearest(frame.depth, size) for frame in frames],
                len(CLASS_NAMES),
            ),
        }
        for size in sizes
    ]
    path = Path(target) / CEILING
    write_json(path, {"cell": DECODER_CELL, "rows": rows})
    return path
