"""Options of automatic mask generation, with segment-anything's names and defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from samclip.errors import PromptError
from samclip.runtime.tasks.crops import point_grid

MAX_POINTS_PER_SIDE = 512  # a quarter of a million prompts
MAX_CROP_LAYERS = 4  # the fourth alone is 256 encoder passes

_AT_LEAST_ONE = {"points_per_side", "points_per_batch", "crop_n_points_downscale_factor"}
_WHOLE = _AT_LEAST_ONE | {"crop_n_layers"}


@dataclass(frozen=True, kw_only=True)
class AutoMaskOptions:
    """Options of automatic mask generation; raises PromptError for values out of range.

    `points_per_side`: the grid is that many points wide and high; `points_per_batch`: points per
    run of the decoder, of which this package takes 16 at most, see `batch_prompts`; answers do
    not depend on it; `pred_iou_thresh`, `stability_score_thresh`: masks below are dropped;
    `stability_score_offset`: how far the cutoff is moved, in logits; `box_nms_thresh`,
    `crop_nms_thresh`: box IoU above which a mask is a duplicate, within and between crops;
    `crop_n_layers`: layer i looks again at 2**i x 2**i crops, one encoder pass each;
    `crop_overlap_ratio`: of the short side; `crop_n_points_downscale_factor`: layer i has
    `points_per_side` divided by its i-th power; `min_mask_region_area`: holes and islands of
    fewer pixels are removed.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: float = 0

    def __post_init__(self) -> None:
        for option in fields(self):
            _check(option.name, getattr(self, option.name))
        if self.points_per_side > MAX_POINTS_PER_SIDE:
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

    def grid(self, layer: int) -> NDArray[np.float64]:
        """Return the points of a crop layer: Mx2 (x, y) in [0, 1], at least one."""
        per_side = self.points_per_side // self.crop_n_points_downscale_factor**layer
        return point_grid(max(1, per_side))


def _check(name: str, value: float) -> None:
    least = 1 if name in _AT_LEAST_ONE else 0
    kind = "a whole number" if name in _WHOLE else "a number"
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    is_float = isinstance(value, (float, np.floating))  # an int may be too large for math.isfinite
    if not is_number or value < least or (is_float and not math.isfinite(value)):
        raise PromptError(f"{name} must be {kind} of at least {least}; got {value!r}.")
    if name in _WHOLE and value != int(value):
        raise PromptError(f"{name} must be a whole number; got {value!r}.")
