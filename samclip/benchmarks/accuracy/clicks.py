"""Where a person would click: inside an object, and then where the answer errs most."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class Click(NamedTuple):
    """A point (x, y), the middle of a pixel; `label`: 1 where the object is, 0 where it is not."""

    point: tuple[float, float]
    label: int


def interior_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the (x, y), in pixels, of the middle of a HxW mask's most interior pixel."""
    return _deepest(mask)[0]


def correction(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Click | None:
    """Return the click that corrects a HxW mask, at the middle of its largest error; None if right.

    Of all pixels that are missed or too many, the one farthest from the border of its region, as
    segment-anything (Kirillov et al. 2023, section 7.1) follows interactive segmentation
    (Sofiiuk et al. 2021).
    """
    missed, surplus = truth & ~mask, mask & ~truth
    if not (missed.any() or surplus.any()):
        return None
    (inside, how_far), (outside, how_far_out) = _deepest(missed), _deepest(surplus)
    return Click(inside, 1) if how_far >= how_far_out else Click(outside, 0)


def _deepest(mask: NDArray[np.bool_]) -> tuple[tuple[float, float], float]:
    """Find the pixel of a HxW mask that is farthest from its outline, and how far it is.

    The first in reading order of several; the border of the photo is an outline.
    """
    framed = np.pad(mask.astype(np.uint8), 1)
    distances = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(distances.argmax(), mask.shape)
    return (float(column) + 0.5, float(row) + 0.5), float(distances[row, column])
