"""COCO's and LVIS's annotation files: their records, and outlines checked for pycocotools.

The fields are those of "data format" on cocodataset.org and lvisdataset.org. LVIS adds, for an
image, the categories that are known to be absent and those of which not every object is annotated;
for a category, how common it is. Its images have no file names but URLs, whose last two parts are
COCO's folder and file.

Outlines are checked first, because pycocotools trusts its input: run lengths that do not fill their
mask leave the rest uninitialised, and coordinates far outside the image make it write beyond its
memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from samclip.errors import InputError

MAX_PIXELS = 2**28  # of a mask; photos are refused at a third of that
MAX_STEPS = 2**26  # along an outline: pycocotools keeps two integers for each
STEPS_PER_PIXEL = 5  # pycocotools draws at five times the size
SHORTEST_POLYGON = 6  # numbers: a triangle
SHOWN = 100  # characters of a name in a message
# Packed run lengths: the range of their characters, and the masks of a character's six bits.
FIRST, LAST = 48, 111
MORE, VALUE, SIGN, BITS = 0x20, 0x1F, 0x10, 5
MAX_DIGITS = 6  # of 5 bits each: enough for MAX_PIXELS and a sign
Known = TypeVar("Known")
RleDict = dict[str, Any]  # pycocotools' form: "size" and "counts"


class Rle(msgspec.Struct, frozen=True):
    """COCO's run-length encoding: counts as numbers, or as compressed text."""

    size: tuple[int, int]
    counts: list[int] | str


class ImageRecord(msgspec.Struct, frozen=True):
    """An image; the last two fields are LVIS's, ids of categories."""

    id: int
    width: int
    height: int
    file_name: str = ""
    coco_url: str = ""
    neg_category_ids: list[int] | None = None
    not_exhaustive_category_ids: list[int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Paths at which the file may be, below a folder of photos: by name, by COCO's split."""
        paths = [self.file_name] if self.file_name else []
        if self.coco_url:
            tail = "/".join(self.coco_url.split("/")[-2:])
            paths += [tail, tail.rpartition("/")[2]]
        return tuple(paths)

    @property
    def title(self) -> str:
        """The image as error messages call it."""
        return repr(self.names[0][:SHOWN]) if self.names else f"with the id {self.id}"


class Annotation(msgspec.Struct, frozen=True):
    """An object: its outline, its box XYWH, and its area as annotators' tools counted it."""

    image_id: int
    category_id: int
    segmentation: list[list[float]] | Rle
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    area: float | None = None


class Category(msgspec.Struct, frozen=True):
    """A category; `frequency` is LVIS's: "r" for rare, "c" for common, "f" for frequent."""

    id: int
    name: str
    frequency: Literal["r", "c", "f"] | None = None


class CocoFile(msgspec.Struct, frozen=True):
    """An annotation file."""

    images: list[ImageRecord]
    annotations: list[Annotation]
    categories: list[Category]


def find_image_and_category(
    annotation: Annotation,
    images: Mapping[int, ImageRecord],
    categories: Mapping[int, Known],
    path: Path,
) -> tuple[ImageRecord, Known]:
    """Return an annotation's image and category by their ids; InputError if `path` lacks one."""
    image, category = images.get(annotation.image_id), categories.get(annotation.category_id)
    if image is None or category is None:
        raise InputError(
            f"{path} has an annotation of image {annotation.image_id} and category "
            f"{annotation.category_id}, but does not list both. Export it again."
        )
    return image, category


def to_rle(shape: list[list[float]] | Rle, image: ImageRecord) -> RleDict | None:
    """Encode polygons, or plain run lengths, as packed RLE; None when there is no polygon.

    Raises InputError for run lengths of another size than the image's, and for outlines that no
    image can have.
    """
    size = (image.height, image.width)
    if isinstance(shape, Rle) and shape.size != size:
        raise InputError(
            f"an outline of (h, w) = {shape.size} belongs to the photo {image.title}, which "
            f"has {size}. Export the annotations again."
        )
    try:
        check_size(size)
        return _pack_counts(shape) if isinstance(shape, Rle) else _draw_polygons(shape, size)
    except ValueError as error:
        raise InputError(
            f"an outline of the photo {image.title} {error}. Export the annotations again."
        ) from error


def _pack_counts(shape: Rle) -> RleDict:
    check_counts(shape.counts, shape.size)
    plain = {"size": list(shape.size), "counts": shape.counts}
    is_packed = isinstance(shape.counts, str)
    return plain if is_packed else dict(coco_mask.frPyObjects(plain, *shape.size))


def _draw_polygons(polygons: list[list[float]], size: tuple[int, int]) -> RleDict | None:
    kept = [polygon for polygon in polygons if len(polygon) >= SHORTEST_POLYGON]
    for polygon in kept:
        check_polygon(polygon, size)
    return dict(coco_mask.merge(coco_mask.frPyObjects(kept, *size))) if kept else None


def check_size(size: tuple[int, int]) -> None:
    """Refuse a mask of (h, w) pixels that has none, or too many; raises ValueError."""
    if min(size) < 1 or math.prod(size) > MAX_PIXELS:
        raise ValueError(f"is of (h, w) = {size}, expected 1 to {MAX_PIXELS:,} pixels")


def check_counts(counts: Sequence[int] | str, size: tuple[int, int]) -> None:
    """Refuse run lengths, plain or packed, that do not add up to (h, w) pixels.

    Raises ValueError.
    """
    pixels = math.prod(size)
    numbers: list[int] = unpack_counts(counts).tolist() if isinstance(counts, str) else [*counts]
    if not all(0 <= number <= pixels for number in numbers) or sum(numbers) != pixels:
        raise ValueError(f"has run lengths that do not add up to the {pixels:,} pixels of {size}")


def unpack_counts(text: str) -> NDArray[np.int64]:
    """Unpack run lengths as `rleFrString` of COCO's API does; raises ValueError.

    A character holds six bits: five bits of a number, lowest first, and whether more bits follow.
    From the fourth on, a number is the difference from the number two places before.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64)
    if len(codes) and not (codes.min() >= FIRST and codes.max() <= LAST):
        raise ValueError("has packed run lengths with characters that are not allowed there")
    bits = codes - FIRST
    ends = np.flatnonzero(bits & MORE == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends + 1 - starts
    if len(bits) and (not len(ends) or ends[-1] != len(bits) - 1 or digits.max() > MAX_DIGITS):
        raise ValueError("has packed run lengths, of which one does not end")
    if not len(bits):
        return np.zeros(0, np.int64)
    places = np.arange(len(bits)) - np.repeat(starts, digits)
    numbers = np.add.reduceat((bits & VALUE) << BITS * places, starts)
    numbers -= np.where(bits[ends] & SIGN, np.int64(1) << BITS * digits, 0)
    for first in (1, 2):  # numbers 3, 5, 7 ... build on 1; 4, 6, 8 ... on 2
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def check_polygon(polygon: Sequence[float], size: tuple[int, int]) -> None:
    """Refuse a polygon, x and y in turn, that lies far outside of (h, w) pixels or is too long.

    Raises ValueError.
    """
    points = np.asarray(polygon[: len(polygon) // 2 * 2], np.float64).reshape(-1, 2)  # Nx2
    side = np.array(size[::-1], np.float64)  # w, h
    if not ((-side <= points) & (points <= 2 * side)).all():
        raise ValueError(f"has points far outside of its (h, w) = {size}, or that are not numbers")
    edges = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    if (STEPS_PER_PIXEL * edges + 2).sum() > MAX_STEPS:
        raise ValueError(f"is longer than {MAX_STEPS // STEPS_PER_PIXEL:,} pixels")
