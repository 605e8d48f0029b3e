"""From a file, bytes or a PIL image to pixels, with Pillow."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from os import PathLike
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose

from samclip.errors import ImageError
from samclip.runtime.images.headers import HeaderError, check_end, check_size, open_header

MAX_IMAGE_BYTES = 2**29  # uncompressed RGB at the default limit of pixels has 256 MiB
BINARY: int = getattr(os, "O_BINARY", 0)  # of Windows
ORIENTATION = 0x0112
WIDE_FORMATS = frozenset({"PNG", "PPM"})  # whose mode "I" holds 16 bits
TRANSPOSES = {  # what undoes EXIF's orientation 2 to 8 (EXIF 2.32, section 4.6.4)
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def decode_path(path: str | PathLike[str], max_pixels: int) -> NDArray[np.uint8]:
    """Decode a file to HWC uint8 RGB; never blocks on a FIFO. Raises ImageError."""
    name = f"the image {os.fspath(path)!r}"
    with _open(path, name) as stream:
        return _decode(stream, name, max_pixels)


def decode_bytes(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a file's bytes to HWC uint8 RGB; raises ImageError."""
    if not data:
        raise ImageError("the image has no bytes. Pass those of an image file.")
    return _decode(BytesIO(data), "the image", max_pixels)


def convert_pil(image: Image.Image, max_pixels: int) -> NDArray[np.uint8]:
    """Convert a PIL image, which stays as it is, to HWC uint8 RGB; raises ImageError."""
    with _translated("the image"):
        check_size(image.size, max_pixels)
        return _to_rgb(image)


def _decode(stream: BinaryIO, name: str, max_pixels: int) -> NDArray[np.uint8]:
    with _translated(name), open_header(stream, max_pixels) as image:
        pixels = _to_rgb(image)
        check_end(stream, str(image.format))
        return pixels


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn what the decoders raise on hostile bytes, which may be anything, into ImageError."""
    try:
        yield
    except HeaderError as error:
        raise ImageError(f"{name} {error}.") from error
    except Exception as error:
        raise ImageError(
            f"{name} cannot be decoded: {error or type(error).__name__}. It is damaged or of a "
            "rare kind: save it again as PNG or JPEG."
        ) from error


@contextmanager
def _open(path: str | PathLike[str], name: str) -> Iterator[BinaryIO]:
    try:  # NONBLOCK: a FIFO without a writer would never open
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | BINARY)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        hint = "Download it first." if "://" in os.fspath(path) else "Check the path."
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{name} cannot be opened: {reason}. {hint}") from error
    try:
        _check_status(os.fstat(descriptor), name)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def _check_status(status: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name} is a directory. Give one file at a time.")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name} is not a plain file. Save it to one, or pass its bytes.")
    if status.st_size == 0:
        raise ImageError(f"{name} is empty. Check how it was written.")
    if status.st_size > MAX_IMAGE_BYTES:
        raise ImageError(
            f"{name} has {status.st_size:,} bytes, at most {MAX_IMAGE_BYTES:,} are read. "
            "Compress it or make it smaller."
        )


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Decode, apply EXIF's orientation and convert to HWC uint8 RGB.

    As `convert("RGB")` does, alpha is dropped, grey repeated and CMYK converted without profiles.
    """
    image.load()
    orientation = image.getexif().get(ORIENTATION)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(image)
    if isinstance(image.info.get("transparency"), bytes):  # a palette with alpha
        image = image.convert("RGBA")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if orientation in TRANSPOSES:
        rgb = rgb.transpose(TRANSPOSES[orientation])
    return np.asarray(rgb)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, [0, 65535], to 8 bits, rounded; of other deep pixels no range is known."""
    is_16_bit = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in WIDE_FORMATS
    )
    if not is_16_bit:
        raise HeaderError(
            f"has pixels of mode {image.mode!r}, whose range is unknown: scale it to 8 bits"
        )
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8))
