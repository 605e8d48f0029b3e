"""Directories of TIFF files: their tags, the bytes of their strips or tiles, and files of one.

Classic TIFF and BigTIFF, in both byte orders.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from typing import BinaryIO, Literal

from samclip.runtime.pixels.picture import DAMAGED, HeaderError, Pause
from samclip.runtime.pixels.streams import join

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
SAMPLES, ROWS, PLANAR, PREDICTOR, COLOURS = 277, 278, 284, 317, 320
STRIPS, STRIP_SIZES, TILES, TILE_SIZES, TILE_WIDTH, TILE_LENGTH = 273, 279, 324, 325, 322, 323
EXTRA, FORMAT, SUBSAMPLING, BLACK_WHITE = 338, 339, 530, 532
ORIENTATION, SUBFILE, OLD_SUBFILE, SUB_IFDS, ICC, XMP = 274, 254, 255, 330, 34675, 700
KEPT = {WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, ROWS, PLANAR, PREDICTOR}
KEPT |= {COLOURS, TILE_WIDTH, TILE_LENGTH, EXTRA, FORMAT, SUBSAMPLING, BLACK_WHITE}
KEPT |= {292, 293, 347, 529, 531}  # options of fax and JPEG, and of YCbCr
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SIZES |= {16: 8, 17: 8, 18: 8}  # bytes of one value, by its type
MAX_ENTRIES, MAX_DIRECTORIES = 4096, 1024
MAX_BLOCK = 2**24  # bytes of one tag
MAX_STORED = 2**29  # bytes of all strips or tiles, as of a whole file


@dataclass(frozen=True)
class Directory:
    """One picture's tags: tag -> type, count, and the values' bytes in the file's byte order."""

    tags: dict[int, tuple[int, int, bytes]]
    order: Literal["little", "big"]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return a tag's whole numbers; none where it is absent or of another type."""
        kind, count, raw = self.tags.get(tag, (3, 0, b""))
        size = SIZES[kind]
        if kind not in (1, 3, 4, 13, 16, 18):
            return ()
        mark = "<" if self.order == "little" else ">"
        code = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
        return struct.unpack(f"{mark}{count}{code}", raw)

    def number(self, tag: int, default: int) -> int:
        """Return a tag's first whole number, or `default`."""
        return next(iter(self.numbers(tag)), default)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.number(WIDTH, 0), self.number(LENGTH, 0)

    @property
    def is_reduced(self) -> bool:
        """Whether this is a smaller copy of another picture, or a mask."""
        return bool(self.number(SUBFILE, 0) & 5) or self.number(OLD_SUBFILE, 1) == 2

    @property
    def photometric(self) -> int:
        """How samples are to be understood."""
        return self.number(PHOTOMETRIC, 0)

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of each sample."""
        return self.numbers(BITS) or (1,)

    @property
    def samples(self) -> int:
        """Samples of each pixel."""
        return self.number(SAMPLES, 1)

    @property
    def planes(self) -> int:
        """Planes that are stored apart: 1, or as many as samples."""
        return self.samples if self.number(PLANAR, 1) == 2 else 1

    @property
    def piece(self) -> tuple[int, int]:
        """(width, height) of a strip or tile, in pixels."""
        width, height = self.size
        if TILES in self.tags:
            return self.number(TILE_WIDTH, 0), self.number(TILE_LENGTH, 0)
        return width, min(height, self.number(ROWS, height))


def read_directories(data: bytes) -> Iterator[Directory]:
    """Yield the chain's directories and those below them, none twice; raises HeaderError."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    is_big = 43 in data[2:4]
    waiting, seen = [int.from_bytes(data[8:16] if is_big else data[4:8], order)], set[int]()
    while waiting and len(seen) < MAX_DIRECTORIES:
        offset = waiting.pop(0)
        if offset in seen or not 8 <= offset < len(data):
            if not seen:
                raise HeaderError(DAMAGED)
            continue
        seen.add(offset)
        page, following = _read_directory(data, offset, order, is_big)
        yield page
        waiting = [following, *waiting] if following else waiting
        waiting += page.numbers(SUB_IFDS)[:64]


def _read_directory(
    data: bytes, offset: int, order: Literal["little", "big"], is_big: bool
) -> tuple[Directory, int]:
    """Read one directory, and the offset of the next; 0 at the chain's end."""
    word, entry_size, inline = (8, 20, 8) if is_big else (4, 12, 4)
    start = offset + (8 if is_big else 2)
    count = int.from_bytes(data[offset:start], order)
    end = start + count * entry_size
    if count > MAX_ENTRIES or end > len(data):
        raise HeaderError(DAMAGED)
    tags: dict[int, tuple[int, int, bytes]] = {}
    for at in range(start, end, entry_size):
        tag, kind = (int.from_bytes(data[i : i + 2], order) for i in (at, at + 2))
        number = int.from_bytes(data[at + 4 : at + 4 + word], order)
        size = SIZES.get(kind, 0) * number
        if not 0 < size <= MAX_BLOCK:
            continue
        values = at + 4 + word
        if size > inline:
            values = int.from_bytes(data[values : values + inline], order)
        if values + size <= len(data):  # else the tag is as good as absent
            tags.setdefault(tag, (kind, number, data[values : values + size]))
    return Directory(tags, order), int.from_bytes(data[end : end + word], order)


def pieces(data: bytes, page: Directory) -> list[memoryview]:
    """Return the stored bytes of each strip or tile; raises HeaderError where they are missing."""
    tiled = bool(page.numbers(TILES))
    offsets = page.numbers(TILES if tiled else STRIPS)
    counts = page.numbers(TILE_SIZES if tiled else STRIP_SIZES)
    view, (_, height), (_, rows) = memoryview(data), page.size, page.piece
    if len(counts) < len(offsets):
        if page.number(COMPRESSION, 1) != 1 or tiled:
            raise HeaderError(DAMAGED)
        row = row_bytes(page)
        down = ceil(height / rows)
        counts = tuple(row * min(rows, height - i % down * rows) for i in range(len(offsets)))
    found = [view[at : at + size] for at, size in zip(offsets, counts, strict=False)]
    if sum(counts) > MAX_STORED:
        raise HeaderError("has strips or tiles that overlap: save it again")
    if any(len(part) < size for part, size in zip(found, counts, strict=False)):
        raise HeaderError(DAMAGED)
    return found


def row_bytes(page: Directory) -> int:
    """Bytes of a row of one strip or tile, of one plane."""
    bits = sum(page.bits) if len(page.bits) == page.samples else page.bits[0] * page.samples
    return (page.piece[0] * bits // page.planes + 7) // 8


def write_tiff(parts: list[memoryview], page: Directory, pause: Pause) -> BinaryIO:
    """Write a file of one picture with strips or tiles `parts`, and no tag that is not needed.

    Returns a stream to read it from.
    """
    tags = {tag: value for tag, value in page.tags.items() if tag in KEPT}
    mark = "<" if page.order == "little" else ">"
    for tag, (kind, count, _) in tags.items():
        if kind in (13, 16, 18):  # of BigTIFF
            tags[tag] = (4, count, struct.pack(f"{mark}{count}I", *page.numbers(tag)))
    places = (TILES, TILE_SIZES) if TILES in page.tags else (STRIPS, STRIP_SIZES)
    sizes = [len(part) for part in parts]
    *offsets, start = accumulate(sizes, initial=8)
    for tag, values in zip(places, (offsets, sizes), strict=True):
        tags[tag] = (4, len(values), struct.pack(f"{mark}{len(values)}I", *values))
    entries, extra = b"", b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, (kind, count, raw) in sorted(tags.items()):
        value = raw.ljust(4, b"\0")
        if len(raw) > 4:
            value = struct.pack(f"{mark}I", after + len(extra))
            extra += raw + bytes(len(raw) % 2)
        entries += struct.pack(f"{mark}HHI", tag, kind, count) + value
    header = (b"II*\0" if page.order == "little" else b"MM\0*") + struct.pack(f"{mark}I", start)
    directory = struct.pack(f"{mark}H", len(tags)) + entries + bytes(4) + extra
    return join([header, *parts, directory], pause)
