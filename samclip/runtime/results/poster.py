"""The poster: one picture of three answers about one photo, to be read at the width of a phone.

It is stacked from strips: title, headings, ranked names, masks, map, shares. A name has the same
colour in all of them. Lengths are in pixels of the picture, which is three times as wide as a
phone's page. Images and strips are HWC uint8 RGB, [0, 255].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.results.captions import write_labels
from samclip.runtime.results.classification import Classification, SemanticMap
from samclip.runtime.results.drawing import UNTRAINED_NOTE, Picture, draw_label_map, draw_masks
from samclip.runtime.results.lettering import load_font, write_out
from samclip.runtime.results.masks import Masks
from samclip.runtime.results.palette import Colour, colour, ink_on
from samclip.runtime.results.shares import in_percent
from samclip.runtime.results.viewing import Viewable

Strip = NDArray[np.uint8]
Palette = dict[str, Colour]
Entry = tuple[str, float, str, Colour]  # name, share in [0, 1], the share as text, colour
TITLE = "One encoder pass, three answers"
WIDTH, MARGIN, GAP = 1200, 36, 28
INNER = WIDTH - 2 * MARGIN
LARGE, TEXT, SMALL = 58, 40, 34  # heights of letters
BAR, MIN_ROW, MAX_ROW = 18, 66, 86
SHOWN_NAMES = 5  # of the classification
LEAST_BAR = 0.005  # below it a bar would be shorter than its rounded end
LEAST_SHARE = 0.02  # of the photo, or probability: names with less are left out
NAME_LETTERS = 22  # of a name in the ranking
PAPER: Colour = (255, 255, 255)
INK: Colour = (24, 24, 27)
GREY: Colour = (92, 92, 102)
TRACK: Colour = (228, 228, 231)


def draw_poster(
    title: str, classification: Classification, masks: Masks, semantic: SemanticMap
) -> Picture:
    """Draw a photo's classification, masks and label map below each other, 1200 pixels wide.

    Masks and map of a portrait stand side by side. `title` is the first line.
    """
    vocabularies = (classification.names, masks.vocabulary or (), semantic.names)
    names = dict.fromkeys(name for vocabulary in vocabularies for name in vocabulary)
    palette = {name: colour(index) for index, name in enumerate(names)}

    photo = _resize_to_width(classification.image, (INNER - GAP) // 2)
    fitting = above_least(classification.top(len(classification.names)))
    ranked = [(*named, palette[named[0]]) for named in fitting[:SHOWN_NAMES]]
    ranking = draw_ranking(ranked, photo.shape[0], INNER - GAP - photo.shape[1])

    height, width = classification.image.shape[:2]
    is_portrait = height > width
    side = (INNER - GAP) // 2 if is_portrait else INNER
    found = _draw_masks(masks, palette, side)
    mapped = _draw_map(semantic, palette, side)
    if is_portrait:
        headings = (draw_heading(name, width=side) for name in ("segment", "semantic"))
        answers = [_join_sides(*headings), _join_sides(found, mapped)]
    else:
        answers = [
            draw_heading("segment", "what a box or a point shows, and its name"),
            found,
            draw_heading("semantic", "a name for every pixel"),
            mapped,
        ]

    shares = [
        (name, share, text, palette[name])
        for name, share, text in above_least(area_shares(semantic).items())
    ]
    rows = [
        draw_title(title),
        draw_heading("classify", "which name fits the photo"),
        _join_sides(photo, ranking),
        *answers,
        draw_shares(shares),
    ]
    picture = np.concatenate([add_margins(row) for row in rows])
    if classification.trained_head and semantic.trained_head:
        return picture
    with_band = np.concatenate([picture, make_blank(2 * TEXT)])
    return write_labels(with_band, (), UNTRAINED_NOTE, TEXT)


def _draw_masks(masks: Masks, palette: Palette, width: int) -> Picture:
    image = _resize_to_width(masks.image, width)
    size = (image.shape[0], image.shape[1])
    factor = width / masks.image.shape[1]
    packed = PackedMasks.pack((_coverage(mask, size) > 0.5 for mask in masks.packed), size)
    prompts = [prompt.scaled(factor) for prompt in masks.prompts]
    tints = None if masks.names is None else [palette[name] for name in masks.names]
    return draw_masks(image, packed, masks.captions(), prompts, tints=tints, letters=TEXT)


def _draw_map(semantic: SemanticMap, palette: Palette, width: int) -> Picture:
    """Draw the map with smooth borders: each pixel has the name that covers most of it."""
    image = _resize_to_width(semantic.image, width)
    present = np.unique(semantic.labels)
    size = (image.shape[0], image.shape[1])
    cover = [_coverage(semantic.labels == index, size) for index in present]
    labels = present[np.argmax(cover, axis=0)].astype(np.int32)  # KxHxW -> HxW
    tints = [palette[name] for name in semantic.names]
    shares = area_shares(semantic)
    names = [name if shares.get(name, 0) >= LEAST_SHARE else "" for name in semantic.names]
    return draw_label_map(image, labels, names, tints=tints, letters=TEXT)


def area_shares(semantic: SemanticMap) -> dict[str, float]:
    """Return each present name's share of the pixels, in [0, 1], the largest first."""
    areas = dict(zip(semantic.names, semantic.areas.tolist(), strict=True))
    return {name: areas[name] / semantic.labels.size for name in semantic.present}


def above_least(named: Iterable[tuple[str, float]]) -> list[tuple[str, float, str]]:
    """Return names, shares and their texts as `in_percent`, the first and those of 2 % or more."""
    texts = in_percent(named)
    return texts[:1] + [one for one in texts[1:] if one[1] >= LEAST_SHARE]


def _resize_to_width(image: Picture, width: int) -> Picture:
    """Resize an image to `width`, keeping its proportions."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    interpolation = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)


def _coverage(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the share of each pixel, in a picture of `size` (h, w), that an HxW mask covers."""
    shares = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(shares, np.float32)


def draw_title(text: str) -> Strip:
    """Draw the title, the first strip."""
    picture, draw = _make_canvas(LARGE + MARGIN + GAP // 2)
    draw.text((0, MARGIN), write_out(text, 38), INK, load_font(LARGE))
    return np.array(picture)


def draw_heading(name: str, text: str = "", width: int = INNER) -> Strip:
    """Draw a task's name on a dark chip, followed by a description."""
    picture, draw = _make_canvas(TEXT + 24, width)
    end = _draw_chip(draw, name, (0, 0), INK)
    draw.text((end + GAP, _text_top(draw, SMALL, TEXT + 24)), text, GREY, load_font(SMALL))
    return np.array(picture)


def draw_ranking(entries: Sequence[Entry], height: int, width: int) -> Strip:
    """Draw names with their shares as bars below each other; taller than `height` if need be."""
    row = min(max(height // max(1, len(entries)), MIN_ROW), MAX_ROW)
    picture, draw = _make_canvas(max(height, row * len(entries)), width)
    font = load_font(SMALL)
    for index, (name, share, number, tint) in enumerate(entries):
        y = index * row
        draw.text((0, y), write_out(name, NAME_LETTERS), INK, font)
        draw.text((width - draw.textlength(number, font=font), y), number, GREY, font)
        top = y + row - BAR - BAR // 2
        draw.rounded_rectangle((0, top, width - 1, top + BAR), BAR // 2, fill=TRACK)
        end = max(BAR, round((width - 1) * share))
        if share >= LEAST_BAR:
            draw.rounded_rectangle((0, top, end, top + BAR), BAR // 2, fill=tint)
    return np.array(picture)


def draw_shares(entries: Sequence[Entry]) -> Strip:
    """Draw names with their shares as chips, as many in a line as fit."""
    height = TEXT + 24
    texts = [f"{write_out(name, 30)} {number}" for name, _, number, _ in entries]
    _, ruler = _make_canvas(1)
    spots, x, y = [], 0.0, 0
    for text in texts:
        width = _chip_width(ruler, text)
        if x + width > INNER and x > 0:
            x, y = 0.0, y + height + GAP // 2
        spots.append((x, float(y)))
        x += width + GAP // 2
    picture, draw = _make_canvas(y + height)
    for text, spot, (*_, tint) in zip(texts, spots, entries, strict=True):
        _draw_chip(draw, text, spot, tint)
    return np.array(picture)


def add_margins(strip: Strip) -> Strip:
    """Add the margins at the sides and the gap below."""
    picture = make_blank(strip.shape[0] + GAP)
    picture[: strip.shape[0], MARGIN : MARGIN + strip.shape[1]] = strip
    return picture


def make_blank(height: int, width: int = WIDTH) -> Strip:
    """Return an empty strip."""
    return np.full((height, width, 3), PAPER, np.uint8)


def _make_canvas(height: int, width: int = INNER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.fromarray(make_blank(height, width))
    return picture, ImageDraw.Draw(picture)


def _draw_chip(
    draw: ImageDraw.ImageDraw, text: str, spot: tuple[float, float], tint: Colour
) -> float:
    """Draw a text on a chip with its upper left corner at `spot`; return the x of its end."""
    height = TEXT + 24
    end = spot[0] + _chip_width(draw, text)
    draw.rounded_rectangle((*spot, end, spot[1] + height - 1), height // 4, fill=tint)
    top = spot[1] + _text_top(draw, SMALL, height)
    draw.text((spot[0] + TEXT / 2, top), text, ink_on(tint), load_font(SMALL))
    return end


def _chip_width(draw: ImageDraw.ImageDraw, text: str) -> float:
    return float(draw.textlength(text, font=load_font(SMALL))) + TEXT


def _text_top(draw: ImageDraw.ImageDraw, letters: int, height: int) -> float:
    """Return the y at which a text begins that stands in the middle of a strip."""
    _, top, _, bottom = draw.textbbox((0, 0), "Xg", font=load_font(letters))
    return float((height - (bottom - top)) / 2 - top)


def _join_sides(left: Picture, right: Picture) -> Picture:
    """Put two pictures at the left and right end of a strip as high as the higher one."""
    strip = make_blank(max(left.shape[0], right.shape[0]), INNER)
    strip[: left.shape[0], : left.shape[1]] = left
    strip[: right.shape[0], INNER - right.shape[1] :] = right
    return strip


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Overview(Viewable):
    """The answers of a poster: a classification, masks with names, and a label map."""

    classification: Classification
    masks: Masks
    semantic: SemanticMap

    @property
    def trained_head(self) -> bool:
        """Whether the names mean something."""
        return self.classification.trained_head

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """Each name's probability for the whole photo, in [0, 1], the largest first."""
        return self.classification.top(len(self.classification.names))

    @property
    def shares(self) -> dict[str, float]:
        """Each present name's share of the pixels, in [0, 1], the largest first."""
        return area_shares(self.semantic)

    def __repr__(self) -> str:
        return f"Overview({self.classification!r}, {self.masks!r}, {self.semantic!r})"

    def _make_figure(self, **options: Any) -> NDArray[np.uint8]:
        return self.draw(**options)

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
