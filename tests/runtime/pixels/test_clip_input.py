"""The input of CLIP's image tower, against open_clip's transform, and windows of crops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from samclip.runtime.bundles.manifest import ClipTower
from samclip.runtime.pixels import clip_input
from samclip.runtime.pixels.clip_input import (
    masked,
    square_window,
    squashed_input,
    whole_input,
)

MEAN, STD = (122.77, 116.75, 104.09), (68.5, 66.63, 70.32)
# (h, w) of a photo, the side -> (h, w) after the resize, (top, left) of the crop: what open_clip's
# `image_transform` (torchvision's Resize and CenterCrop) was seen to do.
GEOMETRY = {
    ((224, 224), 224): ((224, 224), (0, 0)),
    ((223, 301), 224): ((224, 302), (0, 39)),
    ((480, 640), 224): ((224, 298), (0, 37)),
    ((641, 479), 224): ((299, 224), (38, 0)),
    ((500, 499), 224): ((224, 224), (0, 0)),
    ((31, 33), 32): ((32, 34), (0, 1)),
    ((1000, 37), 32): ((864, 32), (416, 0)),
    ((3, 5), 32): ((32, 53), (0, 10)),
    ((1, 1), 32): ((32, 32), (0, 0)),
}


def tower(side: int, resize: str = "shortest_side", interpolation: str = "bicubic") -> ClipTower:
    return ClipTower(
        image_size=side,
        mean=MEAN,
        std=STD,
        resize=resize,  # type: ignore[arg-type]
        interpolation=f"pillow_{interpolation}",  # type: ignore[arg-type]
        embed_dim=8,
        grid=2,
    )


def noise(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def normalised(picture: Image.Image) -> NDArray[np.float32]:
    return ((np.asarray(picture, np.float64) - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "side"), GEOMETRY)
def test_whole_photos_as_open_clip_takes_them(
    size: tuple[int, int], side: int, interpolation: str
) -> None:
    (height, width), (top, left) = GEOMETRY[size, side]
    image = noise(size)
    how = Image.Resampling[interpolation.upper()]
    resized = Image.fromarray(image).resize((width, height), how)
    expected = normalised(resized.crop((left, top, left + side, top + side)))
    found = whole_input(image, tower(side, interpolation=interpolation))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 against float64


def test_squashed_photos() -> None:
    image = noise((61, 200))
    expected = normalised(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
    for made in (squashed_input(image, tower(32)), whole_input(image, tower(32, "squash"))):
        np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(900, 30), (30, 900)])
def test_a_strip_is_resized_where_it_is_kept(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos whose whole would be too large when resized; smooth ones, as photos are."""
    rows, columns = np.indices(size)
    smooth = np.stack([rows, columns, rows + columns], axis=2) * 255 // (sum(size))
    image = smooth.astype(np.uint8)
    exact = whole_input(image, tower(64))
    monkeypatch.setattr(clip_input, "MOST_PIXELS", 1000)
    kept = whole_input(image, tower(64))
    assert kept.shape == exact.shape
    assert np.abs(kept - exact).max() < 2.1 / min(STD)  # two of 255 levels, by rounding


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.floats(0, 3),
)
def test_windows_hold_the_box_and_are_square_where_there_is_room(
    height: int, width: int, corners: list[float], margin: float
) -> None:
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    box = np.round(np.asarray([x0 * width, y0 * height, x1 * width, y1 * height]))
    rows, columns = square_window(box, margin, (height, width))
    shown = (rows.stop - rows.start, columns.stop - columns.start)
    assert 0 <= rows.start < rows.stop <= height
    assert 0 <= columns.start < columns.stop <= width
    if box[0] == box[2] or box[1] == box[3]:
        assert shown == (height, width)
        return
    assert rows.start <= box[1] <= box[3] <= rows.stop
    assert columns.start <= box[0] <= box[2] <= columns.stop
    side = np.ceil(max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * margin))
    assert shown == (min(side, height), min(side, width))


def test_a_window_in_the_middle_and_one_at_the_edge() -> None:
    middle = square_window(np.asarray([40.0, 45, 60, 55]), 0.1, (100, 100))
    assert middle == (slice(38, 62), slice(38, 62))
    corner = square_window(np.asarray([0.0, 90, 10, 100]), 0.5, (100, 100))
    assert corner == (slice(80, 100), slice(0, 20))


def test_what_is_outside_gets_the_mean_colour() -> None:
    crop, inside = noise((4, 5)), np.zeros((4, 5), np.bool_)
    inside[1, 2] = True
    painted = masked(crop, inside, tower(32))
    np.testing.assert_array_equal(painted[1, 2], crop[1, 2])
    np.testing.assert_array_equal(painted[~inside], np.tile([[123, 117, 104]], (19, 1)))
