"""Image files: sound ones of every kind, ones that are refused, and headers of huge images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROWS, COLUMNS = np.mgrid[0:40, 0:60]
GREY = (ROWS * 3 + COLUMNS * 2).astype(np.uint8)
RGB = np.dstack([GREY, GREY[::-1], 255 - GREY])  # 40x60x3, smooth
GREY_AS_RGB = np.dstack([GREY] * 3)


def encode(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    """Write an image in one of Pillow's formats."""
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def in_mode(name: str) -> Image.Image:
    """The picture in one of Pillow's modes."""
    if name == "I;16":
        return Image.fromarray(GREY.astype(np.uint16) * 257)
    if name in {"LA", "RGBA"}:
        image = Image.fromarray(RGB).convert(name)
        image.putalpha(Image.fromarray(GREY))
        return image
    return Image.fromarray(RGB).convert(name)


def in_mode_and_back(name: str) -> NDArray[np.uint8]:
    """The picture as RGB again, with the losses of a mode but without its transparency."""
    return np.asarray(Image.fromarray(RGB).convert(name).convert("RGB"))


# Name -> the file, the pixels it must give, and by how much lossy formats may differ.
KINDS: dict[str, tuple[bytes, NDArray[np.uint8], int]] = {
    "PNG RGB": (encode(RGB, "PNG"), RGB, 0),
    "PNG L": (encode(GREY, "PNG"), GREY_AS_RGB, 0),
    "PNG LA": (encode(in_mode("LA"), "PNG"), in_mode_and_back("L"), 0),
    "PNG RGBA": (encode(in_mode("RGBA"), "PNG"), RGB, 0),
    "PNG P": (encode(in_mode("P"), "PNG"), in_mode_and_back("P"), 0),
    "PNG P, one clear colour": (
        encode(in_mode("P"), "PNG", transparency=3),
        in_mode_and_back("P"),
        0,
    ),
    "PNG P with alpha": (
        encode(in_mode("P"), "PNG", transparency=bytes(range(256))),
        in_mode_and_back("P"),
        0,
    ),
    "PNG L, one clear grey": (encode(GREY, "PNG", transparency=3), GREY_AS_RGB, 0),
    "PNG 1": (encode(in_mode("1"), "PNG"), in_mode_and_back("1"), 0),
    "PNG 16 bit": (encode(in_mode("I;16"), "PNG"), GREY_AS_RGB, 0),
    "PNG animated": (
        encode(RGB, "PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        RGB,
        0,
    ),
    "JPEG RGB": (encode(RGB, "JPEG", quality=95), RGB, 12),
    "JPEG L": (encode(GREY, "JPEG", quality=95), GREY_AS_RGB, 12),
    "JPEG CMYK": (encode(in_mode("CMYK"), "JPEG", quality=95), in_mode_and_back("CMYK"), 12),
    "JPEG progressive": (encode(RGB, "JPEG", quality=95, progressive=True), RGB, 12),
    "JPEG of two (MPO)": (
        encode(RGB, "MPO", quality=95, save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        RGB,
        12,
    ),
    "JPEG and more": (encode(RGB, "JPEG", quality=95) + b"\xff\xda motion photo" * 99, RGB, 12),
    "PNG and more": (encode(RGB, "PNG") + b"more" * 99, RGB, 0),
    "WebP": (encode(RGB, "WEBP", quality=95), RGB, 20),
    "WebP lossless": (encode(RGB, "WEBP", lossless=True), RGB, 0),
    "WebP RGBA": (encode(in_mode("RGBA"), "WEBP", lossless=True, exact=True), RGB, 0),
    "WebP animated": (
        encode(
            RGB, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(RGB[::-1])]
        ),
        RGB,
        0,
    ),
    "BMP": (encode(RGB, "BMP"), RGB, 0),
    "BMP L": (encode(GREY, "BMP"), GREY_AS_RGB, 0),
    "TIFF": (encode(RGB, "TIFF"), RGB, 0),
    "TIFF LZW": (encode(RGB, "TIFF", compression="tiff_lzw"), RGB, 0),
    "TIFF JPEG": (encode(RGB, "TIFF", compression="jpeg"), RGB, 40),
    "TIFF CMYK": (encode(in_mode("CMYK"), "TIFF"), in_mode_and_back("CMYK"), 0),
    "TIFF 16 bit": (encode(in_mode("I;16"), "TIFF"), GREY_AS_RGB, 0),
    "TIFF 1": (encode(in_mode("1"), "TIFF"), in_mode_and_back("1"), 0),
    "TIFF of two pages": (
        encode(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        RGB,
        0,
    ),
    "GIF": (encode(in_mode("P"), "GIF"), in_mode_and_back("P"), 0),
    "GIF animated": (
        encode(GREY, "GIF", save_all=True, append_images=[Image.fromarray(GREY[::-1])]),
        GREY_AS_RGB,
        0,
    ),
    "PPM": (encode(RGB, "PPM"), RGB, 0),
    "PGM": (encode(GREY, "PPM"), GREY_AS_RGB, 0),
    "PGM 16 bit": (
        b"P5 60 40 65535\n" + (GREY.astype(">u2") * 257).tobytes(),
        GREY_AS_RGB,
        0,
    ),
    "PBM": (encode(in_mode("1"), "PPM"), in_mode_and_back("1"), 0),
}
# Name -> a file that is not an image, or not of a kind that is read.
REFUSED = {
    "TIFF F": encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "TIFF I": encode(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    "ICO": encode(in_mode("RGB"), "ICO"),
    "TGA": encode(in_mode("RGB"), "TGA"),
    "PDF": encode(in_mode("RGB"), "PDF"),
    "EPS": encode(in_mode("RGB"), "EPS"),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 99,
    "HEIC": b"\0\0\0\x18ftypheic" + b"\0" * 99,
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "WAV": b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 99,
    "ZIP": b"PK\x03\x04" + b"\0" * 99,
    "text": b"hello",
    "one byte": b"\xff",
    "zeros": b"\0" * 1000,
    "PNG without pixels": b"\x89PNG\r\n\x1a\n",
    "JPEG without pixels": b"\xff\xd8\xff\xd9",
    "GIF without frame": b"GIF89a\1\0\1\0\0\0\0;",
    "PPM of 0 pixels": b"P6 0 0 255\n",
    "PPM with a comment for ever": b"P6 #" + b"x" * 10_000,
}


def chunk(name: bytes, data: bytes, spoil: int = 0) -> bytes:
    """A chunk of a PNG; its checksum is wrong by the bits `spoil`."""
    checksum = zlib.crc32(name + data) ^ spoil
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has a few bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def patch(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def jpeg_header(width: int, height: int) -> bytes:
    data = KINDS["JPEG RGB"][0]
    return patch(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


def gif_frame(width: int, height: int) -> bytes:
    """A GIF of 1x1 whose frame is larger."""
    data = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    return data + b",\0\0\0\0" + struct.pack("<HHB", width, height, 0) + b"\2\2\x4c\1\0;"


def tiff_tile(width: int, height: int) -> bytes:
    """A TIFF of 16x16 whose one tile is larger."""
    tags = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (277, 1)]
    tags += [(322, width), (323, height), (324, 0), (325, 256)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(300)


def webp_canvas(width: int, height: int) -> bytes:
    body = b"VP8X\x0a\0\0\0\0\0\0\0" + (width - 1).to_bytes(3, "little")
    body += (height - 1).to_bytes(3, "little") + KINDS["WebP"][0][12:]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


# Name -> a file of this size (width, height) by its header, but without such pixels.
HUGE: dict[str, Callable[[int, int], bytes]] = {
    "PNG": png_header,
    "JPEG": jpeg_header,
    "GIF screen": lambda w, h: patch(KINDS["GIF"][0], 6, struct.pack("<HH", w, h)),
    "GIF frame": gif_frame,
    "BMP": lambda w, h: patch(KINDS["BMP"][0], 18, struct.pack("<II", w, h)),
    "PPM": lambda w, h: b"P6 %d %d 255\n" % (w, h),
    "WebP": webp_canvas,
    "TIFF tile": tiff_tile,
}
