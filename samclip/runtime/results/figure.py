"""Figures: a picture of an answer with a legend below it, on white paper.

Pictures are HWC uint8 RGB, [0, 255]. Small images are enlarged first, pixel by pixel, so that
captions fit on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.results.captions import WARNING, write_labels
from samclip.runtime.results.drawing import UNTRAINED_NOTE
from samclip.runtime.results.lettering import Font, load_font, write_out
from samclip.runtime.results.palette import DARK, WHITE, Colour

Picture = NDArray[np.uint8]
Pixel = TypeVar("Pixel", bound=np.generic)
LEAST_SIDE = 320  # pixels, to which images of less than half of that are enlarged
LEAST_WIDTH = 240  # pixels, of the paper
LETTERS = (13, 72)  # pixels: the least and the greatest height
LETTERS_ACROSS = 46  # letters' heights in the width of a figure
MOST_ENTRIES = 30
NAME_LETTERS = 32
GREY: Colour = (92, 92, 102)


@dataclass(frozen=True)
class Entry:
    """A line of a legend: a name, a number about it as text, and its colour.

    `share`: for a bar of that part of the full length, in [0, 1]; None for a plain entry.
    """

    name: str
    number: str
    colour: Colour
    share: float | None = None


class Frame:
    """What an answer is drawn on: the image, or in a figure with a legend the enlarged image."""

    def __init__(self, image: Picture, legend: bool) -> None:
        """Prepare an image; it is enlarged `factor` times, 1 without a legend."""
        longest = max(image.shape[:2])
        self.factor = max(1, LEAST_SIDE // longest) if legend else 1
        self.image = self.enlarge(image)
        self._legend = legend

    def enlarge(self, pixels: NDArray[Pixel]) -> NDArray[Pixel]:
        """Repeat each pixel of HxW or HxWxC, `factor` times across and down."""
        if self.factor == 1:
            return pixels
        return pixels.repeat(self.factor, axis=0).repeat(self.factor, axis=1)

    def enlarge_masks(self, masks: PackedMasks) -> PackedMasks:
        """Return the masks for the enlarged image."""
        if self.factor == 1:
            return masks
        return PackedMasks.pack(map(self.enlarge, masks), self.image.shape[:2])

    def finish(self, picture: Picture, entries: Sequence[Entry], is_trained: bool) -> Picture:
        """Add what belongs to a picture: its legend, and a note about an untrained head."""
        note = None if is_trained else UNTRAINED_NOTE
        if self._legend:
            return make_figure(picture, entries, note)
        return picture if note is None else write_labels(picture, (), note)


def make_figure(picture: Picture, entries: Sequence[Entry], note: str | None = None) -> Picture:
    """Put a legend, and `note` in red, below a picture; without both it is returned as it is.

    Entries stand in columns, as many as fit; those with a share are bars below each other. After
    the first `MOST_ENTRIES` the number of the others is written.
    """
    if not entries and not note:
        return picture
    width = max(picture.shape[1], LEAST_WIDTH)
    letters = int(np.clip(min(width, 3 * picture.shape[0]) / LETTERS_ACROSS, *LETTERS))
    strips = [_widen(picture, width)]
    if any(entry.share is not None for entry in entries):
        strips.append(_draw_bars(entries, width, letters))
    elif entries:
        strips.append(_draw_columns(entries, width, letters))
    if note:
        strips.append(_draw_note(note, width, letters))
    return np.concatenate(strips)


def shrink(picture: Picture, most: int) -> Picture:
    """Scale a picture down so that neither side is longer than `most` pixels."""
    height, width = picture.shape[:2]
    factor = most / max(height, width)
    if factor >= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _widen(picture: Picture, width: int) -> Picture:
    """Put a narrow picture in the middle of paper of this width."""
    paper = np.full((picture.shape[0], width, 3), WHITE, np.uint8)
    left = (width - picture.shape[1]) // 2
    paper[:, left : left + picture.shape[1]] = picture
    return paper


def _draw_columns(entries: Sequence[Entry], width: int, letters: int) -> Picture:
    """Draw entries with swatches in columns of one width, from left to right."""
    font = load_font(letters)
    shown = list(entries[:MOST_ENTRIES])
    number = max(font.getlength(entry.number) for entry in shown)
    room = width - letters * 5 - number
    texts = [_fit(write_out(entry.name, NAME_LETTERS), font, room) for entry in shown]
    more = len(entries) - len(shown)
    pad, row = letters, round(letters * 1.7)  # pixels
    needed = [
        letters * 1.6 + font.getlength(text) + (letters * 0.5 + font.getlength(entry.number))
        for text, entry in zip(texts, shown, strict=True)
    ]
    column = int(max(needed) + letters * 1.4)
    across = max(1, min(len(shown), (width - 2 * pad + letters) // column))
    lines = -(-len(shown) // across)
    height = lines * row + pad + (row if more else 0)
    paper = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(paper)
    for place, (entry, text) in enumerate(zip(shown, texts, strict=True)):
        x = pad + place % across * column
        y = pad // 2 + place // across * row
        box = (x, y + row * 0.5 - letters * 0.5, x + letters, y + row * 0.5 + letters * 0.5)
        draw.rounded_rectangle(box, letters // 5, fill=entry.colour, outline=DARK, width=1)
        middle = y + row / 2
        draw.text((x + letters * 1.6, middle), text, DARK, font, anchor="lm")
        end = x + letters * 2.1 + font.getlength(text)
        draw.text((end, middle), entry.number, GREY, font, anchor="lm")
    if more:
        last = pad / 2 + lines * row + row / 2
        draw.text((pad, last), f"and {more:,} more", GREY, font, anchor="lm")
    return np.array(paper, np.uint8)


def _draw_bars(entries: Sequence[Entry], width: int, letters: int) -> Picture:
    """Draw entries as bars below each other, names at the left and numbers at the right."""
    font = load_font(letters)
    pad, row = letters, round(letters * 1.8)
    texts = [write_out(entry.name, NAME_LETTERS) for entry in entries]
    names = min(max(font.getlength(text) for text in texts), width * 0.45)
    numbers = max(font.getlength(entry.number) for entry in entries)
    start, end = pad + names + letters, width - pad - numbers - letters
    paper = Image.new("RGB", (width, len(entries) * row + pad), WHITE)
    draw = ImageDraw.Draw(paper)
    for place, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        middle = pad / 2 + (place + 0.5) * row
        draw.text((pad + names, middle), _fit(text, font, names), DARK, font, anchor="rm")
        draw.text((width - pad, middle), entry.number, GREY, font, anchor="rm")
        half = letters * 0.4
        draw.rectangle((start, middle - half, end, middle + half), fill=(232, 232, 235))
        full = start + (end - start) * min(1.0, max(0.0, entry.share or 0.0))
        if full - start >= 1:
            draw.rectangle((start, middle - half, full, middle + half), fill=entry.colour)
    return np.array(paper, np.uint8)


def _fit(text: str, font: Font, room: float) -> str:
    """Cut a text so that it is at most `room` pixels long."""
    fitted = text
    while font.getlength(fitted) > room and len(fitted) > 1:
        fitted = fitted.rstrip("…")[:-1] + "…"
    return fitted


def _draw_note(note: str, width: int, letters: int) -> Picture:
    """Draw a line of white on red, in letters that fit the width."""
    font = load_font(letters)
    while font.getlength(note) > width - letters and letters > 6:
        letters -= 1
        font = load_font(letters)
    paper = Image.new("RGB", (width, letters * 2), WARNING)
    ImageDraw.Draw(paper).text((width / 2, letters), note, WHITE, font, anchor="mm")
    return np.array(paper, np.uint8)
