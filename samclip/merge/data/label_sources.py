"""Labelled photos of several forms, read to regions that are named by one vocabulary.

A vocabulary's line is a concept: a name and its synonyms. A data set's own names are looked up
among all of them, after the renamings that its table gives.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from samclip.disk.paths import user_path
from samclip.disk.user_files import read_user_file
from samclip.errors import InputError
from samclip.merge.config.stages import LabelSource
from samclip.merge.data.annotations import MAX_FILE_BYTES, WHAT, Outline
from samclip.merge.data.labels import SEPARATOR
from samclip.runtime.pixels.image import SUFFIXES, load_image
from samclip.runtime.results.coco import CocoFile, find_image_and_category, to_rle

LEAST_PIXELS = 150  # of a class in a label map
CLASSES_FILE = "classes.json"
MAX_CLASSES_BYTES = 2**20
Mask = NDArray[np.bool_]


class _Licensed(msgspec.Struct, frozen=True):
    """The licence of an image of COCO, by its id in the file."""

    id: int
    license: int | None = None


class _LicensedFile(msgspec.Struct, frozen=True):
    """The images of a file in COCO's format."""

    images: list[_Licensed]


@dataclass(frozen=True)
class Concepts:
    """C concepts, each the tuple of its texts; the first is its name."""

    texts: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The first texts."""
        return tuple(texts[0] for texts in self.texts)

    def places(self) -> dict[str, int]:
        """Return the concept of every text; of a text that is there twice, the first."""
        found: dict[str, int] = {}
        for place, texts in enumerate(self.texts):
            for text in texts:
                found.setdefault(text, place)
        return found

    def picked(self, chosen: Sequence[int]) -> Concepts:
        """Return some of the concepts."""
        return Concepts(tuple(self.texts[place] for place in chosen))


def parse_concepts(lines: Sequence[str]) -> Concepts:
    """Parse a vocabulary's lines; InputError for none, or a name that is there twice."""
    parts = [[part.strip() for part in line.split(SEPARATOR)] for line in lines]
    found = tuple(filter(None, (tuple(filter(None, texts)) for texts in parts)))
    doubled = [name for name, count in Counter(each[0] for each in found).items() if count > 1]
    if not found or doubled:
        problem = f"{doubled[0]!r} is there twice" if doubled else "it is empty"
        raise InputError(f"the taught names: {problem}; give every concept its own line, once")
    return Concepts(found)


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo with named regions.

    `key` is the SHA-256 of its file, `names` are those of its regions as the data set has them, and
    `read` returns their masks, HxW bool each, None for the whole photo.
    """

    path: Path
    key: str
    names: tuple[str, ...]
    read: Callable[[], list[Mask | None]]

    def image(self) -> NDArray[np.uint8]:
        """Decode the photo, HWC uint8 RGB. Raises ImageError."""
        return load_image(self.path)


def read_label_source(source: LabelSource) -> list[LabelledPhoto]:
    """List the labelled photos of a source, sorted by their keys and cut to its limits.

    Names are the vocabulary's where the table renames them; regions whose name is renamed to
    nothing are left out. Raises InputError for a folder that is not of the source's kind.
    """
    folder = user_path(source.folder, "the folder of labelled photos")
    read = {"coco": _read_coco, "maps": _read_maps, "folders": _read_folders}[source.kind]
    photos = sorted(read(folder, source), key=lambda photo: photo.key)
    if source.per_class is not None:
        photos = _limit_classes(photos, source.per_class)
    if not photos:
        raise InputError(f"{folder} holds no labelled photo of kind {source.kind!r}")
    return photos[: source.photos]


def _limit_classes(photos: Sequence[LabelledPhoto], most: int) -> list[LabelledPhoto]:
    counts: Counter[str] = Counter()
    chosen = []
    for photo in photos:
        names = set(photo.names)
        if names and min(counts[name] for name in names) < most:
            counts.update(names)
            chosen.append(photo)
    return chosen


def _renamed(names: Sequence[str], source: LabelSource) -> list[str]:
    """Return a data set's names as the vocabulary has them; "" for those that are left out."""
    return [source.names.get(name, name) for name in names]


def _read_coco(folder: Path, source: LabelSource) -> list[LabelledPhoto]:
    file = folder / "instances.json"
    data = read_user_file(file, MAX_FILE_BYTES, WHAT)
    try:
        content = msgspec.json.decode(data, type=CocoFile)
        licenses = msgspec.json.decode(data, type=_LicensedFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file} holds no annotations in COCO's format: {error}") from error
    images = {image.id: image for image in content.images}
    categories = {category.id: category.name.replace("_", " ") for category in content.categories}
    wanted = set(source.licenses)
    allowed = {image.id for image in licenses.images if not wanted or image.license in wanted}
    outlines: dict[str, list[Outline]] = {}
    for found in content.annotations:
        image, category = find_image_and_category(found, images, categories, file)
        rle = to_rle(found.segmentation, image)
        [name] = _renamed([category], source)
        if rle is not None and not found.iscrowd and name and image.id in allowed:
            outlines.setdefault(image.names[-1], []).append(Outline(rle, name))
    photos = []
    for file_name, regions in outlines.items():
        path = folder / "images" / file_name
        if path.is_file():
            names = [region.category for region in regions]
            photos.append(_photo(path, names, partial(_draw_outlines, regions)))
    return photos


def _draw_outlines(regions: Sequence[Outline]) -> list[Mask | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools', under numpy 2
        return [np.asarray(coco_mask.decode(region.rle), np.bool_) for region in regions]


def _read_maps(folder: Path, source: LabelSource) -> list[LabelledPhoto]:
    classes = _read_classes(folder / CLASSES_FILE, source)
    photos = []
    for path in _images(folder / "images"):
        labels = folder / "labels" / f"{path.stem}.png"
        if not labels.is_file():
            raise InputError(f"{path} has no label map {labels}; give one, or move the photo away")
        values = _values(labels, classes)
        names = [classes[value] for value in values]
        photos.append(_photo(path, names, partial(_draw_values, labels, values)))
    return photos


def _draw_values(labels: Path, values: Sequence[int]) -> list[Mask | None]:
    drawn = _read_map(labels)
    return [drawn == value for value in values]


def _read_classes(file: Path, source: LabelSource) -> dict[int, str]:
    data = read_user_file(file, MAX_CLASSES_BYTES, "the classes of label maps")
    try:
        content = msgspec.json.decode(data)
        listed = content.get("names", content)
        pairs = enumerate(listed) if isinstance(listed, list) else listed.items()
        named = {int(value): str(name) for value, name in pairs}
    except (msgspec.MsgspecError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file} does not name the values of label maps: {error}. Expected an object of value: "
            'name, or one with "names"'
        ) from error
    renamed = dict(zip(named, _renamed(list(named.values()), source), strict=True))
    return {value: name for value, name in renamed.items() if name}


def _values(labels: Path, classes: Mapping[int, str]) -> list[int]:
    values, counts = np.unique(_read_map(labels), return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return [value for value, count in pairs if value in classes and count >= LEAST_PIXELS]


def _read_map(labels: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(labels) as image:
            drawn = np.asarray(image)
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"the label map {labels} cannot be read: {error}") from error
    if drawn.ndim != 2 or drawn.dtype != np.uint8:
        raise InputError(
            f"the label map {labels} is {drawn.dtype} of shape {drawn.shape}; expected 8-bit values"
        )
    return drawn


def _read_folders(folder: Path, source: LabelSource) -> list[LabelledPhoto]:
    photos = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        [name] = _renamed([inner.name], source)
        name = name.replace("_", " ")
        if name:
            photos += [_photo(path, [name], lambda: [None]) for path in _images(inner)]
    return photos


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} of photos; give a data set that has one")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _photo(
    path: Path, names: Sequence[str], read: Callable[[], list[Mask | None]]
) -> LabelledPhoto:
    return LabelledPhoto(path, hashlib.sha256(path.read_bytes()).hexdigest(), tuple(names), read)
