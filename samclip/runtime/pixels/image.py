"""Images: loading them as RGB pixels, and the resize and padding to the encoder's square input.

`Letterbox` also maps points into that input, and masks back to the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from PIL.Image import Resampling

from samclip.errors import ExportError, ImageError
from samclip.runtime.assets import packaged_photos
from samclip.runtime.pixels.decode import MAX_SIDE, convert_pil, decode_bytes, decode_path

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
DEFAULT_MAX_PIXELS = 2**30 // 4 // 3  # 256 MiB of RGB: also where Pillow begins to warn
ImageSource = str | PathLike[str] | bytes | bytearray | Image.Image | NDArray[np.uint8]


def load_image(source: ImageSource, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """Load an image as HWC uint8 RGB, C order.

    `source`: a path, the bytes of a file, a PIL image, or an array. An array must be HWC uint8 RGB
    already; a contiguous one is returned itself. Files may be JPEG, PNG, WebP, BMP, TIFF, GIF or
    PPM; their first picture is read, and turned as EXIF says. As in PIL's `convert("RGB")`, alpha
    is dropped and grey repeated; 16-bit grey is scaled to 8 bits. Raises ImageError; for more than
    `max_pixels`, before anything is decoded.
    """
    if isinstance(source, np.ndarray):
        return _check_array(source, max_pixels)
    if isinstance(source, str | PathLike):
        return decode_path(source, max_pixels)
    if isinstance(source, bytes | bytearray):
        return decode_bytes(bytes(source), max_pixels)
    if isinstance(source, Image.Image):
        return convert_pil(source, max_pixels)
    raise ImageError(
        f"an image cannot be a {type(source).__name__}. Pass a path, the bytes of an image file, a "
        "PIL image, or a numpy array HxWx3 uint8 RGB."
    )


class InputFormat(Protocol):
    """The encoder's input, as `Preprocessing` in a bundle's manifest describes it."""

    @property
    def image_size(self) -> int:
        """Pixels along a side of the square."""
        ...

    @property
    def mean(self) -> tuple[float, float, float]:
        """What is subtracted from R, G and B, in [0, 255] units."""
        ...

    @property
    def std(self) -> tuple[float, float, float]:
        """What R, G and B are divided by then, in [0, 255] units."""
        ...


def preprocess(
    image: NDArray[np.uint8], preprocessing: InputFormat
) -> tuple[NDArray[np.float32], Letterbox]:
    """Turn an image, HWC uint8 RGB, into the encoder's input, 1x3xSxS float32.

    The image is resized by Pillow's bilinear filter, as in segment-anything's `ResizeLongestSide`,
    then normalised, then padded with zeros, as in its `Sam.preprocess`. Raises ImageError.
    """
    pixels = _check_array(image, image.size)
    letterbox = Letterbox.fit((pixels.shape[0], pixels.shape[1]), preprocessing.image_size)
    height, width = letterbox.input_size
    resized = Image.fromarray(pixels).resize((width, height), Resampling.BILINEAR)
    return normalise(np.asarray(resized, np.float32), preprocessing), letterbox


def normalise(resized: NDArray[np.float32], preprocessing: InputFormat) -> NDArray[np.float32]:
    """Turn hxwx3 in [0, 255], already resized, into the encoder's input, 1x3xSxS float32."""
    height, width = resized.shape[:2]
    mean, std = (np.array(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    normalised = (resized - mean) / std  # hxwx3
    side = preprocessing.image_size
    padded = np.zeros((1, 3, side, side), np.float32)
    padded[0, :, :height, :width] = normalised.transpose(2, 0, 1)
    return padded


@dataclass(frozen=True)
class Letterbox:
    """The place of an image in a square of `image_size` pixels: upper left, padded to fill it.

    `original_size` and `input_size` are the image's (h, w) in pixels, before and after the resize.
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
        """Scale ...x2 (x, y) from pixels of the original image to pixels of the input.

        x * new_w / old_w, as segment-anything's `ResizeLongestSide.apply_coords` does.
        """
        (height, width), (new_height, new_width) = self.original_size, self.input_size
        scale = np.array([new_width / width, new_height / height])
        return np.asarray(np.asarray(xy, np.float64) * scale, np.float32)

    def upscale(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Resize a map over the whole input, hxw, to the original image: HxW float32.

        The map is resized to the square, cropped to the image, and resized to the original size.
        Both resizes are bilinear, with half-pixel centres and no smoothing, as in
        segment-anything's `Sam.postprocess_masks`.
        """
        height, width = self.input_size
        square = _resize(np.asarray(logits, np.float32), (self.image_size, self.image_size))
        return _resize(square[:height, :width], self.original_size)

    def token_mask(self, grid: int) -> NDArray[np.float32]:
        """Mark which of `grid` x `grid` tokens hold any of the image: 1xgxg, 1 image, 0 padding."""
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


def photo_paths(folder: Path | None = None) -> list[Path]:
    """Return the images of `folder` in name order; None means the photos that ship with samclip.

    Raises ExportError when there is no such folder.
    """
    folder = folder or packaged_photos()
    if not folder.is_dir():
        raise ExportError(f"there is no folder {folder} of photos; give an existing one")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _check_array(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    """Return an HxWx3 uint8 array in C order, a copy if need be; ImageError for any other array."""
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ImageError(
            f"an image array must be HxWx3 uint8 RGB, got {'x'.join(map(str, array.shape))} "
            f"{array.dtype}. {_suggest_conversion(array)}"
        )
    height, width = array.shape[:2]
    if array.size == 0:
        raise ImageError(f"the image array is empty: {height} x {width} pixels. Check its slices.")
    if height * width > max_pixels or max(height, width) > MAX_SIDE:
        raise ImageError(
            f"the image array has {width} x {height} pixels; at most {max_pixels:,} pixels, and "
            f"{MAX_SIDE:,} a side, are accepted. Make it smaller first."
        )
    return np.ascontiguousarray(array)


def _suggest_conversion(array: NDArray[Any]) -> str:
    """Suggest how to turn an array into HxWx3 uint8 RGB, judging by its shape and type."""
    shape = array.shape
    hints = (
        (array.ndim == 2, "Repeat grey: np.stack([image] * 3, axis=-1)."),
        (array.ndim == 4, "Pass one image at a time: images[0]."),
        (array.ndim != 3, "Give it three axes: height, width, channels."),
        (shape[-1:] != (3,) and shape[:1] == (3,), "Channels go last: image.transpose(1, 2, 0)."),
        (shape[-1:] == (4,), "Drop alpha: image[..., :3]."),
        (shape[-1:] == (1,), "Repeat grey: np.repeat(image, 3, axis=2)."),
        (array.dtype.kind == "f", "Scale [0, 1]: (image * 255).round().astype(np.uint8)."),
    )
    return next((hint for fits, hint in hints if fits), "Convert it to 8-bit RGB first.")
