"""Photos with outlined objects: a folder in COCO's layout, or in LVIS's."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from samclip.benchmarks.data.coco_layout import CocoLayout, find_layout
from samclip.benchmarks.data.json_file import read_json
from samclip.errors import InputError
from samclip.runtime.pixels.image import load_image
from samclip.runtime.results.coco import (
    Annotation,
    Category,
    ImageRecord,
    Instances,
    RleDict,
    listed,
    to_rle,
)


@dataclass(frozen=True)
class CocoObject:
    """One object: `category`, an index into the names; `box`, XYXY in pixels of its photo.

    `rle`: its outline in pycocotools' form; `area`: its pixels; `stated_area`: its area as the
    annotations state it, of the polygon, by which COCO and LVIS sort objects into sizes.
    """

    category: int
    box: tuple[float, float, float, float]
    rle: RleDict
    area: int
    stated_area: float

    def mask(self) -> NDArray[np.bool_]:
        """Draw it: HxW bool."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools', under numpy 2
            return np.asarray(coco_mask.decode(self.rle), np.bool_)


@dataclass(frozen=True)
class CocoPhoto:
    """A photo of (h, w) = `size` pixels and the objects in it, crowds apart.

    `number`: its id in the annotations. In a federated data set, where nobody looked for every
    category in every photo: `absent`, categories that are known not to be in it, and
    `incomplete`, those of which not every object is annotated.
    """

    path: Path
    size: tuple[int, int]
    objects: tuple[CocoObject, ...]
    crowds: tuple[CocoObject, ...] = ()
    number: int = 0
    absent: frozenset[int] = frozenset()
    incomplete: frozenset[int] = frozenset()

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
class Categories:
    """K categories: their ids and names, and in LVIS how frequent each is: "r", "c" or "f".

    `federated`: not every photo was searched for every category (Gupta et al. 2019, section 2).
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    frequencies: tuple[str | None, ...]
    federated: bool

    @property
    def finds_per_photo(self) -> int:
        """How many of a detector's finds COCO's evaluation looks at, and LVIS's."""
        return 300 if self.federated else 100


@dataclass(frozen=True)
class CocoFolder:
    """The photos that have objects, in the order of their file names, and the categories.

    `bare`: photos without objects, which count where a detector's finds are judged. `left_out`:
    how many annotations were left out, by reason.
    """

    path: Path
    categories: Categories
    photos: tuple[CocoPhoto, ...]
    bare: tuple[CocoPhoto, ...]
    left_out: dict[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the categories."""
        return self.categories.names

    @property
    def layout(self) -> str:
        """What kind of annotations these are."""
        return "LVIS" if self.categories.federated else "COCO"


def read_coco(folder: Path, annotations: Path | None = None) -> CocoFolder:
    """Read a folder in COCO's or LVIS's layout; `annotations`: which file, None to look for it.

    Objects without a pixel or a box are left out; crowds stand apart. Raises InputError for
    another layout, a photo that is missing, or an annotation of nothing.
    """
    layout = find_layout(folder, annotations)
    expected = "COCO annotations: images, annotations with segmentation and bbox, categories"
    instances = read_json(layout.annotations, Instances, expected)
    categories = _categories(instances)
    places = {number: place for place, number in enumerate(categories.ids)}
    left_out: Counter[str] = Counter()
    objects = _objects(layout, instances, places, left_out)
    images = sorted(instances.images, key=lambda image: image.names)
    photos = [_photo(layout, image, objects[image.id], places) for image in images]
    if not any(photo.objects for photo in photos):
        raise InputError(
            f"{layout.annotations} has no object with a box and a pixel, on {len(photos)} photos. "
            "Give annotations of objects."
        )
    whole = tuple(photo for photo in photos if photo.objects)
    bare = tuple(photo for photo in photos if not photo.objects)
    return CocoFolder(folder, categories, whole, bare, dict(left_out))


def _categories(instances: Instances) -> Categories:
    federated = any(image.neg_category_ids is not None for image in instances.images)
    found = instances.categories

    def name(category: Category) -> str:
        return category.name.replace("_", " ") if federated else category.name  # as LVIS writes

    return Categories(
        tuple(category.id for category in found),
        tuple(map(name, found)),
        tuple(category.frequency for category in found),
        federated,
    )


def _objects(
    layout: CocoLayout,
    instances: Instances,
    places: Mapping[int, int],
    left_out: Counter[str],
) -> dict[int, list[tuple[bool, CocoObject]]]:
    """Sort objects by image, each with whether it is a crowd; counts what is left out."""
    images = {image.id: image for image in instances.images}
    objects: dict[int, list[tuple[bool, CocoObject]]] = defaultdict(list)
    for annotation in instances.annotations:
        image, place = listed(annotation, images, places, layout.annotations)
        found = _make_object(annotation, image, place)
        if annotation.iscrowd:
            left_out["crowds"] += 1
        elif not found:
            left_out["objects without a pixel or a box"] += 1
        if found:
            objects[image.id].append((bool(annotation.iscrowd), found))
    return objects


def _make_object(annotation: Annotation, image: ImageRecord, place: int) -> CocoObject | None:
    """Bring an annotation into one form; None when its outline or its box is empty."""
    x, y, width, height = annotation.bbox
    rle = to_rle(annotation.segmentation, image)
    if rle is None or min(width, height) <= 0:
        return None
    area = int(coco_mask.area(rle))
    stated = area if annotation.area is None else annotation.area
    box = (x, y, x + width, y + height)
    return CocoObject(place, box, rle, area, stated) if area else None


def _photo(
    layout: CocoLayout,
    image: ImageRecord,
    objects: list[tuple[bool, CocoObject]],
    places: Mapping[int, int],
) -> CocoPhoto:
    def known(numbers: list[int] | None) -> frozenset[int]:
        return frozenset(places[number] for number in numbers or () if number in places)

    return CocoPhoto(
        layout.photo(image),
        (image.height, image.width),
        tuple(found for crowd, found in objects if not crowd),
        tuple(found for crowd, found in objects if crowd),
        image.id,
        known(image.neg_category_ids),
        known(image.not_exhaustive_category_ids),
    )
