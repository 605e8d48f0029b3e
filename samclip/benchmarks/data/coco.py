"""Photos with outlined objects, from a folder in COCO's layout, LVIS's, or samclip's."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from samclip.disk.user_files import read_user_file
from samclip.errors import InputError
from samclip.runtime.pixels.image import load_image
from samclip.runtime.results.coco import (
    Annotation,
    Category,
    CocoFile,
    ImageRecord,
    RleDict,
    find_image_and_category,
    to_rle,
)

ANNOTATIONS, IMAGES = "instances.json", "images"
GUESSES = (
    ANNOTATIONS,
    "annotations/instances_val2017.json",
    "annotations/lvis_v1_val.json",
    "lvis_v1_val.json",
)
MAX_JSON_BYTES = 2**31  # LVIS's training annotations have 1.1 GB
T = TypeVar("T")


@dataclass(frozen=True)
class CocoLayout:
    """The file of annotations, and the folders in which photos are looked for, in this order."""

    annotations: Path
    roots: tuple[Path, ...]

    def photo(self, image: ImageRecord) -> Path:
        """Find the file of an image; raises InputError when it is nowhere in the folders."""
        for root in self.roots:
            for name in image.names:
                if _leads_inside(name) and _is_file(root / name):
                    return root / name
        raise InputError(
            f"there is no photo {' or '.join(image.names) or image.id}, which "
            f"{self.annotations.name} names. Looked in {', '.join(map(str, self.roots))}."
        )


def _leads_inside(name: str) -> bool:
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than the system's may be
        return False


def find_layout(folder: Path, annotations: Path | None = None) -> CocoLayout:
    """Find annotations and photos; `annotations`: the file, absolute or below `folder`.

    Photos lie in images/, in the folder itself, or there in the split that ends the name of the
    annotations: val2017/ for instances_val2017.json. Raises InputError.
    """
    if annotations is None:
        file = next((f for name in GUESSES if (f := folder / name).is_file()), folder / ANNOTATIONS)
    else:
        file = next((f for f in (folder / annotations, annotations) if f.is_file()), annotations)
    split = file.stem.rpartition("_")[2]
    names = (IMAGES, ".", split, f"{IMAGES}/{split}")
    return CocoLayout(file, tuple(folder / name for name in names if (folder / name).is_dir()))


def read_json(path: Path, kind: type[T], expected: str) -> T:
    """Read a JSON file as `kind`; raises InputError that says what was `expected`."""
    data = read_user_file(path, MAX_JSON_BYTES, "the file", advice=f"Expected {expected}.")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not {expected}: {error}.") from error


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
    instances = read_json(layout.annotations, CocoFile, expected)
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


def _categories(instances: CocoFile) -> Categories:
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
    instances: CocoFile,
    places: Mapping[int, int],
    left_out: Counter[str],
) -> dict[int, list[tuple[bool, CocoObject]]]:
    """Group objects by image, each with whether it is a crowd; count what is left out."""
    images = {image.id: image for image in instances.images}
    objects: dict[int, list[tuple[bool, CocoObject]]] = defaultdict(list)
    for annotation in instances.annotations:
        image, place = find_image_and_category(annotation, images, places, layout.annotations)
        found = _make_object(annotation, image, place)
        if annotation.iscrowd:
            left_out["crowds"] += 1
        elif not found:
            left_out["objects without a pixel or a box"] += 1
        if found:
            objects[image.id].append((bool(annotation.iscrowd), found))
    return objects


def _make_object(annotation: Annotation, image: ImageRecord, place: int) -> CocoObject | None:
    """Make an object of an annotation; None when its outline or its box is empty."""
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
