"""The four maps that a CLIP backbone makes of an image, and what is made of each of them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

STRIDES = (4, 8, 16, 32)


class Levels(NamedTuple):
    """Feature maps BxCxS/sxS/s at the strides s of `STRIDES`, S being the image's side."""

    stride4: Tensor
    stride8: Tensor
    stride16: Tensor
    stride32: Tensor
