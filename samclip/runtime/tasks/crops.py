"""Point grids and image crops of automatic mask generation (segment-anything, `utils/amg.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Crop:
    """A part of the image: `box` XYXY in pixels, `layer` 0 for the whole image."""

    box: tuple[int, int, int, int]
    layer: int

    @property
    def rows_columns(self) -> tuple[slice, slice]:
        """Slices that cut the crop out of an HxW array."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)

    @property
    def area(self) -> int:
        """Pixels in the crop."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """Spread n x n points evenly: n*n x 2, (x, y) in [0, 1], row by row, at cell centres."""
    offset = 1 / (2 * points_per_side)
    side = np.linspace(offset, 1 - offset, points_per_side)
    x, y = np.meshgrid(side, side)
    return np.stack([x, y], axis=-1).reshape(-1, 2)  # n x n x 2 -> n*n x 2


def generate_crops(
    image_size: tuple[int, int], layers: int, overlap_ratio: float
) -> tuple[Crop, ...]:
    """List the whole image, then for layer i = 1..layers its 2**i x 2**i overlapping crops.

    `image_size`: (h, w). Crops of layer 1 overlap by `overlap_ratio` of the short side, deeper
    ones by half as much per layer (segment-anything, `generate_crop_boxes`).
    """
    height, width = image_size
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        crops.extend(_layer_crops(height, width, layer, overlap_ratio))
    return tuple(crops)


def _layer_crops(height: int, width: int, layer: int, overlap_ratio: float) -> Iterator[Crop]:
    per_side = 2**layer
    overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
    crop_w = _crop_length(width, per_side, overlap)
    crop_h = _crop_length(height, per_side, overlap)
    for column, row in product(range(per_side), repeat=2):
        x0, y0 = (crop_w - overlap) * column, (crop_h - overlap) * row
        crop = Crop((x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height)), layer)
        if crop.area > 0:  # an image of a pixel or two has fewer crops
            yield crop


def _crop_length(length: int, crops: int, overlap: int) -> int:
    return math.ceil((overlap * (crops - 1) + length) / crops)
