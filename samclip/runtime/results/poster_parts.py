"""The strips of a poster: headings, ranked names, shares. All are HWC uint8 RGB arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from samclip.runtime.results.captions import Colour, ink_on, load_font, shorten

Strip = NDArray[np.uint8]
Entry = tuple[str, float, Colour]  # name, share in [0, 1], colour

WIDTH, MARGIN, GAP = 1200, 36, 28
INNER = WIDTH - 2 * MARGIN
LARGE, TEXT, SMALL = 58, 40, 34  # heights of letters
BAR, MIN_ROW, MAX_ROW = 18, 66, 86
LEAST_SHARE = 0.005  # below it a share would be written as 0 %
NAME_LETTERS = 22  # of a name in the ranking
PAPER: Colour = (255, 255, 255)
INK: Colour = (24, 24, 27)
GREY: Colour = (92, 92, 102)
TRACK: Colour = (228, 228, 231)


def blank(height: int, width: int = WIDTH) -> Strip:
    """Make an empty strip."""
    return np.full((height, width, 3), PAPER, np.uint8)


def framed(strip: Strip) -> Strip:
    """Add the margins at the sides and the gap below."""
    picture = blank(strip.shape[0] + GAP)
    picture[: strip.shape[0], MARGIN : MARGIN + strip.shape[1]] = strip
    return picture


def title_line(text: str) -> Strip:
    """Write the line above all."""
    picture, draw = _canvas(LARGE + MARGIN + GAP // 2)
    draw.text((0, MARGIN), shorten(text, 38), INK, load_font(LARGE))
    return np.array(picture)


def heading(name: str, text: str = "", width: int = INNER) -> Strip:
    """Write a task's name on a dark chip, and what it does beside it."""
    picture, draw = _canvas(TEXT + 24, width)
    end = _chip(draw, name, (0, 0), INK)
    draw.text((end + GAP, _middle(draw, SMALL, TEXT + 24)), text, GREY, load_font(SMALL))
    return np.array(picture)


def draw_ranking(entries: Sequence[Entry], height: int, width: int) -> Strip:
    """Draw names with their shares as bars below each other; higher if they need more room."""
    row = min(max(height // max(1, len(entries)), MIN_ROW), MAX_ROW)
    picture, draw = _canvas(max(height, row * len(entries)), width)
    font = load_font(SMALL)
    for index, (name, share, tint) in enumerate(entries):
        y, number = index * row, f"{share:.0%}"
        draw.text((0, y), shorten(name, NAME_LETTERS), INK, font)
        draw.text((width - draw.textlength(number, font=font), y), number, GREY, font)
        top = y + row - BAR - BAR // 2
        draw.rounded_rectangle((0, top, width - 1, top + BAR), BAR // 2, fill=TRACK)
        end = max(BAR, round((width - 1) * share))
        if share >= LEAST_SHARE:
            draw.rounded_rectangle((0, top, end, top + BAR), BAR // 2, fill=tint)
    return np.array(picture)


def draw_shares(entries: Sequence[Entry]) -> Strip:
    """Draw names with their shares as chips, as many in a line as fit."""
    height, texts = TEXT + 24, [f"{shorten(name, 30)} {share:.0%}" for name, share, _ in entries]
    _, ruler = _canvas(1)
    spots, x, y = [], 0.0, 0
    for text in texts:
        width = _chip_width(ruler, text)
        if x + width > INNER and x > 0:
            x, y = 0.0, y + height + GAP // 2
        spots.append((x, float(y)))
        x += width + GAP // 2
    picture, draw = _canvas(y + height)
    for text, spot, (_, _, tint) in zip(texts, spots, entries, strict=True):
        _chip(draw, text, spot, tint)
    return np.array(picture)


def _canvas(height: int, width: int = INNER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.fromarray(blank(height, width))
    return picture, ImageDraw.Draw(picture)


def _chip_width(draw: ImageDraw.ImageDraw, text: str) -> float:
    return float(draw.textlength(text, font=load_font(SMALL))) + TEXT


def _chip(draw: ImageDraw.ImageDraw, text: str, spot: tuple[float, float], tint: Colour) -> float:
    """Write a text on a chip whose upper left corner is `spot`; gives where it ends, x."""
    height, end = TEXT + 24, spot[0] + _chip_width(draw, text)
    draw.rounded_rectangle((*spot, end, spot[1] + height - 1), height // 4, fill=tint)
    top = spot[1] + _middle(draw, SMALL, height)
    draw.text((spot[0] + TEXT / 2, top), text, ink_on(tint), load_font(SMALL))
    return end


def _middle(draw: ImageDraw.ImageDraw, letters: int, height: int) -> float:
    """Tell where a text begins, y, that stands in the middle of a strip."""
    _, top, _, bottom = draw.textbbox((0, 0), "Xg", font=load_font(letters))
    return float((height - (bottom - top)) / 2 - top)
