"""Decoding of image files, bytes and PIL images with Pillow, after checks of header and size.

The first bytes decide on the format, never the file's name. Each format's own Pillow class is used
instead of `PIL.Image.open`, which tries more formats and warns about sizes by a global limit; the
limit here is the caller's. Sizes are checked before pixels are decoded, and the file's end after.
"""

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
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from samclip.errors import ImageError

MAX_SIDE = 65_535  # pixels: what JPEG can say; resizing longer lines takes gigabytes
UNKNOWN = "is not of the formats JPEG, PNG, WebP, BMP, TIFF, GIF and PPM: convert it"
SIGNATURES: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),  # and MPO, whose first picture it is
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
    (b"GIF8", GifImageFile),
    *((b"P%d" % kind, PpmImageFile) for kind in range(1, 7)),
)
TILE_SIDES = (322, 323)  # TIFF tags TileWidth and TileLength
MAX_IMAGE_BYTES = 2**29  # uncompressed RGB at the default limit of pixels has 256 MiB
BINARY: int = getattr(os, "O_BINARY", 0)  # on Windows only
ORIENTATION = 0x0112
WIDE_FORMATS = frozenset({"PNG", "PPM"})  # their mode "I" holds 16 bits
TRANSPOSES = {  # undo EXIF's orientations 2 to 8 (EXIF 2.32, section 4.6.4)
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class HeaderError(Exception):
    """A reason not to read an image; the message completes the sentence "this image ..."."""


def decode_path(path: str | PathLike[str], max_pixels: int) -> NDArray[np.uint8]:
    """Decode a file to HWC uint8 RGB; never blocks on a FIFO. Raises ImageError."""
    name = f"the image {os.fspath(path)!r}"
    with _open(path, name) as stream:
        return _decode(stream, name, max_pixels)


def decode_bytes(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a file's bytes to HWC uint8 RGB; raises ImageError."""
    if not data:
        raise ImageError("the image has no bytes. Pass the bytes of an image file.")
    return _decode(BytesIO(data), "the image", max_pixels)


def convert_pil(image: Image.Image, max_pixels: int) -> NDArray[np.uint8]:
    """Convert a PIL image to HWC uint8 RGB without changing it; raises ImageError."""
    with _as_image_error("the image"):
        check_size(image.size, max_pixels)
        return _to_rgb(image)


def _decode(stream: BinaryIO, name: str, max_pixels: int) -> NDArray[np.uint8]:
    with _as_image_error(name), open_header(stream, max_pixels) as image:
        pixels = _to_rgb(image)
        check_end(stream, str(image.format))
        return pixels


@contextmanager
def _as_image_error(name: str) -> Iterator[None]:
    """Turn any exception of the decoders into ImageError: on hostile bytes they raise any kind."""
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


def open_header(stream: BinaryIO, max_pixels: int) -> ImageFile:
    """Read an image's header and return Pillow's object, which is not decoded yet.

    Raises HeaderError for an unknown format or a size over the limits. For a broken header it
    raises whatever Pillow raises.
    """
    start = stream.read(30)
    kind = next((kind for signature, kind in SIGNATURES if start.startswith(signature)), None)
    if kind is None:
        raise HeaderError(UNKNOWN)
    if kind is WebPImageFile:  # its decoder allocates the canvas right away
        check_size(_webp_size(start), max_pixels)
    if kind is GifImageFile:  # its frame may be larger than its screen
        check_size(_gif_frame_size(stream), max_pixels)
    stream.seek(0)
    image = kind(stream)
    check_size(image.size, max_pixels)
    if isinstance(image, TiffImageFile):  # its tile may be larger than the image
        width, height = (image.tag_v2.get(tag, 1) for tag in TILE_SIDES)
        check_size((int(width), int(height)), max_pixels)
    return image


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Check (width, height) in pixels against the limits; raises HeaderError."""
    width, height = size
    if width * height > max_pixels:
        raise HeaderError(
            f"has {width} x {height} pixels, at most {max_pixels:,} are read: make it smaller"
        )
    if max(size) > MAX_SIDE:
        raise HeaderError(
            f"has {width} x {height} pixels, a side may have {MAX_SIDE:,}: cut it into pieces"
        )


def _webp_size(start: bytes) -> tuple[int, int]:
    """Read the canvas (width, height) from a WebP file's first 30 bytes (RFC 9649)."""
    if start[8:12] != b"WEBP" or len(start) < 30:
        raise HeaderError(UNKNOWN)
    if start[12:16] == b"VP8X":
        return _little(start[24:27]) + 1, _little(start[27:30]) + 1
    if start[12:16] == b"VP8L":
        bits = _little(start[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little(start[26:28]) & 0x3FFF, _little(start[28:30]) & 0x3FFF


def _gif_frame_size(stream: BinaryIO) -> tuple[int, int]:
    """Read the lower right corner of a GIF's first frame, (x, y) in pixels (GIF89a, 18 to 26)."""
    stream.seek(10)
    flags = stream.read(3)[:1]
    if flags and flags[0] & 0x80:
        stream.seek(3 << (flags[0] & 7) + 1, 1)  # the colour table
    while (block := stream.read(1)) == b"!":
        stream.seek(1, 1)
        while length := stream.read(1):
            if length == b"\0":
                break
            stream.seek(length[0], 1)
    frame = stream.read(8)
    if block != b"," or len(frame) < 8:
        raise HeaderError("is a GIF without a frame: save it again")
    left, top, width, height = (_little(frame[i : i + 2]) for i in range(0, 8, 2))
    return left + width, top + height


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def check_end(stream: BinaryIO, kind: str) -> None:
    """Check that a JPEG or PNG file is complete, because Pillow decodes truncated ones too.

    `kind` is Pillow's name of the format. Raises HeaderError.
    """
    has_end = {"JPEG": _has_jpeg_end, "PNG": _has_png_end}.get(kind)
    if has_end and not has_end(stream):
        raise HeaderError("is truncated: copy or download it again")


def _has_jpeg_end(stream: BinaryIO) -> bool:
    """Look for the marker EOI after the first scan's start; a thumbnail before it has its own."""
    stream.seek(2)
    while len(marker := stream.read(2)) == 2 and marker[0] == 0xFF and marker[1] != 0xDA:
        if marker[1] == 0xFF:  # markers may be padded
            stream.seek(-1, 1)
        else:
            stream.seek(max(0, int.from_bytes(stream.read(2), "big") - 2), 1)
    return b"\xff\xd9" in stream.read()


def _has_png_end(stream: BinaryIO) -> bool:
    """Walk the chunks as far as IEND and its checksum."""
    stream.seek(8)
    while len(chunk := stream.read(8)) == 8:
        if chunk[4:] == b"IEND":
            return len(stream.read(4)) == 4
        stream.seek(int.from_bytes(chunk[:4], "big") + 4, 1)
    return False


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Decode, apply EXIF's orientation and convert to HWC uint8 RGB.

    As in `convert("RGB")`, alpha is dropped, grey repeated and CMYK converted without profiles.
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
    """Scale 16-bit grey, [0, 65535], to 8 bits, rounded; HeaderError for other deep pixels."""
    is_16_bit = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in WIDE_FORMATS
    )
    if not is_16_bit:
        raise HeaderError(
            f"has pixels of mode {image.mode!r}, whose range is unknown: scale it to 8 bits"
        )
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8))
