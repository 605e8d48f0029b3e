"""`ResizeLongestSide`: segment-anything's transform between an image and the encoder's input.

Tensors of torch are recognised and handled by their own methods; torch itself is never imported.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from PIL.Image import Resampling

from samclip.errors import ImageError, InputError, PromptError, brief
from samclip.runtime.pixels.arrays import as_array
from samclip.runtime.pixels.image import Letterbox, load_image


class ResizeLongestSide:
    """Resizes images to the longest side `target_length`, and maps coordinates along.

    Methods, arguments and results are those of segment-anything's class of this name.
    `original_size` is an image's (h, w) in pixels before. The methods that end in `_torch` take
    and return tensors.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image, HWC uint8 RGB, by Pillow's bilinear filter; raises ImageError."""
        pixels = load_image(as_array(image, "image", "HWC uint8", error=ImageError))
        height, width = self.get_preprocess_shape(
            pixels.shape[0], pixels.shape[1], self.target_length
        )
        resized = Image.fromarray(pixels).resize((width, height), Resampling.BILINEAR)
        return np.array(resized, np.uint8)

    def apply_coords(
        self, coords: ArrayLike, original_size: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """Map ...x2 (x, y) from pixels of the image to those of the input; raises PromptError."""
        mapped = as_array(coords, "coords", "...x2 numbers (x, y)", dtype=np.float64)
        if mapped.ndim < 1 or mapped.shape[-1] != 2:
            raise PromptError(f"coords must be ...x2 (x, y); got shape {mapped.shape}.")
        return np.asarray(mapped * self._scale(original_size))

    def apply_boxes(self, boxes: ArrayLike, original_size: tuple[int, ...]) -> NDArray[np.float64]:
        """Map Bx4 XYXY as `apply_coords` does: Bx4."""
        corners = as_array(boxes, "boxes", "Bx4 numbers XYXY", dtype=np.float64)
        if corners.ndim < 1 or corners.shape[-1] != 4:
            raise PromptError(f"boxes must be Bx4 XYXY; got shape {corners.shape}.")
        corners = corners.reshape(-1, 2, 2)  # Bx4 -> Bx2x2
        return self.apply_coords(corners, original_size).reshape(-1, 4)

    def apply_image_torch(self, image: Any) -> Any:
        """Resize a tensor BxCxHxW, bilinear with smoothing: BxCxhxw; raises InputError."""
        require_tensor("image", image)
        if image.ndim != 4:
            raise ImageError(f"image must be BxCxHxW; got shape {tuple(image.shape)}.")
        size = self.get_preprocess_shape(image.shape[2], image.shape[3], self.target_length)
        interpolate = sys.modules["torch"].nn.functional.interpolate
        return interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords_torch(self, coords: Any, original_size: tuple[int, ...]) -> Any:
        """Map a tensor ...x2 as `apply_coords` does: float32; raises InputError."""
        require_tensor("coords", coords)
        if coords.ndim < 1 or coords.shape[-1] != 2:
            raise PromptError(f"coords must be ...x2 (x, y); got shape {tuple(coords.shape)}.")
        mapped = coords.clone().float()
        mapped[..., 0] *= self._scale(original_size)[0]
        mapped[..., 1] *= self._scale(original_size)[1]
        return mapped

    def apply_boxes_torch(self, boxes: Any, original_size: tuple[int, ...]) -> Any:
        """Map a tensor Bx4 as `apply_boxes` does: Bx4 float32; raises InputError."""
        require_tensor("boxes", boxes)
        if boxes.ndim < 1 or boxes.shape[-1] != 4:
            raise PromptError(f"boxes must be Bx4 XYXY; got shape {tuple(boxes.shape)}.")
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Return (h, w) after the resize."""
        return Letterbox.fit(check_size((oldh, oldw)), long_side_length).input_size

    def _scale(self, original_size: tuple[int, ...]) -> tuple[float, float]:
        """Return the factors of x and y."""
        height, width = check_size(original_size)
        new_height, new_width = self.get_preprocess_shape(height, width, self.target_length)
        return new_width / width, new_height / height


def check_size(size: Any) -> tuple[int, int]:
    """Return an image's (h, w) as two int of at least 1; InputError for anything else."""
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError) as error:
        raise InputError(
            "original_size must be (height, width) in pixels, as image.shape[:2]; got "
            f"{brief(size)}."
        ) from error
    if height < 1 or width < 1:
        raise InputError(f"original_size must be at least (1, 1); got {brief(size)}.")
    return height, width


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor of torch, which its caller then has imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def require_tensor(name: str, value: Any) -> None:
    """Raise InputError unless `value` is a tensor of torch."""
    if not is_tensor(value):
        raise InputError(
            f"{name} must be a tensor of torch; got {type(value).__name__}. For arrays of numpy "
            "use the method whose name does not end in _torch."
        )


def to_numpy(value: Any) -> Any:
    """Copy a tensor to the host, as an array; leave other values as they are."""
    if not is_tensor(value):
        return value
    host = value.detach().cpu()
    return (host.float() if host.is_floating_point() else host).numpy()
