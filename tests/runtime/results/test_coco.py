"""Checks of outlines, against what pycocotools makes; hostile ones are in tests/attacks."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from samclip.runtime.results.coco import (
    MAX_STEPS,
    STEPS_PER_PIXEL,
    ImageRecord,
    Rle,
    check_counts,
    check_polygon,
    check_size,
    to_rle,
    unpack_counts,
)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of runs of zeros and ones in turn, down the columns."""
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=0))
    return np.diff([0, *starts, flat.size]).tolist()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 300), (500, 800)])
def test_packed_counts_are_read_as_pycocotools_writes_them(
    size: tuple[int, int], share: float
) -> None:
    mask = (np.random.default_rng(1).random(size) < share).astype(np.uint8)
    packed = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    numbers = unpack_counts(packed)
    assert numbers.tolist() == run_lengths(mask)
    check_counts(packed, size)
    check_counts(numbers.tolist(), size)


def test_counts_and_polygons_give_the_same_mask() -> None:
    mask = np.zeros((8, 10), np.uint8)
    mask[2:6, 3:7] = 1
    image = ImageRecord(1, 10, 8)
    packed = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    corners = [3.0, 2.0, 7.0, 2.0, 7.0, 6.0, 3.0, 6.0]
    for shape in (Rle((8, 10), run_lengths(mask)), Rle((8, 10), packed), [corners]):
        rle = to_rle(shape, image)
        assert rle is not None
        assert coco_mask.area(rle) == 16


def test_polygons_may_leave_the_image_a_little() -> None:
    check_polygon([-10, -8, 20, 0, 20, 16], (8, 10))
    with pytest.raises(ValueError, match="far outside"):
        check_polygon([-10.1, 0, 3, 0, 3, 3], (8, 10))
    with pytest.raises(ValueError, match="far outside"):
        check_polygon([float("nan"), 0, 3, 0, 3, 3], (8, 10))


def test_polygons_have_a_length_that_fits_into_memory() -> None:
    side = MAX_STEPS // STEPS_PER_PIXEL // 2000
    zigzag = [0.0, 0.0, float(side), 0.0] * 500
    check_polygon(zigzag, (side, side))
    with pytest.raises(ValueError, match="is longer than"):
        check_polygon(zigzag * 3, (side, side))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, -1), (2**20, 2**20)])
def test_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 to"):
        check_size(size)
