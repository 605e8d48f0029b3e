"""A decoded picture with what its file says of orientation and colours, and its RGB pixels."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose

from samclip.engines.steps import ChangeSettings
from samclip.errors import Step

ORIENTATION = 0x0112
XMP_ORIENTATION = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([0-9])""")
MAX_SIDE = 65_535  # pixels: what JPEG can say; resizing longer lines takes gigabytes
WHOLE_PIXELS = 2**22  # larger pictures are converted in bands, to hold one copy less
BAND_PIXELS = 2**18
TRANSPOSES = {  # undo EXIF's orientations 2 to 8 (EXIF 2.32, section 4.6.4)
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
# For each orientation, the stored picture as a view of the upright array, HWC.
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: np.rot90(upright.transpose(1, 0, 2), 2),
    8: lambda upright: np.rot90(upright, -1),
}


Pause = Callable[[], None]  # called between pieces of work; may raise, to stop it
# Reasons of a HeaderError.
TRUNCATED = "is truncated: copy or download it again"
DAMAGED = "is truncated or damaged: copy or download it again"


class HeaderError(Exception):
    """A reason not to read an image; the message completes the sentence "this image ...".

    `steps`: what can be done, for the error that the caller gets.
    """

    def __init__(self, reason: str, steps: tuple[Step, ...] = ()) -> None:
        super().__init__(reason)
        self.steps = steps


@dataclass
class Picture:
    """Pixels as a file stores them.

    `image`: decoded, in any of Pillow's modes; `exif` and `xmp`: the file's blocks, for the
    orientation; `icc`: its colour profile; `stated`: an orientation that needs no block; `is_deep`:
    samples have 16 bits in the file. Blocks may be broken.
    """

    image: Image.Image
    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    stated: int | None = None
    is_deep: bool = False

    @property
    def orientation(self) -> int:
        """EXIF's orientation, 1 to 8, or XMP's where EXIF has none; 1 where they are broken."""
        found = _exif_orientation(self.exif) if self.exif else self.stated
        if found is None and self.xmp and (match := XMP_ORIENTATION.search(self.xmp)):
            found = int(match[1])
        return found if found in TRANSPOSES else 1


def _exif_orientation(exif: bytes) -> int | None:
    """Read tag 0x0112 of the first directory: a TIFF header, then entries of 12 bytes."""
    start = exif.find(b"Exif\0\0", 0, 6) + 6 if exif.startswith(b"Exif\0\0") else 0
    order = {b"II": "little", b"MM": "big"}.get(exif[start : start + 2])
    if order is None:
        return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[start + at : start + at + size], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if start + entry + 12 > len(exif):
            return None
        if number(entry, 2) == ORIENTATION:
            return number(entry + 8, 2 if number(entry + 2, 2) == 3 else 4)
    return None


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Check (width, height) in pixels against the limits; raises HeaderError."""
    width, height = size
    if width * height > max_pixels:
        raise HeaderError(
            f"has {width} x {height} pixels, at most {max_pixels:,} are read: make it smaller, or "
            "raise max_pixels",
            (ChangeSettings(("max_pixels",)),),
        )
    if max(size) > MAX_SIDE:
        raise HeaderError(
            f"has {width} x {height} pixels, a side may have {MAX_SIDE:,}: cut it into pieces"
        )
    if min(size) < 1:
        raise HeaderError(f"has {width} x {height} pixels: save it again")


def reserve(count: int) -> None:
    """Raise MemoryError where `count` bytes cannot be had; decoders call a lack of them damage."""
    np.empty(count, np.uint8)


def to_rgb(
    image: Image.Image, orientation: int = 1, pause: Pause | None = None
) -> NDArray[np.uint8]:
    """Convert a decoded image to HWC uint8 RGB, turned upright from an EXIF orientation.

    As in `convert("RGB")`, alpha is dropped, grey repeated and CMYK converted without a profile;
    16-bit grey is scaled to 8 bits, rounded. Raises HeaderError for pixels of unknown range.
    """
    width, height = image.size
    if width * height <= WHOLE_PIXELS:
        rgb = _convert(image)
        if orientation in TRANSPOSES:
            rgb = rgb.transpose(TRANSPOSES[orientation])
        return np.asarray(rgb)
    turned = orientation in (5, 6, 7, 8)
    pixels = np.empty((width, height, 3) if turned else (height, width, 3), np.uint8)
    stored = STORED[orientation](pixels) if orientation in STORED else pixels
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        if pause is not None:
            pause()
        stored[top:bottom] = np.asarray(_convert(image.crop((0, top, width, bottom))))
    return pixels


def _convert(image: Image.Image) -> Image.Image:
    """Convert to Pillow's mode RGB; `image` may be returned itself."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = to_8_bits(image)
    if isinstance(image.info.get("transparency"), bytes):  # a palette with alpha
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, [0, 65535], to 8 bits, rounded; HeaderError for other deep pixels."""
    if not image.mode.startswith("I;16"):
        raise HeaderError(
            f"has pixels of mode {image.mode!r}, whose range is unknown: scale it to 8 bits"
        )
    return Image.fromarray(scale_to_8_bits(np.asarray(image), 65_535))


def scale_to_8_bits(values: NDArray[np.unsignedinteger], largest: int) -> NDArray[np.uint8]:
    """Scale whole numbers in [0, largest] to [0, 255], rounded; larger ones count as `largest`.

    Those that are in [0, 255] already are returned themselves.
    """
    if largest == 255 and values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    inside = values if np.iinfo(values.dtype).max <= largest else np.minimum(values, largest)
    return np.asarray(_levels(largest)[inside], np.uint8)


@lru_cache(maxsize=4)  # of a large picture's bands
def _levels(largest: int) -> NDArray[np.uint8]:
    """Return the level in [0, 255] of each number in [0, largest]."""
    steps = np.arange(largest + 1, dtype=np.uint64)
    return ((steps * 255 + largest // 2) // largest).astype(np.uint8)
