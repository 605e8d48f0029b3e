"""What an image file says of itself before Pillow decodes anything, and whether it is all there.

The format is told by the first bytes, never by the name. Each format's own class of Pillow is
used rather than `PIL.Image.open`, which looks at more formats and warns about sizes by a global
limit; the limit here is the caller's.
"""

from __future__ import annotations

from typing import BinaryIO

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

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


class HeaderError(Exception):
    """Why a file is no image that is read; the message completes "this image ..."."""


def open_header(stream: BinaryIO, max_pixels: int) -> ImageFile:
    """Read an image's header: Pillow's object, not decoded yet.

    Raises HeaderError for a format that is not read or a size over the limits; whatever Pillow
    raises for a broken header.
    """
    start = stream.read(30)
    kind = next((kind for signature, kind in SIGNATURES if start.startswith(signature)), None)
    if kind is None:
        raise HeaderError(UNKNOWN)
    if kind is WebPImageFile:  # its decoder allocates the canvas at once
        check_size(_webp_size(start), max_pixels)
    if kind is GifImageFile:  # whose frame may be larger than its screen
        check_size(_gif_frame_size(stream), max_pixels)
    stream.seek(0)
    image = kind(stream)
    check_size(image.size, max_pixels)
    if isinstance(image, TiffImageFile):  # whose tile may be larger than its image
        width, height = (image.tag_v2.get(tag, 1) for tag in TILE_SIDES)
        check_size((int(width), int(height)), max_pixels)
    return image


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Check a (width, height) in pixels; raises HeaderError."""
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
    """Read where a GIF's first frame ends, (x, y) in pixels (GIF89a, sections 18 to 26)."""
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
    """Check that a JPEG or PNG file has its end, which Pillow does not miss.

    `kind` is Pillow's name of the format. Raises HeaderError.
    """
    stream.seek(0)
    complete = {"JPEG": _has_jpeg_end, "PNG": _has_png_end}.get(kind)
    if complete and not complete(stream):
        raise HeaderError("is truncated: copy or download it again")


def _has_jpeg_end(stream: BinaryIO) -> bool:
    """Look for the marker EOI after the first scan's start; before it a thumbnail may have one."""
    stream.seek(2)
    while len(marker := stream.read(2)) == 2 and marker[0] == 0xFF and marker[1] != 0xDA:
        if marker[1] == 0xFF:  # markers may be padded
            stream.seek(-1, 1)
        else:
            stream.seek(max(0, int.from_bytes(stream.read(2), "big") - 2), 1)
    return b"\xff\xd9" in stream.read()


def _has_png_end(stream: BinaryIO) -> bool:
    """Walk the chunks to IEND and its checksum."""
    stream.seek(8)
    while len(chunk := stream.read(8)) == 8:
        if chunk[4:] == b"IEND":
            return len(stream.read(4)) == 4
        stream.seek(int.from_bytes(chunk[:4], "big") + 4, 1)
    return False
