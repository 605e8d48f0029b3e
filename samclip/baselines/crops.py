"""Parts of an image around its objects."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError

MAX_MARGIN = 10.0


def check_margin(margin: float) -> float:
    """Return `margin`; raises InputError when it is negative or beyond all reason."""
    if not 0 <= margin <= MAX_MARGIN:
        raise InputError(f"the margin must be a number in [0, {MAX_MARGIN:g}]; got {margin!r}.")
    return margin


def cut(
    image: NDArray[np.uint8], box: Sequence[float] | NDArray[np.floating], margin: float = 0.0
) -> NDArray[np.uint8]:
    """Cut a `box`, XYXY in pixels, out of an HWC image, with all the pixels that it touches.

    `margin`: how much is added on each side, as a share of the box's own side, as far as the
    image goes. A box without a pixel in the image gives the whole image. Returns a view.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (float(edge) for edge in box)
    more_x, more_y = (x1 - x0) * margin, (y1 - y0) * margin
    left, right = max(0, math.floor(x0 - more_x)), min(width, math.ceil(x1 + more_x))
    top, bottom = max(0, math.floor(y0 - more_y)), min(height, math.ceil(y1 + more_y))
    if left >= right or top >= bottom:
        return image
    return image[top:bottom, left:right]
