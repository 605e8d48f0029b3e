"""Outlines of COCO's files, checked before pycocotools sees them.

It trusts what it is given: run lengths that do not fill their mask leave the rest of it as the
memory was, and coordinates far outside the image make it write beyond its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 2**28  # of a mask; photos are refused at a third of that
MAX_STEPS = 2**26  # along an outline: pycocotools keeps two integers for each
STEPS_PER_PIXEL = 5  # pycocotools draws at five times the size
FIRST, LAST = 48, 111  # characters of packed counts
MORE, VALUE, SIGN, BITS = 0x20, 0x1F, 0x10, 5  # of such a character's six bits
MAX_DIGITS = 6  # of 5 bits, for numbers up to MAX_PIXELS, and their sign


def check_size(size: tuple[int, int]) -> None:
    """Refuse an image of (h, w) pixels without any, or with too many; raises ValueError."""
    if min(size) < 1 or math.prod(size) > MAX_PIXELS:
        raise ValueError(f"is of (h, w) = {size}, expected 1 to {MAX_PIXELS:,} pixels")


def check_counts(counts: Sequence[int] | str, size: tuple[int, int]) -> None:
    """Refuse run lengths, plain or packed, that are not those of (h, w) pixels.

    Raises ValueError.
    """
    pixels = math.prod(size)
    numbers: list[int] = unpack_counts(counts).tolist() if isinstance(counts, str) else [*counts]
    if not all(0 <= number <= pixels for number in numbers) or sum(numbers) != pixels:
        raise ValueError(f"has run lengths that do not add up to the {pixels:,} pixels of {size}")


def unpack_counts(text: str) -> NDArray[np.int64]:
    """Read packed run lengths, as `rleFrString` of COCO's API does; raises ValueError.

    Six bits a character: five of a number, the lowest first, and whether more of it follows. From
    the fourth on, numbers are the difference to the last but one.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64)
    if len(codes) and not (codes.min() >= FIRST and codes.max() <= LAST):
        raise ValueError("has packed run lengths with characters that these do not have")
    bits = codes - FIRST
    ends = np.flatnonzero(bits & MORE == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends + 1 - starts
    if len(bits) and (not len(ends) or ends[-1] != len(bits) - 1 or digits.max() > MAX_DIGITS):
        raise ValueError("has packed run lengths of which one does not end")
    if not len(bits):
        return np.zeros(0, np.int64)
    places = np.arange(len(bits)) - np.repeat(starts, digits)
    numbers = np.add.reduceat((bits & VALUE) << BITS * places, starts)
    numbers -= np.where(bits[ends] & SIGN, np.int64(1) << BITS * digits, 0)
    for first in (1, 2):  # numbers 3, 5, 7 ... build on 1; 4, 6, 8 ... on 2
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def check_polygon(polygon: Sequence[float], size: tuple[int, int]) -> None:
    """Refuse a polygon, x and y in turn, that lies beyond all reason outside of (h, w) pixels.

    Raises ValueError.
    """
    points = np.asarray(polygon[: len(polygon) // 2 * 2], np.float64).reshape(-1, 2)  # Nx2
    side = np.array(size[::-1], np.float64)  # w, h
    if not ((-side <= points) & (points <= 2 * side)).all():
        raise ValueError(f"has points far outside of its (h, w) = {size}, or that are no numbers")
    edges = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    if (STEPS_PER_PIXEL * edges + 2).sum() > MAX_STEPS:
        raise ValueError(f"is longer than {MAX_STEPS // STEPS_PER_PIXEL:,} pixels")
