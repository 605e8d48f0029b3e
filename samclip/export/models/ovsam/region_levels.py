"""Which level of a pyramid a box belongs to, and its features from there.

Feature Pyramid Networks (Lin et al., 2017), equation 1, in the form of mmdet's
`SingleRoIExtractor`: a box of area a belongs to level floor(log2(sqrt(a) / 56 + 1e-6)), cut to
those that there are. It is called four-level RoIAlign, but each box is read from one level.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from samclip.export.models.ovsam.levels import STRIDES, Levels
from samclip.export.models.ovsam.roi_align import roi_align

FINEST_SCALE = 56  # pixels: boxes of a side below twice this belong to level 0
MARGIN = 1e-6


def level_of(boxes: Tensor) -> Tensor:
    """Tell the level, 0 to 3, of Nx4 boxes in pixels: N int64.

    The logarithm is replaced by thresholds on the area in units of 56 x 56 pixels, which half
    precision can hold, unlike the area in pixels.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = (width / FINEST_SCALE) * (height / FINEST_SCALE)
    levels = torch.zeros_like(area, dtype=torch.int64)
    for level in range(1, len(STRIDES)):
        levels = levels + (area >= (2**level - MARGIN) ** 2).to(torch.int64)
    return levels


def region_features(levels: Levels, boxes: Tensor, size: int) -> Tensor:
    """Read N boxes, Nx4 in pixels, from their levels of one image, in grids: NxCxPxP.

    A graph cannot drop boxes level by level, so every level is asked for every box, and those that
    are not its own have no area there: they count as 0, and cost next to nothing, where a large box
    would be sampled densely on the finest map.
    """
    own = level_of(boxes).unsqueeze(1)  # Nx1
    parts = []
    for index, (level, stride) in enumerate(zip(levels, STRIDES, strict=True)):
        asked = torch.where(own == index, boxes, torch.zeros_like(boxes))
        parts.append(roi_align(level, asked, size, 1 / stride))
    return functools.reduce(torch.add, parts)
