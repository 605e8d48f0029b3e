"""Text on pictures: captions on coloured chips, drawn with Pillow's own TrueType font.

OpenCV's fonts know ASCII only; Pillow's covers Latin scripts, and other letters show as boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
DARK: Colour = (24, 24, 27)
MAX_LETTERS = 40


@dataclass(frozen=True)
class Label:
    """A text around `spot`, (x, y) in pixels, on a chip of `colour`.

    Without a colour there is no chip: white letters that start at `spot`.
    """

    text: str
    spot: tuple[float, float]
    colour: Colour | None


def font_size(height: int, width: int) -> int:
    """Choose the size of letters, in pixels, for an image of this size."""
    return int(np.clip(min(height, width) / 26, 11, 48))


@lru_cache(maxsize=8)
def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Give Pillow's own font with letters of `size` pixels."""
    return ImageFont.load_default(size)


def write_labels(
    image: NDArray[np.uint8],
    labels: Sequence[Label],
    note: str | None = None,
    letters: int | None = None,
) -> NDArray[np.uint8]:
    """Write labels on an HWC uint8 RGB image, and `note` as a band along its lower edge.

    `letters`: their size in pixels; None for what suits the image. Empty texts get no chip.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = load_font(letters or font_size(picture.height, picture.width))
    for label in labels:
        if label.text:
            _write_chip(draw, label, font)
    if note:
        _write_band(draw, note, font)
    return np.array(picture, np.uint8)


def shorten(text: str, most: int = MAX_LETTERS) -> str:
    """Bring `text` to one line of at most `most` letters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def ink_on(colour: Colour) -> Colour:
    """Choose dark or white letters, whichever reads better on `colour` (Rec. 601 luma)."""
    red, green, blue = colour
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else WHITE


def _write_chip(
    draw: ImageDraw.ImageDraw, label: Label, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    text = shorten(label.text)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = max(2, (bottom - top) // 4)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    canvas_width, canvas_height = draw.im.size
    start = label.spot[0] - (width / 2 if label.colour else 0)
    x = max(0, min(start, canvas_width - width))
    y = max(0, min(label.spot[1] - height / 2, canvas_height - height))
    ink = WHITE
    if label.colour:
        ink = ink_on(label.colour)
        draw.rounded_rectangle((x, y, x + width, y + height), radius=pad, fill=label.colour)
    draw.text((x + pad - left, y + pad - top), text, font=font, fill=ink)


def _write_band(
    draw: ImageDraw.ImageDraw, note: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), note, font=font)
    width, height = draw.im.size
    pad = max(2, (bottom - top) // 3)
    band = bottom - top + 2 * pad
    draw.rectangle((0, height - band, width, height), fill=(185, 28, 28))
    x = (width - (right - left)) / 2 - left
    draw.text((x, height - band + pad - top), note, font=font, fill=WHITE)
