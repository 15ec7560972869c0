"""What the decoder's resolution allows: exact where the truth is flat, by hand at an edge."""

import numpy as np
import pytest
import torch

from relif_book.chapters.dense_ceiling import (
    DECODER_CELL,
    decoder_ceiling,
    through_decoder,
)
from relif_core.errors import DataError


def test_flat_truth_loses_nothing() -> None:
    found = decoder_ceiling([np.full((16, 24), 3)], [np.full((16, 24), 2.5)], 13)
    assert found["miou"] == found["pixel_accuracy"] == 1
    assert found["rmse"] == pytest.approx(0, abs=1e-6)


def test_a_straight_edge_between_cells_keeps_its_place_and_blurs_depth() -> None:
    labels = np.zeros((16, 16), dtype=int)
    labels[:, 8:] = 1
    depth = np.where(labels == 1, 3.0, 1.0)
    found = decoder_ceiling([labels], [depth], 2)
    assert found["miou"] == 1
    # Bilinear between the cell centres at 5.5 and 9.5: a ramp of slope 1/2 per pixel over the four pixels
    # beside the edge.
    errors = np.array([0.25, 0.75, 0.75, 0.25])
    assert found["rmse"] == pytest.approx(np.sqrt(np.square(errors).sum() / 16), rel=1e-5)


def test_detail_below_a_cell_is_lost() -> None:
    labels = np.zeros((16, 16), dtype=int)
    labels[::4, ::4] = 1
    found = decoder_ceiling([labels], [np.ones((16, 16))], 2)
    assert found["pixel_accuracy"] == pytest.approx(15 / 16)
    assert found["miou"] == pytest.approx((15 / 16 + 0) / 2)


def test_void_and_missing_depth_do_not_count() -> None:
    labels, depth = np.full((8, 8), 2), np.full((8, 8), 4.0)
    labels[:2], depth[:, :2] = 255, 0
    found = decoder_ceiling([labels], [depth], 3)
    assert found["pixel_accuracy"] == 1
    assert found["rmse"] == pytest.approx(0, abs=1e-6)


def test_the_cell_is_that_of_the_decoder() -> None:
    from relif_core.models.vision import DenseModel

    model = DenseModel("resnet18", classes=2).eval()
    with torch.no_grad():
        outputs = model({"images": torch.zeros(1, 3, 64, 96, dtype=torch.uint8)})
    assert outputs.maps["depth"].shape[-2:] == (64 // DECODER_CELL, 96 // DECODER_CELL)


def test_what_cannot_be_cut_is_named() -> None:
    with pytest.raises(DataError, match="cannot be cut into cells of 4"):
        through_decoder(torch.zeros(1, 1, 6, 8), torch.ones(1, 1, 6, 8, dtype=torch.bool))
