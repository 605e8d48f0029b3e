"""Options, point grids and image crops of automatic mask generation.

The options have segment-anything's names and defaults; grids and crops are those of its
`utils/amg.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import PromptError, brief
from samclip.runtime.pixels.arrays import as_array, as_flag, as_number, as_whole

MAX_POINTS_PER_SIDE = 512  # a quarter of a million prompts
MAX_CROP_LAYERS = 4  # the fourth layer alone takes 256 encoder passes
_AT_LEAST_ONE = {"points_per_side", "points_per_batch", "crop_n_points_downscale_factor"}
_WHOLE = _AT_LEAST_ONE | {"crop_n_layers"}


@dataclass(frozen=True, kw_only=True, eq=False)
class AutoMaskOptions:
    """Options of automatic mask generation; raises PromptError for values out of range.

    `points_per_side`: the grid is that many points wide and high, None with `point_grids`;
    `points_per_batch`: points per run of the decoder, at most 16 in this package, 2 on a
    CPU, see `batch_prompts`; results do not depend on it;
    `pred_iou_thresh`, `stability_score_thresh`: masks below are dropped;
    `stability_score_offset`: the shift of the threshold for the stability score, in logits;
    `box_nms_thresh`, `crop_nms_thresh`: the box IoU above which a mask is a duplicate, within and
    between crops; `crop_n_layers`: layer i searches 2**i x 2**i crops, with one encoder pass each;
    `crop_overlap_ratio`: the overlap of crops as a share of the short side;
    `crop_n_points_downscale_factor`: in layer i `points_per_side` is divided by its i-th power;
    `point_grids`: the points themselves, in place of `points_per_side`: for the image and for each
    layer of crops an array Mx2, (x, y) in [0, 1] of the crop's width and height;
    `min_mask_region_area`: holes and islands of fewer pixels are removed;
    `adaptive`: a quarter of the grid is tried first, and then only points that these leave open,
    see `CropSearch`; not an option of segment-anything, and not for `point_grids`.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[ArrayLike] | None = None
    min_mask_region_area: float = 0
    adaptive: bool = False

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            raise PromptError(
                "points_per_side and point_grids are two ways to give the points; got "
                f"{'neither' if self.point_grids is None else 'both'}. With point_grids, pass "
                "points_per_side=None."
            )
        for option in fields(self):
            name, value = option.name, getattr(self, option.name)
            if name in {"point_grids", "adaptive"} or (name == "points_per_side" and value is None):
                continue
            least = 1 if name in _AT_LEAST_ONE else 0
            check = as_whole if name in _WHOLE else as_number
            object.__setattr__(self, name, check(value, name, least, PromptError))
        if self.points_per_side is not None and self.points_per_side > MAX_POINTS_PER_SIDE:
            raise PromptError(
                f"points_per_side must be at most {MAX_POINTS_PER_SIDE}; "
                f"got {self.points_per_side}."
            )
        if self.crop_n_layers > MAX_CROP_LAYERS:
            raise PromptError(
                f"crop_n_layers must be at most {MAX_CROP_LAYERS}; got {self.crop_n_layers}."
            )
        if self.crop_overlap_ratio >= 1:
            raise PromptError(f"crop_overlap_ratio must be below 1; got {self.crop_overlap_ratio}.")
        object.__setattr__(self, "adaptive", as_flag(self.adaptive, "adaptive", PromptError))
        if self.adaptive and self.point_grids is not None:
            raise PromptError(
                "adaptive=True tries every second row and column of a grid first, and point_grids "
                "may have neither. Give points_per_side, or leave adaptive out."
            )
        if self.point_grids is not None:
            grids = _parse_grids(self.point_grids, self.crop_n_layers)
            object.__setattr__(self, "point_grids", grids)

    def grid(self, layer: int) -> NDArray[np.float64]:
        """Return the points of a crop layer: Mx2 (x, y) in [0, 1], at least one."""
        if self.point_grids is not None:
            return np.asarray(self.point_grids[layer], np.float64)
        per_side = (self.points_per_side or 1) // self.crop_n_points_downscale_factor**layer
        return point_grid(max(1, per_side))

    def passes(self, layer: int) -> tuple[NDArray[np.intp], ...]:
        """Return the indices into `grid(layer)` that are tried together, one array after another.

        All at once; with `adaptive` every second point of every second row, then the others.
        """
        points = len(self.grid(layer))
        if not self.adaptive:
            return (np.arange(points),)
        row, column = np.divmod(np.arange(points), math.isqrt(points))
        is_coarse = (row % 2 == 1) & (column % 2 == 1)
        return np.flatnonzero(is_coarse), np.flatnonzero(~is_coarse)


def _parse_grids(grids: Any, layers: int) -> tuple[NDArray[np.float64], ...]:
    """Check points given for the image and `layers` layers of crops: as many arrays Mx2."""
    if not isinstance(grids, (list, tuple, np.ndarray)) or len(grids) <= layers:
        raise PromptError(
            f"point_grids must be a list of {layers + 1}, one array Mx2 for the image and one for "
            f"each layer of crops; got {brief(grids)}."
        )
    return tuple(_parse_grid(grid) for grid in grids)


def _parse_grid(grid: Any) -> NDArray[np.float64]:
    points = as_array(grid, "a grid of point_grids", "Mx2 numbers (x, y)", dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise PromptError(
            f"point_grids must be a list of arrays Mx2 (x, y); got shape {points.shape} in it. "
            "For a single grid, write [grid]."
        )
    if len(points) > MAX_POINTS_PER_SIDE**2:
        raise PromptError(
            f"a grid of point_grids may have {MAX_POINTS_PER_SIDE**2:,} points; got "
            f"{len(points):,}."
        )
    if not ((points >= 0) & (points <= 1)).all():  # NaN is not
        raise PromptError(
            "point_grids are in [0, 1], as shares of the width and height; got "
            f"{points.min():g} to {points.max():g}. Divide x by the width and y by the height."
        )
    return points


@dataclass(frozen=True)
class Crop:
    """A part of the image: `box` is XYXY in pixels, `layer` is 0 for the whole image."""

    box: tuple[int, int, int, int]
    layer: int

    @property
    def rows_columns(self) -> tuple[slice, slice]:
        """The slices that cut the crop out of an HxW array."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)

    @property
    def area(self) -> int:
        """The number of pixels in the crop."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


def generate_crops(
    image_size: tuple[int, int], layers: int, overlap_ratio: float
) -> tuple[Crop, ...]:
    """Return the whole image, then for each layer i = 1..layers its 2**i x 2**i crops.

    `image_size`: (h, w). Crops of layer 1 overlap by `overlap_ratio` of the short side; each
    deeper layer halves the overlap (segment-anything, `generate_crop_boxes`).
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


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """Return n x n evenly spaced points: n*n x 2, (x, y) in [0, 1], row by row, at cell centres."""
    offset = 1 / (2 * points_per_side)
    side = np.linspace(offset, 1 - offset, points_per_side)
    x, y = np.meshgrid(side, side)
    return np.stack([x, y], axis=-1).reshape(-1, 2)  # n x n x 2 -> n*n x 2
