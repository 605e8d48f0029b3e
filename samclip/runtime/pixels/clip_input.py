"""The input of CLIP's image tower: whole photos by CLIP's own rules, and crops around masks.

Whole photos are prepared as open_clip's evaluation transform does it: the shorter side is resized
to the tower's, and as much is cropped from the middle; or both sides are resized, where the tower
was trained so. Crops are squares of the photo around a mask's box, so that nothing of the object is
cut off and nothing is distorted; where the photo has no room for a square, the rest is squashed.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

from samclip.runtime.pixels.image import InputFormat, normalise

MOST_PIXELS = 2**26  # of a whole photo resized; of thin strips only what is kept is resized
FILTERS = {"pillow_bicubic": Resampling.BICUBIC, "pillow_bilinear": Resampling.BILINEAR}


class TowerInput(InputFormat, Protocol):
    """A tower's input, as `ClipTower` in a bundle's manifest describes it."""

    @property
    def resize(self) -> str:
        """Either "shortest_side", with a crop from the middle, or "squash"."""
        ...

    @property
    def interpolation(self) -> str:
        """Either "pillow_bicubic" or "pillow_bilinear"."""
        ...


def whole_input(image: NDArray[np.uint8], tower: TowerInput) -> NDArray[np.float32]:
    """Prepare a whole photo, HWC uint8 RGB, as the tower was trained to see it: 3xSxS float32."""
    if tower.resize == "squash":
        return squashed_input(image, tower)
    side, picture = tower.image_size, Image.fromarray(image)
    shorter = min(picture.size)
    width, height = (
        side if edge == shorter else int(side * edge / shorter) for edge in picture.size
    )
    left, top = round((width - side) / 2), round((height - side) / 2)
    filtering = FILTERS[tower.interpolation]
    if width * height <= MOST_PIXELS:
        resized = picture.resize((width, height), filtering)
        return _normalised(resized.crop((left, top, left + side, top + side)), tower)
    # Nearly the same pixels: a strip a pixel wide would become gigabytes otherwise.
    across, down = picture.size[0] / width, picture.size[1] / height
    kept = (left * across, top * down, (left + side) * across, (top + side) * down)
    return _normalised(picture.resize((side, side), filtering, box=kept), tower)


def squashed_input(image: NDArray[np.uint8], tower: TowerInput) -> NDArray[np.float32]:
    """Resize all of an image, HWC uint8 RGB, to the tower's square: 3xSxS float32."""
    side = tower.image_size
    filtering = FILTERS[tower.interpolation]
    return _normalised(Image.fromarray(image).resize((side, side), filtering), tower)


def _normalised(picture: Image.Image, tower: TowerInput) -> NDArray[np.float32]:
    return np.asarray(normalise(np.asarray(picture, np.uint8), tower)[0])


def square_window(
    box: NDArray[np.floating], margin: float, size: tuple[int, int]
) -> tuple[slice, slice]:
    """Return the rows and columns of a square around a `box`, XYXY in pixels, of an image.

    The square's side is the box's longer one, with `margin` of it added at both ends; it keeps the
    box's middle, or moves as far as the edges of the image ask for, whose `size` is (h, w). Where
    it is larger than the image, it has all of that side. A box without a pixel in the image gives
    the whole image.
    """
    height, width = size
    x0, y0, x1, y1 = (float(edge) for edge in box)
    if min(x1, width) <= max(x0, 0) or min(y1, height) <= max(y0, 0):
        return slice(0, height), slice(0, width)
    side = math.ceil(max(x1 - x0, y1 - y0) * (1 + 2 * margin))
    return _centred(y0, y1, side, height), _centred(x0, x1, side, width)


def _centred(low: float, high: float, length: int, limit: int) -> slice:
    """Centre `length` pixels on [low, high] within [0, limit]."""
    length = min(length, limit)
    start = round((low + high - length) / 2)
    start = min(max(start, 0), limit - length)
    return slice(start, start + length)


def masked(
    crop: NDArray[np.uint8], mask: NDArray[np.bool_], tower: TowerInput
) -> NDArray[np.uint8]:
    """Paint what is outside of an HxW `mask` with the tower's mean colour: a new HWC image."""
    colour = np.rint(tower.mean).astype(np.uint8)
    return np.where(mask[..., None], crop, colour)
