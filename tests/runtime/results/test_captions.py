"""Where captions stand, and which are left out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.results.captions import Label, write_labels
from samclip.runtime.results.drawing import ALIKE, CROWD, draw_masks
from samclip.runtime.results.palette import colour

GREY = np.full((200, 300, 3), 128, np.uint8)


def mask_of(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    mask = np.zeros(GREY.shape[:2], np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def chips(picture: NDArray[np.uint8], index: int) -> NDArray[np.bool_]:
    """The pixels of colour `index`, undiluted: chips, since fills are half transparent."""
    return np.asarray((picture == colour(index)).all(axis=-1))


def test_a_chip_stands_inside_a_large_mask_and_outside_a_small_one() -> None:
    for box, inside in (((50, 50, 250, 150), True), ((140, 100, 150, 105), False)):
        mask = mask_of(*box)
        chip = chips(write_labels(GREY, [Label.inside(mask, "a name", colour(3))]), 3)
        assert chip.sum() > 300
        assert (chip & mask).any() == inside


def test_a_caption_never_covers_another() -> None:
    labels = [Label("name", (150.0, 100.0 + step), colour(step)) for step in range(3)]
    picture = write_labels(GREY, labels)
    assert [chips(picture, step).any() for step in range(3)] == [True, False, False]
    twins = [Label.inside(mask_of(50, 20, 250, 180), "twin", colour(step)) for step in range(2)]
    picture = write_labels(GREY, twins)
    assert all(chips(picture, step).sum() > 150 for step in range(2))  # the second makes room


@pytest.mark.parametrize("size", [(8, 300), (300, 8), (1, 1)])
def test_a_chip_that_would_hide_the_picture_is_left_out(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    mask = np.ones(size, np.bool_)
    np.testing.assert_array_equal(
        write_labels(image, [Label.inside(mask, "name", (255, 0, 0))]), image
    )


def test_in_a_crowd_a_name_stands_on_its_largest_masks_only() -> None:
    boxes = [
        (60 * (i % 5), 50 * (i // 5), 60 * (i % 5) + 58 - i, 50 * (i // 5) + 40) for i in range(15)
    ]
    boxes.append((290, 190, 293, 193))  # the only one of its name, and small
    masks = PackedMasks.pack([mask_of(*box) for box in boxes], (200, 300))
    names = ["ox"] * 15 + ["bee"]
    assert len(boxes) > CROWD
    plain = draw_masks(GREY, masks, [""] * 16)
    drawn = draw_masks(GREY, masks, names)
    written = [(plain != drawn)[y0:y1, x0:x1].any() for x0, y0, x1, y1 in boxes]
    assert written == [True] * ALIKE + [False] * (16 - ALIKE)


def test_a_pixel_has_the_colour_of_the_smallest_mask_around_it() -> None:
    masks = PackedMasks.pack([mask_of(0, 0, 300, 200), mask_of(100, 50, 200, 150)], (200, 300))
    picture = draw_masks(GREY, masks, ["", ""])
    for index, (x, y) in enumerate([(20, 20), (150, 100)]):
        expected = 0.55 * 128 + 0.45 * np.array(colour(index))
        np.testing.assert_allclose(picture[y, x], expected, atol=1)
