"""How an image lies in the encoder's square input, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Letterbox:
    """An image resized to fit a square of `image_size` pixels, padded at the bottom and right.

    `original_size` and `input_size` are (h, w) in pixels, before and after the resize.
    """

    original_size: tuple[int, int]
    input_size: tuple[int, int]
    image_size: int

    @classmethod
    def fit(cls, original_size: tuple[int, int], image_size: int) -> Letterbox:
        """Fit the longest side of an image of (h, w) pixels into `image_size`.

        Each side is `int(side * scale + 0.5)`, as segment-anything's `ResizeLongestSide` rounds,
        and at least 1.
        """
        scale = image_size / max(original_size)
        height, width = (max(1, int(side * scale + 0.5)) for side in original_size)
        return cls(original_size, (height, width), image_size)

    def to_input(self, xy: ArrayLike) -> NDArray[np.float32]:
        """Take ...x2 (x, y) in pixels of the original image to pixels of the input.

        x * new_w / old_w, as segment-anything's `ResizeLongestSide.apply_coords` does.
        """
        (height, width), (new_height, new_width) = self.original_size, self.input_size
        scale = np.array([new_width / width, new_height / height])
        return np.asarray(np.asarray(xy, np.float64) * scale, np.float32)

    def upscale(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Bring a map over the whole input, hxw, to the original image, HxW.

        Resized to the square, cropped to the image, resized to the original: both bilinear with
        half-pixel centres and no smoothing, as segment-anything's `Sam.postprocess_masks`.
        """
        height, width = self.input_size
        square = _resize(np.asarray(logits, np.float32), (self.image_size, self.image_size))
        return _resize(square[:height, :width], self.original_size)

    def token_mask(self, grid: int) -> NDArray[np.float32]:
        """Say which of grid x grid tokens hold any of the image: 1xgxg, 1 image, 0 padding."""
        height, width = self.input_size
        mask = np.zeros((1, grid, grid), np.float32)
        mask[
            :,
            : math.ceil(height * grid / self.image_size),
            : math.ceil(width * grid / self.image_size),
        ] = 1
        return mask


def _resize(array: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize HxW to `size` (h, w), bilinear with half-pixel centres."""
    resized = cv2.resize(array, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)
