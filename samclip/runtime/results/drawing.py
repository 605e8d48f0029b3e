"""Pictures of results, for people: overlays of masks, label maps, bars and captions.

Images are HWC uint8 RGB, [0, 255]; every function returns a new array. Texts are drawn in the font
of `lettering`; letters that it lacks are written as escapes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from samclip.disk.partial_files import result_file
from samclip.errors import ImageError, InputError, brief
from samclip.runtime.pixels.arrays import as_array
from samclip.runtime.pixels.mask_ops import PackedMasks, mask_extent
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.lettering import MAX_LETTERS, Font, load_font, write_caption
from samclip.runtime.results.own_pictures import save_options

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]
WHITE: Colour = (255, 255, 255)
DARK: Colour = (24, 24, 27)
FOREGROUND: Colour = (34, 197, 94)
BACKGROUND: Colour = (239, 68, 68)
FILL = 0.45  # share of the mask's colour in a filled pixel
UNTRAINED_NOTE = "CLIP head untrained: names mean nothing"
NAME_LETTERS = 30  # of a name before a number
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@dataclass(frozen=True)
class Label:
    """A text on a chip of `colour`, centred on `spot`, (x, y) in pixels.

    Without a colour there is no chip: the text is white and starts at `spot`.
    """

    text: str
    spot: tuple[float, float]
    colour: Colour | None


def draw_masks(
    image: Picture,
    masks: PackedMasks,
    captions: Sequence[str],
    prompts: Iterable[Prompt] = (),
    note: str | None = None,
    tints: Sequence[Colour] | None = None,
    letters: int | None = None,
) -> Picture:
    """Fill and outline N masks, mark the prompts, write one caption on each mask.

    Large masks are drawn first, so that small ones stay visible. `tints`: the masks' colours, None
    for a different one each; `letters`: the size of letters in pixels, None for one that suits the
    image.
    """
    canvas = image.copy()
    labels = []
    for index in np.argsort(-masks.areas(), kind="stable").tolist():
        mask = masks.unpack(index)
        tint = colour(index) if tints is None else tints[index]
        if mask.any():
            _paint(canvas, mask, tint)
            labels.append(Label(captions[index], _deepest_point(mask), tint))
    for prompt in prompts:
        _mark_prompt(canvas, prompt)
    return write_labels(canvas, labels, note, letters)


def draw_label_map(
    image: Picture,
    labels: NDArray[np.int32],
    names: Sequence[str],
    note: str | None = None,
    tints: Sequence[Colour] | None = None,
    letters: int | None = None,
) -> Picture:
    """Colour an HxW map of indices into `names`, -1 for none, and write each name once.

    `tints`: a colour for each name, None for different ones; `letters`: as in `draw_masks`.
    """
    canvas = image.copy()
    chips = []
    for index in np.unique(labels[labels >= 0]).tolist():
        mask = labels == index
        tint = colour(index) if tints is None else tints[index]
        _paint(canvas, mask, tint)
        chips.append(Label(names[index], _deepest_point(mask), tint))
    return write_labels(canvas, chips, note, letters)


def draw_bars(
    image: Picture, ranked: Sequence[tuple[str, float, str]], note: str | None = None
) -> Picture:
    """Draw names as bars in the upper left corner, in the order given.

    `ranked`: each name, its probability in [0, 1], and that as text.
    """
    canvas = image.copy()
    size = font_size(*canvas.shape[:2])
    row_height = round(size * 1.9)
    full = canvas.shape[1] * 0.6
    labels = []
    for row, (name, probability, text) in enumerate(ranked):
        y0 = size // 2 + row * row_height
        y1 = size // 2 + (row + 1) * row_height - size // 4
        band = canvas[y0:y1, size // 2 : size // 2 + round(full)]
        band[:] = _blend(band, DARK, 0.6)
        bar = canvas[y0:y1, size // 2 : size // 2 + round(full * probability)]
        bar[:] = _blend(bar, colour(row), 0.65)
        start = (size, (y0 + y1) / 2)
        labels.append(Label(f"{shorten(name, NAME_LETTERS)} {text}", start, None))
    return write_labels(canvas, labels, note)


def write_labels(
    image: NDArray[np.uint8],
    labels: Sequence[Label],
    note: str | None = None,
    letters: int | None = None,
) -> NDArray[np.uint8]:
    """Write labels on an image, and `note` on a band along its lower edge.

    `letters`: the size of letters in pixels, None for one that suits the image. Empty texts get no
    chip.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = load_font(letters or font_size(picture.height, picture.width))
    for label in labels:
        if label.text.strip():
            _write_chip(draw, label, font)
    if note:
        _write_band(draw, note, font)
    return np.array(picture, np.uint8)


def save_picture(picture: Picture, path: str | os.PathLike[str]) -> Path:
    """Write an HWC uint8 RGB array as PNG or JPEG, chosen by the suffix; returns the path.

    The file is complete or absent: it is written next to its target and then renamed over it.
    Raises ImageError for another suffix, InputError for what is not a path, WriteError when the
    disk refuses.
    """
    target = as_path(path, "path")
    kind = FORMATS.get(target.suffix.lower())
    if kind is None:
        raise ImageError(f"cannot save {target.name!r}: use a name that ends in .png or .jpg.")
    with result_file(target) as file:
        Image.fromarray(picture).save(file, kind, quality=92, **save_options(kind))
    return target


def as_path(value: str | os.PathLike[str], name: str) -> Path:
    """Return `value` as a path; InputError when it is not one."""
    try:
        path = Path(value)
    except TypeError as error:
        raise InputError(
            f"{name} must be a path, a str or os.PathLike; got {type(value).__name__}."
        ) from error
    if not os.fspath(value) or "\0" in str(path):
        raise InputError(f"{name} must name a file or folder; got {brief(value)}.")
    return path


def pick_image(given: ArrayLike | None, own: Picture) -> Picture:
    """Return `given`, or `own` when it is None; raises ImageError when the sizes differ."""
    if given is None:
        return own
    expected = f"HWC uint8 RGB of shape {own.shape}"
    image = as_array(given, "an image to draw on", expected, error=ImageError)
    if image.shape != own.shape or image.dtype != np.uint8:
        raise ImageError(
            f"an image to draw on must be {expected}; got {image.dtype} of shape {image.shape}."
        )
    return image


def colour(index: int) -> Colour:
    """Return the RGB colour of class or mask `index`; neighbouring indices differ widely.

    Hues step by the golden ratio; saturation and value change every few steps.
    """
    hue = (0.58 + index * 0.618033988749895) % 1.0
    saturation = (0.75, 0.55, 0.9)[index // 3 % 3]
    value = (0.95, 0.8)[index // 2 % 2]
    pixel = np.asarray([[[hue * 360, saturation, value]]], np.float32)
    red, green, blue = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] * 255
    return round(float(red)), round(float(green)), round(float(blue))


def ink_on(colour: Colour) -> Colour:
    """Return dark or white, whichever reads better on `colour` (Rec. 601 luma)."""
    red, green, blue = colour
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else WHITE


def shorten(text: str, most: int = MAX_LETTERS) -> str:
    """Cut `text` to one line of at most `most` letters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def font_size(height: int, width: int) -> int:
    """Return the size of letters, in pixels, that suits an image of this size."""
    return int(np.clip(min(height, width) / 26, 11, 48))


def _paint(canvas: Picture, mask: NDArray[np.bool_], tint: Colour) -> None:
    """Fill the mask with `tint`, half transparent, and outline it."""
    x0, y0, x1, y1 = mask_extent(mask)
    part = mask[y0 : y1 + 1, x0 : x1 + 1]
    view = canvas[y0 : y1 + 1, x0 : x1 + 1]
    view[part] = _blend(view[part], tint, FILL)
    contours, _ = cv2.findContours(
        part.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x0, y0)
    )
    cv2.drawContours(canvas, contours, -1, tint, _line_width(canvas), cv2.LINE_AA)


def _blend(pixels: Picture, tint: Colour, share: float) -> Picture:
    return np.asarray(pixels * (1 - share) + np.asarray(tint) * share + 0.5, np.uint8)


def _line_width(canvas: Picture) -> int:
    return max(1, int(min(canvas.shape[:2]) / 350 + 0.5))


def _deepest_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the (x, y) farthest from the mask's edge, a good place for its caption."""
    x0, y0, x1, y1 = mask_extent(mask)
    part = np.pad(mask[y0 : y1 + 1, x0 : x1 + 1], 1).astype(np.uint8)
    depth = cv2.distanceTransform(part, cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x0 + column - 1), float(y0 + row - 1)


def _mark_prompt(canvas: Picture, prompt: Prompt) -> None:
    """Draw the box, and the points as discs: green for foreground, red for background."""
    width = _line_width(canvas)
    if prompt.box is not None:
        x0, y0, x1, y1 = (round(edge) for edge in prompt.box.tolist())
        cv2.rectangle(canvas, (x0, y0), (x1, y1), WHITE, width + 2, cv2.LINE_AA)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), FOREGROUND, width, cv2.LINE_AA)
    for (x, y), label in zip(prompt.points.tolist(), prompt.labels.tolist(), strict=True):
        centre, radius = (round(x), round(y)), 3 * width + 2
        cv2.circle(canvas, centre, radius + width, WHITE, -1, cv2.LINE_AA)
        cv2.circle(canvas, centre, radius, FOREGROUND if label else BACKGROUND, -1, cv2.LINE_AA)


def _write_chip(draw: ImageDraw.ImageDraw, label: Label, font: Font) -> None:
    text = write_caption(label.text)
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


def _write_band(draw: ImageDraw.ImageDraw, note: str, font: Font) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), note, font=font)
    width, height = draw.im.size
    pad = max(2, (bottom - top) // 3)
    band = bottom - top + 2 * pad
    draw.rectangle((0, height - band, width, height), fill=(185, 28, 28))
    x = (width - (right - left)) / 2 - left
    draw.text((x, height - band + pad - top), note, font=font, fill=WHITE)
