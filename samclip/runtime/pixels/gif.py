"""GIF files: the first frame, checked to be whole, on the screen that the file describes."""

from __future__ import annotations

from io import BytesIO

from PIL.GifImagePlugin import GifImageFile

from samclip.runtime.pixels.picture import (
    DAMAGED,
    HeaderError,
    Pause,
    Picture,
    check_size,
    reserve,
)
from samclip.runtime.pixels.streams import Feeder

MAX_BLOCKS = 2_000_000  # of up to 255 bytes
PIECE = 2**16  # bytes that are fed at once


def read_gif(data: bytes, max_pixels: int, pause: Pause) -> Picture:
    """Decode the first frame of a GIF file; raises HeaderError."""
    clean, size = _first_frame(data)
    check_size(size, max_pixels)
    check_size((_number(data, 6), _number(data, 8)), max_pixels)
    reserve(4 * size[0] * size[1])
    image = GifImageFile(BytesIO(clean))
    feeder = Feeder(image, DAMAGED)
    for position in range(image.tile[0].offset, len(clean), PIECE):
        pause()
        feeder.feed(clean[position : position + PIECE])
    if not feeder.finished:
        raise HeaderError(DAMAGED)
    image.tile = []
    return Picture(image)


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _first_frame(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """Return a file of the first frame alone, and the frame's lower right corner, (x, y)."""
    position = 13 + _table_bytes(data, 10)
    head, control = data[:position], b""
    for _ in range(MAX_BLOCKS):
        kind = data[position : position + 1]
        if kind == b"!":
            end = _skip_blocks(data, position + 2)
            if data[position + 1 : position + 2] == b"\xf9":  # colours to see through, and delays
                control = data[position:end]
            position = end
        elif kind == b"," and len(data) > position + 10:
            left, top, width, height = (_number(data, position + i) for i in (1, 3, 5, 7))
            start = position + 10 + _table_bytes(data, position + 9)
            end = _skip_blocks(data, start + 1)
            return head + control + data[position:end] + b";", (left + width, top + height)
        else:
            break
    raise HeaderError("is a GIF without a whole frame: save it again")


def _table_bytes(data: bytes, at: int) -> int:
    """Bytes of the colour table that the flags at a position announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(data: bytes, position: int) -> int:
    """Return the place after a chain of blocks; raises HeaderError where its end is missing."""
    for _ in range(MAX_BLOCKS):
        if position >= len(data):
            raise HeaderError(DAMAGED)
        length = data[position]
        position += 1 + length
        if length == 0:
            return position
    raise HeaderError(f"has more than {MAX_BLOCKS:,} blocks: save it again")
