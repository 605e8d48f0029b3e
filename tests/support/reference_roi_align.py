"""RoIAlign in float64, point by point, written from its definition; and its choice of a level.

Mask R-CNN (He et al., 2017), section 3, as detectron2's `ROIAlign` (aligned) and mmcv's define what
the paper leaves open: see `samclip.export.models.ovsam.roi_classifier`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def interpolated(feature: Array, y: float, x: float) -> Array:
    """The value of a CxHxW map at a point in cells, whose centres are at integers: C."""
    height, width = feature.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(feature))
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    above = feature[:, top, left] * (1 - along) + feature[:, top, right] * along
    below = feature[:, bottom, left] * (1 - along) + feature[:, bottom, right] * along
    return np.asarray(above * (1 - down) + below * down)


def reference_roi_align(
    feature: NDArray[np.floating], boxes: NDArray[np.floating], size: int, scale: float
) -> Array:
    """Average a CxHxW map inside Nx4 boxes (x0, y0, x1, y1): NxCxPxP."""
    pixels = np.asarray(feature, np.float64)
    found = np.zeros((len(boxes), len(pixels), size, size))
    for place, box in enumerate(np.asarray(boxes, np.float64)):
        x0, y0, x1, y1 = box * scale - 0.5
        high, wide = (y1 - y0) / size, (x1 - x0) / size  # of a bin
        rows, columns = math.ceil(high), math.ceil(wide)  # of points in it
        for row in range(size):
            for column in range(size):
                total = np.zeros(len(pixels))
                for i in range(rows):
                    for j in range(columns):
                        y = y0 + (row + (i + 0.5) / rows) * high
                        x = x0 + (column + (j + 0.5) / columns) * wide
                        total += interpolated(pixels, y, x)
                found[place, :, row, column] = total / max(rows * columns, 1)
    return found


def reference_level(box: NDArray[np.floating]) -> int:
    """The level of four to which a box belongs, by the logarithm."""
    x0, y0, x1, y1 = (float(v) for v in box)
    scale = math.sqrt((x1 - x0) * (y1 - y0))
    return min(max(math.floor(math.log2(scale / 56 + 1e-6)), 0), 3)
