"""A folder in COCO's layout: `images/` and `instances.json` (cocodataset.org, "data format")."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from samclip.benchmarks.data.json_file import read_json
from samclip.errors import InputError
from samclip.runtime.images.image import load_image

ANNOTATIONS, IMAGES = "instances.json", "images"
SHORTEST_POLYGON = 6  # numbers: a triangle


class Rle(msgspec.Struct, frozen=True):
    """COCO's run-length encoding: counts as numbers, or as compressed text."""

    size: tuple[int, int]
    counts: list[int] | str


class _Image(msgspec.Struct, frozen=True):
    id: int
    file_name: str
    width: int
    height: int


class _Annotation(msgspec.Struct, frozen=True):
    image_id: int
    category_id: int
    segmentation: list[list[float]] | Rle
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(msgspec.Struct, frozen=True):
    id: int
    name: str


class _Instances(msgspec.Struct, frozen=True):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True)
class CocoObject:
    """One object: `category`, an index into the names; `box`, XYXY in pixels of its photo.

    `rle`: its outline in pycocotools' form; `area`: its pixels.
    """

    category: int
    box: tuple[float, float, float, float]
    rle: dict[str, Any]
    area: int

    def mask(self) -> NDArray[np.bool_]:
        """Draw it: HxW bool."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools', under numpy 2
            return np.asarray(coco_mask.decode(self.rle), np.bool_)


@dataclass(frozen=True)
class CocoPhoto:
    """A photo of (h, w) = `size` pixels and the objects in it, crowds left out."""

    path: Path
    size: tuple[int, int]
    objects: tuple[CocoObject, ...]

    def pixels(self) -> NDArray[np.uint8]:
        """Read it: HWC uint8 RGB; raises ImageError, and InputError for another size."""
        image = load_image(self.path)
        if image.shape[:2] != self.size:
            raise InputError(
                f"{self.path} has (h, w) = {image.shape[:2]} pixels, its annotations are of "
                f"{self.size}. Use the photos that the annotations were made for."
            )
        return image


@dataclass(frozen=True)
class CocoFolder:
    """The photos that have objects, in the order of their file names, and the category `names`.

    `left_out`: how many annotations were left out, by reason.
    """

    path: Path
    names: tuple[str, ...]
    photos: tuple[CocoPhoto, ...]
    left_out: dict[str, int]


def read_coco(folder: Path) -> CocoFolder:
    """Read a folder in COCO's layout; crowds and objects without a pixel or a box are left out.

    Raises InputError for another layout, a photo that is missing, or an annotation of nothing.
    """
    expected = "COCO annotations: images, annotations with segmentation and bbox, categories"
    instances = read_json(folder / ANNOTATIONS, _Instances, expected)
    places = {category.id: place for place, category in enumerate(instances.categories)}
    images = {image.id: image for image in instances.images}
    objects: dict[int, list[CocoObject]] = {number: [] for number in images}
    left_out: Counter[str] = Counter()
    for annotation in instances.annotations:
        image, place = images.get(annotation.image_id), places.get(annotation.category_id)
        if image is None or place is None:
            raise InputError(
                f"{folder / ANNOTATIONS} has an annotation of image {annotation.image_id} and "
                f"category {annotation.category_id}, and does not list both. Export it again."
            )
        if annotation.iscrowd:
            left_out["crowds"] += 1
        elif found := _make_object(annotation, image, place):
            objects[image.id].append(found)
        else:
            left_out["objects without a pixel or a box"] += 1
    photos = tuple(_photos(folder, instances.images, objects))
    if not photos:
        raise InputError(f"{folder / ANNOTATIONS} has no object that can be used.")
    names = tuple(category.name for category in instances.categories)
    return CocoFolder(folder, names, photos, dict(left_out))


def _photos(
    folder: Path, images: Iterable[_Image], objects: dict[int, list[CocoObject]]
) -> Iterator[CocoPhoto]:
    for image in sorted(images, key=lambda image: image.file_name):
        if not objects[image.id]:
            continue
        path = folder / IMAGES / image.file_name
        if not path.is_file():
            raise InputError(
                f"there is no photo {path}, which {ANNOTATIONS} names. Expected the photos in "
                f"{folder / IMAGES}."
            )
        yield CocoPhoto(path, (image.height, image.width), tuple(objects[image.id]))


def _make_object(annotation: _Annotation, image: _Image, place: int) -> CocoObject | None:
    """Bring an annotation into one form; None when its outline or its box is empty."""
    x, y, width, height = annotation.bbox
    rle = _to_rle(annotation.segmentation, image)
    if rle is None or min(width, height) <= 0:
        return None
    area = int(coco_mask.area(rle))
    return CocoObject(place, (x, y, x + width, y + height), rle, area) if area else None


def _to_rle(shape: list[list[float]] | Rle, image: _Image) -> dict[str, Any] | None:
    """Encode polygons, or counts as numbers, by pycocotools; None for no polygon at all."""
    if isinstance(shape, Rle):
        if shape.size != (image.height, image.width):
            raise InputError(
                f"{ANNOTATIONS}: an outline of (h, w) = {shape.size} belongs to the photo "
                f"{image.file_name}, which has {(image.height, image.width)}. Export it again."
            )
        plain = {"size": list(shape.size), "counts": shape.counts}
        is_packed = isinstance(shape.counts, str)
        return plain if is_packed else dict(coco_mask.frPyObjects(plain, *shape.size))
    polygons = [polygon for polygon in shape if len(polygon) >= SHORTEST_POLYGON]
    if not polygons:
        return None
    parts = coco_mask.frPyObjects(polygons, image.height, image.width)
    return dict(coco_mask.merge(parts))
