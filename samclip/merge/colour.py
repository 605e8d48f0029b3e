"""Colour changes of a view: brightness, contrast, saturation and hue as one affine map of RGB."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601, as Pillow's mode L
MIDDLE = 127.5
# To luma and the two chroma axes I and Q of NTSC, whose plane a change of hue turns.
TO_YIQ = np.array([GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Colour:
    """Factors that leave a picture alone when they are 1; `hue` is an angle in degrees.

    Brightness multiplies; contrast stretches about middle grey; saturation stretches about each
    pixel's grey; hue turns the chroma.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether nothing is changed."""
        return self == Colour()

    def apply(self, picture: Image.Image) -> Image.Image:
        """Change an RGB picture; values are rounded and cut to [0, 255]."""
        if self.is_plain:
            return picture
        rows = np.concatenate([self.matrix(), np.full((3, 1), self.offset())], axis=1)  # 3x4
        return picture.convert("RGB", tuple(rows.ravel().tolist()))

    def matrix(self) -> NDArray[np.float64]:
        """Return the linear part, 3x3: new RGB = matrix @ RGB + offset."""
        grey = np.tile(GREY, (3, 1))  # 3x3: every channel becomes the luma
        saturate = self.saturation * np.eye(3) + (1 - self.saturation) * grey
        return self.brightness * self.contrast * saturate @ self._turn()

    def offset(self) -> float:
        """Return what is added to every channel, in units of [0, 255]."""
        return (1 - self.contrast) * MIDDLE

    def _turn(self) -> NDArray[np.float64]:
        angle = math.radians(self.hue)
        cosine, sine = math.cos(angle), math.sin(angle)
        chroma = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        return np.asarray(np.linalg.inv(TO_YIQ) @ chroma @ TO_YIQ, np.float64)
