"""Captions of masks and regions: texts on chips, placed so that all of them can be read.

A chip stands inside its region where it fits; else above or below it, so that it does not hide
what it names. A caption that would cover another one is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from samclip.errors import InputError, brief
from samclip.runtime.pixels.mask_ops import mask_extent
from samclip.runtime.results.lettering import Font, load_font, write_caption
from samclip.runtime.results.palette import WHITE, Colour, ink_on

Captions = Literal["none", "names", "all"]
Rectangle = tuple[float, float, float, float]  # XYXY
WARNING: Colour = (185, 28, 28)
MOST_OF_HEIGHT = 0.5  # of the picture: a higher chip would hide it
LEAST_LETTERS, MOST_LETTERS = 11, 160  # pixels


@dataclass(frozen=True)
class Label:
    """A text on a chip of `colour`, centred on `spot`, (x, y) in pixels.

    Without a colour there is no chip: the text is white and starts at `spot`. `around`: the box of
    what the text names, XYXY; `depth`: the distance from `spot` to its edge, None where the chip
    may stand over the edge; `strictly`: whether the chip is left out where it does not fit inside.
    """

    text: str
    spot: tuple[float, float]
    colour: Colour | None
    around: Rectangle | None = None
    depth: float | None = None
    strictly: bool = False

    @staticmethod
    def inside(
        mask: NDArray[np.bool_], text: str, colour: Colour, *, strictly: bool = False
    ) -> Label:
        """Return a label at the pixel of an HxW mask that is farthest from the mask's edge."""
        x0, y0, x1, y1 = mask_extent(mask)
        part = np.pad(mask[y0 : y1 + 1, x0 : x1 + 1], 1).astype(np.uint8)
        depth = cv2.distanceTransform(part, cv2.DIST_L2, 3)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        spot = (float(x0 + column - 1), float(y0 + row - 1))
        around = (float(x0), float(y0), float(x1 + 1), float(y1 + 1))
        return Label(text, spot, colour, around, float(depth[row, column]), strictly)


def write_labels(
    image: NDArray[np.uint8],
    labels: Sequence[Label],
    note: str | None = None,
    letters: int | None = None,
) -> NDArray[np.uint8]:
    """Write labels on an image, the most important ones first, and `note` along its lower edge.

    `letters`: the size of letters in pixels, None for one that suits the image. Empty texts get no
    chip, nor do texts that do not fit into the image, or for which no place is free.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = load_font(letters or font_size(picture.height, picture.width))
    taken: list[Rectangle] = []
    for label in labels:
        if label.text.strip():
            _write_chip(draw, label, font, taken)
    if note:
        _write_band(draw, note, font)
    return np.array(picture, np.uint8)


def check_captions(given: Any) -> Captions:
    """Return the captions asked for; InputError when it is none of the three."""
    if not (isinstance(given, str) and given in get_args(Captions)):
        raise InputError(f"captions must be 'none', 'names' or 'all'; got {brief(given)}.")
    return cast(Captions, given)


def font_size(height: int, width: int) -> int:
    """Return the size of letters, in pixels, that suits an image of this size."""
    return int(np.clip(min(height, width) / 26, LEAST_LETTERS, MOST_LETTERS))


def _write_chip(
    draw: ImageDraw.ImageDraw, label: Label, font: Font, taken: list[Rectangle]
) -> None:
    """Write a label where a place is free, and add that to `taken`."""
    text = write_caption(label.text)
    left, _, right, _ = draw.textbbox((0, 0), text, font=font)
    _, top, _, bottom = draw.textbbox((0, 0), "Xg", font=font)  # chips of one height
    pad = max(2, (bottom - top) // 4)
    size = (right - left + 2 * pad, bottom - top + 2 * pad)
    if label.colour is None:
        spot = (label.spot[0] + pad - left, label.spot[1] - size[1] / 2 + pad - top)
        draw.text(spot, text, font=font, fill=WHITE)
        return
    canvas = draw.im.size
    if size[0] > canvas[0] or size[1] > canvas[1] * MOST_OF_HEIGHT:
        return
    for place in _places(label, size, canvas):
        if not any(_overlap(place, other) for other in taken):
            break
    else:
        return
    taken.append(place)
    draw.rounded_rectangle(place, radius=pad, fill=label.colour)
    spot = (place[0] + pad - left, place[1] + pad - top)
    draw.text(spot, text, font=font, fill=ink_on(label.colour))


def _places(
    label: Label, size: tuple[float, float], canvas: tuple[int, int]
) -> Iterator[Rectangle]:
    """Yield places for a chip of `size` (w, h) in the order of preference, all in the picture."""
    width, height = size
    x, y = label.spot
    tops = [y - height / 2]
    if label.around is not None and label.depth is not None:
        fits = height <= 2 * label.depth and width <= label.around[2] - label.around[0]
        if label.strictly:
            tops = tops if fits else []
        else:
            beside = [label.around[1] - height - 1, label.around[3] + 1]
            beside = [top for top in beside if 0 <= top <= canvas[1] - height]
            shifted = [y - height * 1.6, y + height * 0.6]
            tops = tops + shifted + beside if fits else beside + tops
    for top in tops:
        start = max(0.0, min(x - width / 2, canvas[0] - width))
        upper = max(0.0, min(top, canvas[1] - height))
        yield start, upper, start + width, upper + height


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    return not apart


def _write_band(draw: ImageDraw.ImageDraw, note: str, font: Font) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), note, font=font)
    width, height = draw.im.size
    pad = max(2, (bottom - top) // 3)
    band = bottom - top + 2 * pad
    draw.rectangle((0, height - band, width, height), fill=WARNING)
    x = max(pad, (width - (right - left)) / 2) - left
    draw.text((x, height - band + pad - top), note, font=font, fill=WHITE)
