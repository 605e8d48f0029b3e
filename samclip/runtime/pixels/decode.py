"""Decoding of image files, bytes and PIL images to RGB pixels, after checks of header and size.

The first bytes decide on the format, never the file's name. Each format's module keeps metadata
away from the decoder, bounds its work before it begins, and refuses pictures with missing parts.
Sizes are checked before pixels are decoded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.WebPImagePlugin import WebPImageFile

from samclip.errors import ImageError, InputWarning, SamclipError, warn_caller
from samclip.library_errors import is_library_error
from samclip.runtime.pixels.colour import convert_to_srgb, lab_to_srgb
from samclip.runtime.pixels.formats import HEAD_BYTES, READ_FLAGS, READABLE, describe, sniff
from samclip.runtime.pixels.gif import read_gif
from samclip.runtime.pixels.jpeg import read_jpeg
from samclip.runtime.pixels.picture import (
    MAX_SIDE,
    TRUNCATED,
    HeaderError,
    Pause,
    Picture,
    check_size,
    reserve,
    to_rgb,
)
from samclip.runtime.pixels.png import read_png
from samclip.runtime.pixels.pnm import read_pnm
from samclip.runtime.pixels.streams import PausedStream
from samclip.runtime.pixels.tiff import read_tiff

__all__ = ["MAX_IMAGE_BYTES", "MAX_SIDE", "convert_pil", "decode_bytes", "decode_path"]
MAX_IMAGE_BYTES = 2**29  # uncompressed RGB at the default limit of pixels has 384 MiB
DARK = 16  # of 255: the brightest level of 12 bits in samples of 16, rounded
SHOWN = 200  # characters of a path in a message
WIDE_FORMATS = frozenset({"PNG", "PPM"})  # their mode "I" holds 16 bits


def decode_path(
    path: str | bytes | PathLike[Any], max_pixels: int, pause: Pause | None = None
) -> NDArray[np.uint8]:
    """Decode a file to HWC uint8 RGB; never blocks on a FIFO. Raises ImageError.

    `pause` is called between pieces of the work, and may raise.
    """
    name, place = _name(path)
    with _open(place, name) as stream:
        contents = [stream.read(MAX_IMAGE_BYTES + 1)]
    return decode_bytes(contents.pop(), max_pixels, name, pause=pause)


def _name(path: str | bytes | PathLike[Any]) -> tuple[str, str]:
    """Return the name of a path's image in messages, and the path as text."""
    try:
        place = os.fsdecode(path)
    except Exception as error:  # of the caller's own __fspath__, too
        if not isinstance(error, TypeError):
            raise
        raise ImageError(
            f"an image cannot be a {type(path).__name__}, which gives no path. Pass a path as text."
        ) from error
    if not place:
        raise ImageError("the image's path is empty. Pass the path of an image file.")
    shown = place if len(place) <= SHOWN else place[:SHOWN] + "..."
    return f"the image {shown!r}", place


def decode_bytes(
    data: bytes,
    max_pixels: int,
    name: str = "the image",
    *,
    longest: int | None = None,
    pause: Pause | None = None,
) -> NDArray[np.uint8]:
    """Decode a file's bytes to HWC uint8 RGB, turned upright; raises ImageError.

    `name` is for messages. A JPEG whose longer side is at least twice `longest` pixels is decoded
    at a half, a quarter or an eighth of its size, never below `longest`: JPEG's cosine transform
    gives these in a fraction of the time. None decodes in full.
    """
    if not data:
        raise ImageError(f"{name} has no bytes. Pass the bytes of an image file.")
    with _as_image_error(name):
        picture = _decode(data, max_pixels, longest, pause or (lambda: None))
        del data  # it may be large
        image = convert_to_srgb(picture.image, picture.icc)
        pixels = to_rgb(image, picture.orientation, pause)
    if picture.is_deep:
        _warn_of_darkness(name, pixels)
    return pixels


def _decode(data: bytes, max_pixels: int, longest: int | None, pause: Pause) -> Picture:
    kind = sniff(data[:HEAD_BYTES])
    if kind is None:
        what = describe(data[:HEAD_BYTES])
        raise HeaderError(f"is not of the formats {READABLE}, but {what}: convert it")
    if kind == "JPEG":
        return read_jpeg(data, max_pixels, pause, longest)
    return READERS[kind](data, max_pixels, pause)


def _read_webp(data: bytes, max_pixels: int, pause: Pause) -> Picture:
    """Decode a WebP file, of an animated one the first frame."""
    check_size(_webp_size(data[:30]), max_pixels)  # the decoder allocates the canvas right away
    if 8 + int.from_bytes(data[4:8], "little") > len(data) + 1:  # an odd file may lack its padding
        raise HeaderError(TRUNCATED)
    image = _load(WebPImageFile(PausedStream(data, pause)), max_pixels, 16)
    exif, xmp, icc = (image.info.get(key) for key in ("exif", "xmp", "icc_profile"))
    return Picture(image, exif, xmp, icc)


def _read_bmp(data: bytes, max_pixels: int, pause: Pause) -> Picture:
    return Picture(_load(BmpImageFile(PausedStream(data, pause)), max_pixels, 4))


READERS: dict[str, Callable[[bytes, int, Pause], Picture]] = {
    "PNG": read_png,
    "TIFF": read_tiff,
    "GIF": read_gif,
    "PPM": read_pnm,
    "WebP": _read_webp,
    "BMP": _read_bmp,
}


def _load(image: ImageFile, max_pixels: int, bytes_per_pixel: int) -> ImageFile:
    check_size(image.size, max_pixels)
    reserve(bytes_per_pixel * image.size[0] * image.size[1])
    image.load()
    return image


def _webp_size(start: bytes) -> tuple[int, int]:
    """Read the canvas (width, height) from a WebP file's first 30 bytes (RFC 9649)."""
    if len(start) < 30:
        raise HeaderError(TRUNCATED)
    if start[12:16] == b"VP8X":
        return _little(start[24:27]) + 1, _little(start[27:30]) + 1
    if start[12:16] == b"VP8L":
        bits = _little(start[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little(start[26:28]) & 0x3FFF, _little(start[28:30]) & 0x3FFF


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def convert_pil(image: Image.Image, max_pixels: int) -> NDArray[np.uint8]:
    """Convert a PIL image to HWC uint8 RGB without changing it; raises ImageError.

    Its pixels are taken as they are. EXIF's orientation and the colour profile in its `info` may
    describe an earlier state, and are not used.
    """
    with _as_image_error("the image"):
        check_size(image.size, max_pixels)
        if isinstance(image, ImageFile) and image.tile and getattr(image.fp, "closed", True):
            raise HeaderError(
                "is a PIL image whose file was closed before its pixels were read: call "
                "image.load() before the file is closed, or pass the file's path"
            )
        image.load()
        pixels = to_rgb(_plain(image))
        if image.mode.startswith("I;16"):
            _warn_of_darkness("the PIL image", pixels)
    if isinstance(image, ImageFile):  # nobody cropped or turned it into another one
        exif, xmp = (image.info.get(key) for key in ("exif", "xmp"))
        stored = Picture(image, exif, xmp)
        if stored.orientation != 1:
            warn_caller(
                f"the PIL image is used as it is, though its file says that it is stored turned "
                f"(EXIF orientation {stored.orientation}). Pass the file's path, or "
                "PIL.ImageOps.exif_transpose(image).",
                InputWarning,
            )
    return pixels


def _warn_of_darkness(name: str, pixels: NDArray[np.uint8]) -> None:
    """Warn of samples of 16 bits that use 12 or fewer, such as a camera's or a depth map's."""
    if 0 < pixels.max() <= DARK:
        warn_caller(
            f"{name} has samples of 16 bits, which end below 4,096 of 65,535: it is used as nearly "
            "black. If it holds fewer bits, as a camera's 12 or distances, scale it to the whole "
            "range first.",
            InputWarning,
        )


def _plain(image: Image.Image) -> Image.Image:
    """Bring an image of one of Pillow's rarer modes to one that converts to RGB."""
    if image.mode in ("La", "RGBa"):  # colours that were multiplied with alpha
        return image.convert(image.mode.upper())
    if image.mode == "I" and image.format in WIDE_FORMATS:
        values = np.clip(np.asarray(image), 0, 65_535)
        return Image.fromarray(values.astype(np.uint16))
    if image.mode == "LAB":
        return lab_to_srgb(image)
    return image


@contextmanager
def _as_image_error(name: str) -> Iterator[None]:
    """Turn the decoders' errors into ImageError: on hostile bytes they raise any kind.

    Other errors pass: too little memory, and what the caller's own code raised in between.
    """
    try:
        yield
    except HeaderError as error:
        raise ImageError(f"{name} {error}.", steps=error.steps) from error
    except SamclipError:  # of a pause
        raise
    except Exception as error:
        if "out of memory" in str(error):  # Pillow's OSError
            raise MemoryError(f"{name} needs more memory than there is") from error
        if not is_library_error(error, "PIL", "numpy"):
            raise
        raise ImageError(
            f"{name} cannot be decoded: {error or type(error).__name__}. It is damaged or of a "
            "rare kind: save it again as PNG or JPEG."
        ) from error


@contextmanager
def _open(path: str, name: str) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, READ_FLAGS)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, TimeoutError | InterruptedError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{name} cannot be opened: {reason}. {_path_hint(path)}") from error
    try:
        _check_status(os.fstat(descriptor), name)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def _path_hint(path: str) -> str:
    if path.startswith("data:"):
        return "Decode the data URL, and pass the bytes."
    if "://" in path:
        return "Download it first."
    try:
        return f"It is a link to {os.fspath(Path(path).readlink())!r}, which is not there."
    except (OSError, ValueError):
        return "Check the path."


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
