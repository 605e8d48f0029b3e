"""PBM, PGM and PPM files, binary or as text, decoded by numpy.

Samples are in [0, maxval], as the file says; they are scaled to [0, 255], rounded.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.runtime.pixels.picture import (
    TRUNCATED,
    HeaderError,
    Pause,
    Picture,
    check_size,
    scale_to_8_bits,
)

MAX_HEADER = 10_000  # bytes, comments included
TOKEN = re.compile(rb"(?:[ \t\n\v\f\r]|#[^\r\n]*[\r\n])*([0-9]+)")
SPACE = re.compile(rb"[ \t\n\v\f\r]")
PIECE = 2**20  # bytes of text that are read at once


def read_pnm(data: bytes, max_pixels: int, pause: Pause) -> Picture:
    """Decode a PBM, PGM or PPM file, of several images the first; raises HeaderError."""
    kind, position, header = data[1] - ord("0"), 2, []
    for _ in range(2 if kind in (1, 4) else 3):
        found = TOKEN.match(data, position, MAX_HEADER)
        if found is None or len(found[1]) > 10:
            raise HeaderError("has a broken header: save it again")
        header.append(int(found[1]))
        position = found.end()
    width, height, largest = (*header, 1)[:3]
    check_size((width, height), max_pixels)
    if not 1 <= largest <= 65_535:
        raise HeaderError(f"has samples in [0, {largest}], expected at most 65,535: save it again")
    channels = 3 if kind in (3, 6) else 1
    if kind < 4:
        samples = _read_text(data[position:], kind, width * height * channels, pause)
    else:
        samples = _read_binary(memoryview(data)[position + 1 :], kind, width, height, largest)
    if kind in (1, 4):
        pixels = np.where(samples, np.uint8(0), np.uint8(255))  # 1 is black
    else:
        pixels = scale_to_8_bits(samples, largest)
    shape = (height, width, 3) if channels == 3 else (height, width)
    return Picture(Image.fromarray(pixels.reshape(shape)))


def _read_binary(
    body: memoryview, kind: int, width: int, height: int, largest: int
) -> NDArray[np.unsignedinteger]:
    if kind == 4:
        row = (width + 7) // 8
        packed = _take(body, row * height, np.dtype(np.uint8)).reshape(height, row)
        return np.asarray(np.unpackbits(packed, axis=1, count=width), np.uint8)
    count = width * height * (3 if kind == 6 else 1)
    return _take(body, count, np.dtype(">u2") if largest > 255 else np.dtype(np.uint8))


def _take(
    body: memoryview, count: int, dtype: np.dtype[np.unsignedinteger]
) -> NDArray[np.unsignedinteger]:
    if len(body) < count * dtype.itemsize:
        raise HeaderError(TRUNCATED)
    samples: NDArray[np.unsignedinteger] = np.frombuffer(body, dtype, count)
    return samples


def _read_text(body: bytes, kind: int, count: int, pause: Pause) -> NDArray[np.unsignedinteger]:
    """Read numbers between white space, or for a PBM single digits."""
    body = re.sub(rb"#[^\r\n]*", b"", body) if b"#" in body else body
    if kind == 1:
        text = np.frombuffer(body, np.uint8)
        digits: NDArray[np.uint8] = text[text > ord(" ")][:count] - np.uint8(ord("0"))
        if len(digits) < count:
            raise HeaderError(TRUNCATED)
        if digits.size and digits.max() > 1:
            raise HeaderError("has other digits than 0 and 1: save it again")
        return digits
    parts, found, position = [], 0, 0
    while found < count and position < len(body):
        pause()
        end = SPACE.search(body, position + PIECE)
        piece = np.frombuffer(body[position : end.start() if end else None], np.uint8)
        parts.append(_numbers(piece))
        found += len(parts[-1])
        position = end.end() if end else len(body)
    if found < count:
        raise HeaderError(TRUNCATED)
    return np.concatenate(parts)[:count]


def _numbers(text: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Read decimal numbers of at most 5 digits between white space."""
    is_digit = (text >= ord("0")) & (text <= ord("9"))
    edges = np.flatnonzero(np.diff(is_digit, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    longest = int((ends - starts).max(initial=0))
    if longest > 5 or (text[~is_digit] > ord(" ")).any():
        raise HeaderError("has samples that are not numbers of at most 65,535: save it again")
    values = np.zeros(len(starts), np.uint32)
    for place in range(longest):
        at = ends - 1 - place
        digits = np.where(at >= starts, text[at] - np.uint8(ord("0")), np.uint8(0))
        values += digits * np.uint32(10**place)
    return values
