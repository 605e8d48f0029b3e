"""One picture of three answers about one photo, to be read at the width of a phone.

A name has one colour in all three. Lengths are in pixels of the picture, which is three times as
wide as a phone's page. Images are HWC uint8 RGB, [0, 255].

The strips of a poster: headings, ranked names, shares. All are HWC uint8 RGB arrays.

The answers of all three tasks about one photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from samclip.runtime.pixels.masks import PackedMasks
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.classification import Classification, SemanticMap
from samclip.runtime.results.drawing import (
    UNTRAINED_NOTE,
    Colour,
    Picture,
    colour,
    draw_label_map,
    draw_masks,
    ink_on,
    load_font,
    shorten,
    write_labels,
)
from samclip.runtime.results.masks import Masks

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


Palette = dict[str, Colour]

SHOWN = 5  # names of the classification
LEAST_NAMED = 0.01  # of the photo: a smaller patch has its colour, and no name on it


def draw_poster(
    title: str, classification: Classification, masks: Masks, semantic: SemanticMap
) -> Picture:
    """Draw a photo's classification, masks and label map below each other, 1200 pixels wide.

    Of a portrait, masks and map stand side by side. `title` is the line above all.
    """
    palette = _palette(classification.names, masks.vocabulary or (), semantic.names)
    height, width = classification.image.shape[:2]
    columns = 1 if width >= height else 2
    side = (INNER - GAP * (columns - 1)) // columns
    photo = _fit(classification.image, (INNER - GAP) // 2)
    ranked = [(name, share, palette[name]) for name, share in classification.top(SHOWN)]
    ranking = draw_ranking(ranked, photo.shape[0], INNER - GAP - photo.shape[1])
    shares = shares_of(semantic).items()
    found, mapped = _draw_masks(masks, palette, side), _draw_map(semantic, palette, side)
    rows = [
        title_line(title),
        heading("classify", "which name fits the photo"),
        _beside(photo, ranking),
        *(_below if columns == 1 else _abreast)(found, mapped),
        draw_shares(
            [(name, share, palette[name]) for name, share in shares if share >= LEAST_SHARE]
        ),
    ]
    picture = np.concatenate([framed(row) for row in rows])
    trained = classification.trained_head and semantic.trained_head
    return picture if trained else _noted(picture)


def _below(found: Picture, mapped: Picture) -> tuple[Picture, ...]:
    segment = heading("segment", "what a box or a point shows, and its name")
    return segment, found, heading("semantic", "a name for every pixel"), mapped


def _abreast(found: Picture, mapped: Picture) -> tuple[Picture, ...]:
    headings = (heading(name, width=found.shape[1]) for name in ("segment", "semantic"))
    return _beside(*headings), _beside(found, mapped)


def _palette(*vocabularies: Sequence[str]) -> Palette:
    """Give every name a colour, the same wherever it stands."""
    names = dict.fromkeys(name for vocabulary in vocabularies for name in vocabulary)
    return {name: colour(index) for index, name in enumerate(names)}


def _draw_masks(masks: Masks, palette: Palette, width: int) -> Picture:
    image = _fit(masks.image, width)
    size, factor = (image.shape[0], image.shape[1]), width / masks.image.shape[1]
    packed = PackedMasks.pack((_enlarge(mask, size) > 0.5 for mask in masks.packed), size)
    prompts = [_scaled(prompt, factor) for prompt in masks.prompts]
    tints = None if masks.names is None else [palette[name] for name in masks.names]
    return draw_masks(image, packed, masks.captions(), prompts, tints=tints, letters=TEXT)


def _draw_map(semantic: SemanticMap, palette: Palette, width: int) -> Picture:
    """Draw the map, its borders smoothed: each pixel has the name that covers most of it."""
    image = _fit(semantic.image, width)
    present = np.unique(semantic.labels)
    size = (image.shape[0], image.shape[1])
    cover = [_enlarge(semantic.labels == index, size) for index in present]
    labels = present[np.argmax(cover, axis=0)].astype(np.int32)  # KxHxW -> HxW
    tints = [palette[name] for name in semantic.names]
    shares = shares_of(semantic)
    names = [name if shares.get(name, 0) >= LEAST_NAMED else "" for name in semantic.names]
    return draw_label_map(image, labels, names, tints=tints, letters=TEXT)


def shares_of(semantic: SemanticMap) -> dict[str, float]:
    """Give the share of the pixels that each name has, in [0, 1], the largest first."""
    areas = dict(zip(semantic.names, semantic.areas.tolist(), strict=True))
    return {name: areas[name] / semantic.labels.size for name in semantic.present}


def _fit(image: Picture, width: int) -> Picture:
    """Bring an image to `width`."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrink = width < image.shape[1]
    return np.asarray(
        cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
        ),
        np.uint8,
    )


def _enlarge(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    """Give the share of each pixel of a picture of `size` (h, w) that an HxW mask covers."""
    shares = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(shares, np.float32)


def _scaled(prompt: Prompt, factor: float) -> Prompt:
    box = None if prompt.box is None else prompt.box * factor
    return replace(prompt, points=prompt.points * factor, box=box)


def _beside(left: Picture, right: Picture) -> Picture:
    """Put two pictures at the two ends of a strip that is as high as the higher one."""
    strip = blank(max(left.shape[0], right.shape[0]), INNER)
    strip[: left.shape[0], : left.shape[1]] = left
    strip[: right.shape[0], INNER - right.shape[1] :] = right
    return strip


def _noted(picture: Picture) -> Picture:
    return write_labels(np.concatenate([picture, blank(2 * TEXT)]), (), UNTRAINED_NOTE, TEXT)


TITLE = "One encoder pass, three answers"


@dataclass(frozen=True, eq=False, kw_only=True)
class Overview:
    """The answers of a poster: a classification, masks with names, and a label map."""

    classification: Classification
    masks: Masks
    semantic: SemanticMap

    @property
    def trained_head(self) -> bool:
        """Whether the names mean something."""
        return self.classification.trained_head

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels that each name has, in [0, 1], the largest first."""
        return shares_of(self.semantic)

    def draw(self) -> NDArray[np.uint8]:
        """Draw everything in one picture: HWC uint8 RGB, 1200 pixels wide."""
        return draw_poster(TITLE, self.classification, self.masks, self.semantic)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: each task's own, under its name."""
        return {
            "classify": self.classification.to_dict(),
            "segment": self.masks.to_dict(),
            "semantic": self.semantic.to_dict(),
        }
