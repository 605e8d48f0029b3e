"""Images: loading them as RGB pixels, and the resize and padding to the encoder's input.

`Letterbox` also maps points into that input, and masks back to the image. The input is a square, or
for bundles with encoders for several shapes one of these, which `Letterbox.choose` chooses.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from PIL.Image import Resampling

from samclip.errors import ExportError, ImageError, InputError, brief
from samclip.runtime.assets import packaged_photos
from samclip.runtime.pixels.decode import MAX_SIDE, convert_pil, decode_bytes, decode_path
from samclip.runtime.pixels.formats import HEAD_BYTES, sniff
from samclip.runtime.pixels.limits import DEFAULT_MAX_PIXELS
from samclip.runtime.pixels.picture import Pause

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
MAX_PATH = 4096  # bytes; no image file is as short
SAMPLED = 1_000_000  # values of an array that are looked at for advice
SQUEEZE = 0.01  # by which a side may be too long for a shape: such an image is squeezed into it
ImageSource = str | PathLike[Any] | bytes | bytearray | Image.Image | NDArray[np.uint8]


def load_image(
    source: ImageSource,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    pause: Pause | None = None,
) -> NDArray[np.uint8]:
    """Load an image as HWC uint8 RGB, C order.

    `source`: a path, the bytes of a file, a PIL image, or an array. An array must be HWC uint8 RGB
    already; a contiguous one is returned itself. Files may be JPEG, PNG, WebP, BMP, TIFF, GIF or
    PPM. Their picture, of several the first that is not a thumbnail, is turned as EXIF says, and
    its colours are converted from the file's ICC profile to sRGB. A PIL image's pixels are its
    caller's: it is neither turned nor converted. As in PIL's `convert("RGB")`, alpha is dropped and
    grey repeated; samples of 12 and 16 bits are scaled to 8 bits. Files with missing or surplus
    data are refused.

    `pause` is called between pieces of long work, and may raise. Raises ImageError; for more than
    `max_pixels`, before anything is decoded. Decoding holds up to 7 bytes a pixel (11 for
    progressive JPEG files, 20 for WebP), and 3 stay.
    """
    if isinstance(source, np.ndarray):
        return _check_array(source, max_pixels)
    if isinstance(source, str | PathLike):
        return decode_path(source, max_pixels, pause)
    if isinstance(source, bytes | bytearray):
        return decode_bytes(_check_bytes(bytes(source)), max_pixels, pause=pause)
    if isinstance(source, Image.Image):
        return convert_pil(source, max_pixels)
    raise ImageError(
        f"an image cannot be a {type(source).__name__}. {_suggest_type(source)}Pass a path, the "
        "bytes of an image file, a PIL image, or a numpy array HxWx3 uint8 RGB."
    )


def check_colour(color: object) -> bool:
    """Whether the channels of arrays are BGR, by the name of their order; InputError for others."""
    orders = {"rgb": False, "bgr": True}
    order = color.lower() if isinstance(color, str) else ""
    if order not in orders:
        raise InputError(f"color must be 'rgb' or 'bgr'; got {brief(color)}.")
    return orders[order]


def from_bgr(image: object) -> object:
    """Return an array HxWx3 whose channels are BGR as a view in RGB; ImageError for no array."""
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"color='bgr' is for arrays, as OpenCV makes them; the image is a "
            f"{type(image).__name__}, whose own order of channels is known. Leave color out."
        )
    return image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image


def arrange_tensor(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the array of a torch tensor with its channels last, without a copy.

    The tensor is HxWx3, or 3xHxW as torchvision reads images, uint8. For any other one, and for
    3xHx3, which may be either, ImageError names the call of torch that helps.
    """
    shape = "x".join(map(str, array.shape))
    advice = ""
    if array.ndim != 3:
        advice = "Pass one image at a time: images[0]." if array.ndim == 4 else "Give it 3 axes."
    elif array.shape[0] == array.shape[2] == 3:
        advice = (
            "Its channels may come first or last: pass image.permute(1, 2, 0).numpy() if they "
            "come first, and image.numpy() if they come last."
        )
    elif 3 not in (array.shape[0], array.shape[2]):
        advice = "Drop alpha: image[:3]. Repeat grey: image.expand(3, -1, -1)."
    if array.dtype != np.uint8:
        advice = f"{advice} {_suggest_tensor_scaling(array)}".strip()
    if advice:
        raise ImageError(
            f"a tensor of an image must be 3xHxW or HxWx3 uint8 RGB, got {shape} {array.dtype}. "
            f"{advice}"
        )
    return array if array.shape[2] == 3 else array.transpose(1, 2, 0)


def _suggest_tensor_scaling(array: NDArray[Any]) -> str:
    """Suggest how to bring a tensor's values to whole numbers in [0, 255], judging by them."""
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
    how = "image.round().clamp(0, 255).to(torch.uint8)"
    if low < 0:
        how = "undo the normalisation first: image * std + mean"
    elif high <= 1:
        how = "(image * 255).round().to(torch.uint8)"
    return f"Its values are in [{low:g}, {high:g}]: {how}."


def _check_bytes(data: bytes) -> bytes:
    """Return the bytes of a file; ImageError for those of an existing file's path."""
    is_path = False
    if data and sniff(data[:HEAD_BYTES]) is None and len(data) < MAX_PATH:
        with contextlib.suppress(OSError, ValueError):  # no path at all
            is_path = Path(os.fsdecode(data)).is_file()
    if is_path:
        raise ImageError(
            "the bytes are taken for a file's contents, but they are the path of one. Pass a path "
            "as text: os.fsdecode(path)."
        )
    return data


def _suggest_type(source: object) -> str:
    """Suggest how to turn an object of another type into an image, or nothing."""
    hints = (
        (source is None, "OpenCV's imread returns None for a file that it cannot read. "),
        (callable(getattr(source, "read", None)), "Pass what its read() returns. "),
        (isinstance(source, memoryview), "Pass bytes(image), or numpy.asarray(image) of pixels. "),
        (
            callable(getattr(source, "permute", None)),
            "Pass image.permute(1, 2, 0).cpu().numpy(), as uint8 in [0, 255]. ",
        ),
        (
            hasattr(source, "__array__") or hasattr(source, "__array_interface__"),
            "Pass numpy.asarray(image). ",
        ),
        (
            isinstance(source, list | tuple) and len(source) > 0 and _is_image(source[0]),
            "Pass one image at a time, or all to answer_all. ",
        ),
        (isinstance(source, list | tuple), "Pass numpy.array(image, numpy.uint8). "),
        (type(source).__name__ in ("UMat", "GpuMat"), "Pass image.get() or image.download(). "),
    )
    return next((hint for fits, hint in hints if fits), "")


def _is_image(item: object) -> bool:
    """Whether an item of a list is an image, rather than a row of one."""
    is_picture = isinstance(item, str | PathLike | bytes | Image.Image)
    return is_picture or getattr(item, "ndim", 0) == 3


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
    """Turn an image, HWC uint8 RGB, into what torch models take, 1x3xSxS float32.

    The image is resized, then normalised, then padded with zeros, as in segment-anything's
    `Sam.preprocess`. For an exported encoder use `EncoderInput`, which knows its form. Raises
    ImageError.
    """
    resized, letterbox = resize_longest_side(image, preprocessing.image_size)
    return normalise(resized, preprocessing), letterbox


def preprocess_for(
    image: NDArray[np.uint8], preprocessing: InputFormat, canvas: tuple[int, int]
) -> tuple[NDArray[np.float32], Letterbox]:
    """Turn an image into what torch models of one `canvas` (h, w) take, 1x3xhxw; as `preprocess`.

    An image that the canvas does not hold in its usual size is made smaller.
    """
    resized, letterbox = resize_longest_side(image, preprocessing.image_size, (canvas,))
    return normalise(resized, preprocessing, canvas), letterbox


def resize_longest_side(
    image: NDArray[np.uint8], image_size: int, canvases: Sequence[tuple[int, int]] = ()
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Resize an image, HWC uint8 RGB, so that its longest side is `image_size`: hxwx3.

    By Pillow's bilinear filter, as in segment-anything's `ResizeLongestSide`. `canvases`: the
    shapes of input to choose among, see `Letterbox.choose`; none for the square. Raises ImageError.
    """
    pixels = _check_array(image, image.size)
    size = (pixels.shape[0], pixels.shape[1])
    letterbox = Letterbox.choose(size, image_size, canvases)
    height, width = letterbox.input_size
    resized = Image.fromarray(pixels).resize((width, height), Resampling.BILINEAR)
    return np.asarray(resized, np.uint8), letterbox


def normalise(
    resized: NDArray[np.uint8] | NDArray[np.float32],
    preprocessing: InputFormat,
    canvas: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Turn hxwx3 in [0, 255], already resized, into what torch models take: 1x3xSxS float32.

    `canvas`: (h, w) of the input, None for the square.
    """
    height, width = resized.shape[:2]
    mean, std = (np.array(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    side = preprocessing.image_size
    padded = np.zeros((1, 3, *(canvas or (side, side))), np.float32)
    for channel in range(3):  # in place: each temporary array of this size takes milliseconds
        plane = padded[0, channel, :height, :width]
        np.subtract(resized[..., channel], mean[channel], out=plane, dtype=np.float32)
        np.divide(plane, std[channel], out=plane)
    return padded


@dataclass(frozen=True)
class Letterbox:
    """The place of an image in the encoder's input: upper left, padded to fill it.

    `original_size` and `input_size` are the image's (h, w) in pixels, before and after the resize.
    `canvas` is the (h, w) of the input, by default the square of `image_size` pixels a side.
    """

    original_size: tuple[int, int]
    input_size: tuple[int, int]
    image_size: int
    canvas: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.canvas == (0, 0):
            object.__setattr__(self, "canvas", (self.image_size, self.image_size))

    @classmethod
    def fit(cls, original_size: tuple[int, int], image_size: int) -> Letterbox:
        """Fit the longest side of an image of (h, w) pixels into a square of `image_size`.

        Each side is `int(side * scale + 0.5)`, as segment-anything's `ResizeLongestSide` rounds,
        and at least 1.
        """
        return cls(
            original_size, _scaled(original_size, image_size / max(original_size)), image_size
        )

    @classmethod
    def choose(
        cls,
        original_size: tuple[int, int],
        image_size: int,
        canvases: Sequence[tuple[int, int]],
        squeeze: float = SQUEEZE,
    ) -> Letterbox:
        """Choose the canvas with the least area that holds an image of (h, w) pixels.

        The image is resized as by `fit`. A side that is then too long for a canvas by a share of at
        most `squeeze` is shortened to it. Where no canvas holds the image, it is made smaller, for
        the canvas in which it stays largest. No canvases stand for the square.
        """
        square = cls.fit(original_size, image_size)
        if not canvases:
            return square
        height, width = square.input_size
        holding = [
            (high, wide)
            for high, wide in canvases
            if height <= high * (1 + squeeze) and width <= wide * (1 + squeeze)
        ]
        if holding:
            high, wide = min(holding, key=math.prod)
            return cls(
                original_size, (min(height, high), min(width, wide)), image_size, (high, wide)
            )
        scales = {
            (high, wide): min(high / original_size[0], wide / original_size[1])
            for high, wide in canvases
        }
        high, wide = min(canvases, key=lambda canvas: (-scales[canvas], math.prod(canvas)))
        height, width = _scaled(original_size, scales[high, wide])
        return cls(original_size, (min(height, high), min(width, wide)), image_size, (high, wide))

    def grid(self, side: int) -> tuple[int, int]:
        """Return the (rows, columns) of a grid over the input with `side` cells along S pixels."""
        height, width = self.canvas
        return height * side // self.image_size, width * side // self.image_size

    def to_input(self, xy: ArrayLike) -> NDArray[np.float32]:
        """Scale ...x2 (x, y) from pixels of the original image to pixels of the input.

        x * new_w / old_w, as segment-anything's `ResizeLongestSide.apply_coords` does.
        """
        (height, width), (new_height, new_width) = self.original_size, self.input_size
        scale = np.array([new_width / width, new_height / height])
        return np.asarray(np.asarray(xy, np.float64) * scale, np.float32)

    def upscale(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Resize a map over the whole input, hxw, to the original image: HxW float32.

        The map is resized to the input, cropped to the image, and resized to the original size.
        Both resizes are bilinear, with half-pixel centres and no smoothing, as in
        segment-anything's `Sam.postprocess_masks`.
        """
        height, width = self.input_size
        whole = _resize(np.asarray(logits, np.float32), self.canvas)
        return _resize(whole[:height, :width], self.original_size)

    def upscale_above(
        self, logits: NDArray[np.floating], floor: float
    ) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
        """Compute `upscale` where it may be above `floor`: a part of it, and its (rows, columns).

        What bilinear resizes make of values up to `floor` is not above it, so only the cells above
        it, and those next to them, are resized. The part is that of `upscale`, but for the rounding
        of positions: it has some pixels at least, also where nothing is above `floor`.
        """
        small = np.asarray(logits, np.float32)
        above = small > floor
        sides = zip(small.shape, self.canvas, self.input_size, self.original_size, strict=True)
        rows, columns = (
            _Window.around(np.flatnonzero(above.any(axis=1 - axis)), *side)
            for axis, side in enumerate(sides)
        )
        part = _resize(small[rows.cells, columns.cells], (rows.resized, columns.resized))
        size = (_length(rows.pixels), _length(columns.pixels))
        return _resize(part[rows.used, columns.used], size), (rows.pixels, columns.pixels)

    def upscale_mask(self, logits: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
        """Return which pixels of `upscale` are above `threshold`: HxW bool."""
        part, window = self.upscale_above(logits, threshold)
        mask = np.zeros(self.original_size, np.bool_)
        mask[window] = part > threshold
        return mask

    def upscale_taps(self, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what `upscale` reads of a map of `grid(side)`: of each row Hx3, column Wx3.

        (first, second, share): a row of the image is `1 - share` of the map's values at the
        position `first` and `share` of those at `second`, both interpolated linearly. So
        `upscale(map)` is R @ map @ C^T, where R is HxG and R[i, j] = (1 - share) * tent(first - j)
        + share * tent(second - j) with tent(d) = max(0, 1 - |d|), and C the same of the columns:
        the product of both bilinear resizes, the crop between them included.
        """
        sides = zip(self.original_size, self.input_size, self.canvas, self.grid(side), strict=True)
        rows, columns = (_taps(size, used, whole, count) for size, used, whole, count in sides)
        return rows, columns

    def token_mask(self, side: int) -> NDArray[np.float32]:
        """Mark which tokens of `grid(side)` hold any of the image: 1xgxg, 1 image, 0 padding."""
        height, width = self.input_size
        mask = np.zeros((1, *self.grid(side)), np.float32)
        mask[
            :,
            : math.ceil(height * side / self.image_size),
            : math.ceil(width * side / self.image_size),
        ] = 1
        return mask


@dataclass(frozen=True)
class _Window:
    """A part of one axis on its way from a map over the input to the original image.

    `cells` of the map become `resized` pixels of the input. `used` of these, the axis cut to the
    image, become the image's `pixels`. Both resizes of the part have the positions of the whole's.
    """

    cells: slice
    resized: int
    used: slice
    pixels: slice

    @classmethod
    def around(
        cls, found: NDArray[np.intp], count: int, whole: int, used: int, size: int
    ) -> _Window:
        """Return the part that the cells `found`, of `count`, have an influence on.

        `count` cells are resized to `whole` pixels, cut to `used`, and resized to `size`.
        """
        first, last = (found[0], found[-1]) if len(found) else (0, 0)
        cell, pixel = whole / count, size / used
        # Positions of the whole and of the part are equal where the part begins on a pixel of both.
        step = size // math.gcd(size, used)
        low = math.floor((cell * (first - 1) - 1) * pixel) - 1
        high = math.ceil((cell * (last + 2) + 1) * pixel) + 1
        low = min(max(0, low // step * step), size - step)
        high = max(min(size, -(-high // step) * step), low + step)
        begin, end = low * used // size, high * used // size
        step = count // math.gcd(count, whole)
        first = max(0, (math.floor(begin / cell) - 1) // step * step)
        past = min(count, -(-(math.ceil(end / cell) + 1) // step) * step)
        origin, resized = (cells * whole // count for cells in (first, past - first))
        return cls(
            slice(first, past), resized, slice(begin - origin, end - origin), slice(low, high)
        )


def _length(part: slice) -> int:
    length: int = part.stop - part.start
    return length


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def _positions(size: int, source: int) -> NDArray[np.float32]:
    """Return where each of `size` pixels lies among `source` ones, at most on the outermost.

    Half-pixel centres, rounded to float32 as OpenCV's `resize` rounds them.
    """
    places = (np.arange(size) + 0.5) * (source / size) - 0.5
    return np.clip(places.astype(np.float32), 0, source - 1)


def _taps(size: int, used: int, whole: int, side: int) -> NDArray[np.float32]:
    """Resize `side` positions to `whole`, cut them to `used`, resize to `size`: Nx3 of taps."""
    places = _positions(size, used)
    first = np.floor(places).astype(np.intp)
    on_map = _positions(whole, side)
    second = np.minimum(first + 1, used - 1)
    taps = (on_map[first], on_map[second], places - first)
    return np.stack(taps, axis=1, dtype=np.float32, casting="same_kind")  # Nx3


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
            f"{MAX_SIDE:,} a side, are accepted. Make it smaller first, or raise max_pixels."
        )
    # Importing numpy.ma takes longer than this check may; another thread may be halfway through.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    if masked is not None and isinstance(array, masked):
        if np.ma.is_masked(array):
            raise ImageError(
                "the image is a masked array with masked pixels, which have no colour. Pass "
                "image.filled(0), or another colour for them."
            )
        array = array.data
    return np.ascontiguousarray(array)


def _suggest_conversion(array: NDArray[Any]) -> str:
    """Suggest how to turn an array into HxWx3 uint8 RGB, judging by its shape, type and values."""
    shape = array.shape
    hints = (
        (array.ndim == 2, "Repeat grey: np.stack([image] * 3, axis=-1)."),
        (array.ndim == 4, "Pass one image at a time: images[0]."),
        (array.ndim != 3, "Give it three axes: height, width, channels."),
        (shape[-1:] != (3,) and shape[:1] == (3,), "Channels go last: image.transpose(1, 2, 0)."),
        (shape[-1:] == (4,), "Drop alpha: image[..., :3]."),
        (shape[-1:] == (1,), "Repeat grey: np.repeat(image, 3, axis=2)."),
    )
    shaped = next((hint for fits, hint in hints if fits), "")
    if array.dtype == np.uint8:
        return shaped or "Convert it to 8-bit RGB first."
    return f"{shaped} {_suggest_scaling(array)}".strip()


def _suggest_scaling(array: NDArray[Any]) -> str:
    """Suggest how to bring values to whole numbers in [0, 255], judging by those that are there."""
    kind = array.dtype.kind
    if kind not in "bfiu" or array.size == 0:
        return "Convert it to 8-bit RGB first."
    sample = array[:: max(1, array.size // SAMPLED)] if array.ndim else array
    low, high = float(sample.min()), float(sample.max())
    hints = (
        (not math.isfinite(high - low), "replace them first, by np.nan_to_num(image)"),
        (low < 0, "undo the normalisation first, then scale to [0, 255], .astype(np.uint8)"),
        (kind == "b", "image.astype(np.uint8) * 255"),
        (high <= 1, "(image * 255).round().astype(np.uint8)"),
        (
            high <= 255,
            "image.round().astype(np.uint8)" if kind == "f" else "image.astype(np.uint8)",
        ),
        (high <= 4095, "(image / 4095 * 255).round().astype(np.uint8) for 12 bits"),
        (high <= 65_535, "(image / 65535 * 255).round().astype(np.uint8)"),
    )
    how = next((hint for fits, hint in hints if fits), "scale them first, then .astype(np.uint8)")
    return f"Convert it to 8-bit RGB; its values are in [{low:g}, {high:g}]: {how}."
