"""TIFF files of any kind of samples, written from the specification."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Page:
    """One picture: HxWxS samples and how they are stored; `tags` are added, or replace others."""

    samples: NDArray[Any]
    photometric: int = 2
    bits: int = 8
    planar: bool = False
    tile: int = 0  # pixels of a side; 0 for strips
    rows: int = 7  # of a strip
    deflate: bool = False
    predictor: bool = False
    tags: dict[int, tuple[int, Sequence[int]]] = field(default_factory=dict)


def write_tiff(pages: Sequence[Page], order: str = "<", big: bool = False) -> bytes:
    """Write a chain of pictures, in either byte order, as classic TIFF or BigTIFF."""
    body = bytearray(16)
    starts = []
    for page in pages:
        entries = _entries(page, body, order)
        starts.append(_write_directory(body, entries, order, big))
    for number, (start, link) in enumerate(starts):
        following = starts[number + 1][0] if number + 1 < len(starts) else 0
        struct.pack_into(f"{order}{'Q' if big else 'I'}", body, link, following)
        if number == 0:
            body[:2] = b"II" if order == "<" else b"MM"
            form, first = ("HHHQ", (43, 8, 0, start)) if big else ("HI", (42, start))
            struct.pack_into(f"{order}{form}", body, 2, *first)
    return bytes(body)


def _entries(page: Page, body: bytearray, order: str) -> dict[int, tuple[int, Sequence[int]]]:
    height, width, count = page.samples.shape
    stored = []
    for plane in np.split(page.samples, count, axis=2) if page.planar else [page.samples]:
        stored += [_pack(piece, page, order) for piece in _cut(plane, page)]
    offsets = []
    for data in stored:
        offsets.append(len(body))
        body += data
    where, sizes = (324, 325) if page.tile else (273, 279)
    entries = {
        254: (4, [0]),
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [page.bits] * count),
        259: (3, [8 if page.deflate else 1]),
        262: (3, [page.photometric]),
        277: (3, [count]),
        284: (3, [2 if page.planar else 1]),
        317: (3, [2 if page.predictor else 1]),
        where: (4, offsets),
        sizes: (4, [len(data) for data in stored]),
    }
    entries |= (
        {322: (4, [page.tile]), 323: (4, [page.tile])} if page.tile else {278: (4, [page.rows])}
    )
    return entries | page.tags


def _cut(plane: NDArray[Any], page: Page) -> list[NDArray[Any]]:
    height, width = plane.shape[:2]
    if not page.tile:
        return [plane[top : top + page.rows] for top in range(0, height, page.rows)]
    side = page.tile
    padded = np.pad(plane, ((0, -height % side), (0, -width % side), (0, 0)))
    return [
        padded[top : top + side, left : left + side]
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def _pack(piece: NDArray[Any], page: Page, order: str) -> bytes:
    if page.predictor:
        piece = np.diff(piece, axis=1, prepend=piece[:, :1] * 0)
    if page.bits < 8 or page.bits == 12:
        ones = piece.reshape(len(piece), -1, 1) >> np.arange(page.bits)[::-1] & 1
        data = np.packbits(ones.reshape(len(piece), -1).astype(np.uint8), axis=1).tobytes()
    else:
        data = piece.astype(piece.dtype.newbyteorder(order)).tobytes()
    return zlib.compress(data) if page.deflate else data


def _write_directory(
    body: bytearray, entries: dict[int, tuple[int, Sequence[int]]], order: str, big: bool
) -> tuple[int, int]:
    """Append a directory; returns where it is, and where its link to the next one is."""
    word, inline = ("Q", 8) if big else ("I", 4)
    packed = {}
    for tag, (kind, values) in sorted(entries.items()):
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}[kind]
        data = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(data) > inline:
            body += bytes(len(body) % 2)
            at = len(body)
            body += data
            data = struct.pack(f"{order}{word}", at)
        packed[tag] = struct.pack(f"{order}HH{word}", tag, kind, len(values)) + data.ljust(
            inline, b"\0"
        )
    body += bytes(len(body) % 2)
    start = len(body)
    body += struct.pack(f"{order}{'Q' if big else 'H'}", len(packed)) + b"".join(packed.values())
    link = len(body)
    body += bytes(inline)
    return start, link
