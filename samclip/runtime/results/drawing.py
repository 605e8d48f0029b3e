"""Pictures of results, for people: overlays of masks, label maps and bars, and their files.

Images are HWC uint8 RGB, [0, 255]; every function returns a new array. Texts are drawn in the font
of `lettering`; letters that it lacks are written as escapes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from samclip.disk.partial_files import result_file
from samclip.errors import ImageError, InputError, brief
from samclip.runtime.pixels.arrays import as_array
from samclip.runtime.pixels.mask_ops import PackedMasks, mask_extent
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.captions import Label, font_size, write_labels
from samclip.runtime.results.lettering import MAX_LETTERS
from samclip.runtime.results.own_pictures import save_options
from samclip.runtime.results.palette import DARK, WHITE, Colour, colour

Picture = NDArray[np.uint8]
FOREGROUND: Colour = (34, 197, 94)
BACKGROUND: Colour = (239, 68, 68)
FILL = 0.45  # share of the mask's colour in a filled pixel
CROWD = 12  # masks; in pictures of more, small ones get no caption
ALIKE = 3  # captions of one text in a crowd
SMALL = 0.004  # share of the picture's pixels that a mask in a crowd needs for a caption
UNTRAINED_NOTE = "CLIP head untrained: names mean nothing"
NAME_LETTERS = 30  # of a name before a number
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LONGEST_SIDES = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}  # pixels; libjpeg's, libwebp's


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

    Large masks are drawn first, and a pixel has the colour of the smallest mask around it. A
    caption may be empty. Where there are more than `CROWD` masks, only the largest `ALIKE` of those
    with one caption get it, and only where it fits inside. `tints`: the masks' colours, None for a
    different one each; `letters`: the size of letters in pixels, None for one that suits the image.
    """
    canvas = image.copy()
    labels = []
    areas = masks.areas()
    crowded = len(masks) > CROWD
    least = SMALL * canvas[..., 0].size if crowded else 1
    written: Counter[str] = Counter()
    for index in np.argsort(-areas, kind="stable").tolist():
        mask = masks.unpack(index)
        tint = colour(index) if tints is None else tints[index]
        if areas[index]:
            _paint(canvas, image, mask, tint)
        text = captions[index]
        if areas[index] >= least and text and not (crowded and written[text] >= ALIKE):
            written[text] += 1
            labels.append(Label.inside(mask, text, tint, strictly=crowded))
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
    found, areas = np.unique(labels[labels >= 0], return_counts=True)
    for index in found[np.argsort(-areas, kind="stable")].tolist():
        mask = labels == index
        tint = colour(index) if tints is None else tints[index]
        _paint(canvas, image, mask, tint)
        chips.append(Label.inside(mask, names[index], tint))
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


def save_picture(picture: Picture, path: str | os.PathLike[str]) -> Path:
    """Write an HWC uint8 RGB array as PNG, JPEG or WebP, chosen by the suffix; returns the path.

    The file is complete or absent: it is written next to its target and then renamed over it.
    Raises ImageError for another suffix, InputError for what is not a path, WriteError when the
    disk refuses.
    """
    target = as_path(path, "path")
    kind = FORMATS.get(target.suffix.lower())
    if kind is None:
        raise ImageError(
            f"cannot save {target.name!r}: use a name that ends in .png, .jpg or .webp."
        )
    if max(picture.shape[:2]) > LONGEST_SIDES[kind]:
        raise ImageError(
            f"cannot save {target.name!r}: {kind} holds at most {LONGEST_SIDES[kind]:,} pixels a "
            f"side; got (h, w) = {picture.shape[:2]}. Use a name that ends in .png."
        )
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


def shorten(text: str, most: int = MAX_LETTERS) -> str:
    """Cut `text` to one line of at most `most` letters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _paint(canvas: Picture, image: Picture, mask: NDArray[np.bool_], tint: Colour) -> None:
    """Fill the mask with `tint`, half transparent over the image, and outline it."""
    x0, y0, x1, y1 = mask_extent(mask)
    part = mask[y0 : y1 + 1, x0 : x1 + 1]
    window = (slice(y0, y1 + 1), slice(x0, x1 + 1))
    canvas[window][part] = _blend(image[window][part], tint, FILL)
    contours, _ = cv2.findContours(
        part.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x0, y0)
    )
    cv2.drawContours(canvas, contours, -1, tint, _line_width(canvas), cv2.LINE_AA)


def _blend(pixels: Picture, tint: Colour, share: float) -> Picture:
    return np.asarray(pixels * (1 - share) + np.asarray(tint) * share + 0.5, np.uint8)


def _line_width(canvas: Picture) -> int:
    return max(1, int(min(canvas.shape[:2]) / 350 + 0.5))


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
