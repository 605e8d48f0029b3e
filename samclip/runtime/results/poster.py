"""One picture of three answers about one photo, to be read at the width of a phone.

A name has one colour in all three. Lengths are in pixels of the picture, which is three times as
wide as a phone's page. Images are HWC uint8 RGB, [0, 255].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.runtime.results.answers import Classification, SemanticMap
from samclip.runtime.results.captions import Colour, write_labels
from samclip.runtime.results.drawing import (
    UNTRAINED_NOTE,
    Picture,
    colour,
    draw_label_map,
    draw_masks,
)
from samclip.runtime.results.masks import Masks
from samclip.runtime.results.packed_masks import PackedMasks
from samclip.runtime.results.poster_parts import (
    GAP,
    INNER,
    LEAST_SHARE,
    TEXT,
    blank,
    draw_ranking,
    draw_shares,
    framed,
    heading,
    title_line,
)
from samclip.runtime.tasks.prompts import Prompt

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
