"""What COCO's and LVIS's JSON files hold (cocodataset.org and lvisdataset.org, "data format").

LVIS adds to COCO's fields: for an image the categories that are known to be absent, and those of
which not every object is annotated; for a category how common it is. Its images have no file
names, but addresses, whose last two parts are COCO's folder and file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from pycocotools import mask as coco_mask

from samclip.errors import InputError
from samclip.runtime.results.coco_outlines import check_counts, check_polygon, check_size

SHORTEST_POLYGON = 6  # numbers: a triangle
SHOWN = 100  # characters of a name in a message

Known = TypeVar("Known")
RleDict = dict[str, Any]  # pycocotools' form: size and counts


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
        """Where its file may be, below a folder of photos: by name, and by COCO's split."""
        tail = "/".join(self.coco_url.split("/")[-2:])
        own = (self.file_name,) if self.file_name else ()
        return (*own, *((tail, tail.rpartition("/")[2]) if tail else ()))

    @property
    def title(self) -> str:
        """What messages call it."""
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
    """A category; `frequency` is LVIS's: in how many photos it was seen, rare to frequent."""

    id: int
    name: str
    frequency: Literal["r", "c", "f"] | None = None


class Instances(msgspec.Struct, frozen=True):
    """A whole file."""

    images: list[ImageRecord]
    annotations: list[Annotation]
    categories: list[Category]


def listed(
    annotation: Annotation,
    images: Mapping[int, ImageRecord],
    categories: Mapping[int, Known],
    path: Path,
) -> tuple[ImageRecord, Known]:
    """Find an annotation's image and category by their ids; InputError when `path` lacks one."""
    image, category = images.get(annotation.image_id), categories.get(annotation.category_id)
    if image is None or category is None:
        raise InputError(
            f"{path} has an annotation of image {annotation.image_id} and category "
            f"{annotation.category_id}, and does not list both. Export it again."
        )
    return image, category


def to_rle(shape: list[list[float]] | Rle, image: ImageRecord) -> RleDict | None:
    """Encode polygons, or counts as numbers, by pycocotools; None for no polygon at all.

    Raises InputError for counts of another size than the image's, and for outlines that cannot be
    those of an image.
    """
    size = (image.height, image.width)
    if isinstance(shape, Rle) and shape.size != size:
        raise InputError(
            f"an outline of (h, w) = {shape.size} belongs to the photo {image.title}, which "
            f"has {size}. Export the annotations again."
        )
    try:
        check_size(size)
        return _packed(shape) if isinstance(shape, Rle) else _drawn(shape, size)
    except ValueError as error:
        raise InputError(
            f"an outline of the photo {image.title} {error}. Export the annotations again."
        ) from error


def _packed(shape: Rle) -> RleDict:
    check_counts(shape.counts, shape.size)
    plain = {"size": list(shape.size), "counts": shape.counts}
    is_packed = isinstance(shape.counts, str)
    return plain if is_packed else dict(coco_mask.frPyObjects(plain, *shape.size))


def _drawn(polygons: list[list[float]], size: tuple[int, int]) -> RleDict | None:
    kept = [polygon for polygon in polygons if len(polygon) >= SHORTEST_POLYGON]
    for polygon in kept:
        check_polygon(polygon, size)
    return dict(coco_mask.merge(coco_mask.frPyObjects(kept, *size))) if kept else None
