"""Photos with a class for every pixel, in any of the known layouts of folders.

The classes are painted from COCO's objects, or read from maps of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.benchmarks.data.coco import ANNOTATIONS, CocoPhoto, read_coco, read_json
from samclip.benchmarks.data.label_layouts import BACKGROUND, LAYOUTS, Layout
from samclip.errors import InputError
from samclip.runtime.pixels.image import load_image
from samclip.runtime.pixels.photo_listing import list_photos

IGNORED = -1
UNKNOWN = -2
VALUES = 256  # of an 8-bit map
CLASSES, IMAGES, LABELS = "classes.json", "images", "labels"
CAMVID, COCO = "camvid", "coco"
KINDS = (CAMVID, COCO, *LAYOUTS)


class LabelledPhoto(Protocol):
    """A photo whose pixels have classes."""

    @property
    def path(self) -> Path:
        """The photo's file."""
        ...

    def pixels(self) -> NDArray[np.uint8]:
        """Read the photo: HWC uint8 RGB."""
        ...

    def labels(self) -> NDArray[np.int32]:
        """Read the truth: HxW, index of the class, IGNORED where there is none."""
        ...


@dataclass(frozen=True)
class PaintedPhoto:
    """A photo whose truth is painted from COCO's objects, larger ones first."""

    photo: CocoPhoto

    @property
    def path(self) -> Path:
        """The photo's file."""
        return self.photo.path

    def pixels(self) -> NDArray[np.uint8]:
        """Read the photo: HWC uint8 RGB; raises ImageError, InputError."""
        return self.photo.pixels()

    def labels(self) -> NDArray[np.int32]:
        """Paint the truth: HxW; pixels of no object are IGNORED."""
        labels = np.full(self.photo.size, IGNORED, np.int32)
        for found in sorted(self.photo.objects, key=lambda found: -found.area):
            labels[found.mask()] = found.category
        return labels


@dataclass(frozen=True, eq=False)
class MappedPhoto:
    """A photo whose truth is an 8-bit image; `classes`: 256 class indices, one for each number."""

    path: Path
    label_path: Path
    classes: NDArray[np.int32]

    def pixels(self) -> NDArray[np.uint8]:
        """Read the photo: HWC uint8 RGB; raises ImageError."""
        return load_image(self.path)

    def labels(self) -> NDArray[np.int32]:
        """Read the truth: HxW; raises InputError for a map of other classes."""
        values = _read_map(self.label_path)
        labels: NDArray[np.int32] = self.classes[values]
        if (labels == UNKNOWN).any():
            raise InputError(
                f"{self.label_path} has the class {values[labels == UNKNOWN][0]}, which is none of "
                f"the {self.classes.max() + 1} of this data set, nor void. Is it of another one?"
            )
        return labels


def class_table(classes: Mapping[int, int], void: int) -> NDArray[np.int32]:
    """Return what each number of a map means: 256 indices of classes, IGNORED or UNKNOWN.

    `classes`: the indices by number; `void`: the number that is ignored.
    """
    table = np.full(VALUES, UNKNOWN, np.int32)
    for value, place in classes.items():
        table[value] = place
    table[void] = IGNORED
    return table


def _read_map(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if image.mode in {"L", "P"}:  # grey, or a palette: the stored number is the class
                return np.asarray(image)
            mode = image.mode
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read: {error}. Expected an 8-bit PNG.") from error
    raise InputError(f"{path} has pixels of mode {mode}. Expected 8-bit class indices.")


@dataclass(frozen=True)
class LabelFolder:
    """Labelled photos in the order of their file names, and the `names` of the K classes.

    `texts`: for each class, what it is asked for by. `background`: the index of the class that
    stands for everything else, None where the data set has none.
    """

    path: Path
    layout: str
    names: tuple[str, ...]
    photos: tuple[LabelledPhoto, ...]
    left_out: dict[str, int]
    texts: tuple[tuple[str, ...], ...]
    background: int | None = None


def read_label_folder(
    folder: Path, kind: str | None = None, split: str | None = None
) -> LabelFolder:
    """Read a folder in the layout `kind`, one of KINDS; None: the one that the folder has.

    A folder with maps of PASCAL Context counts as that, though VOC's may lie there too. `split`:
    which part of a published data set, None for the one that is used for validation. Raises
    InputError.
    """
    kind = kind or _guess(folder)
    if kind == COCO:
        return _read_painted(folder)
    return _read_camvid(folder) if kind == CAMVID else _read_published(folder, LAYOUTS[kind], split)


def _guess(folder: Path) -> str:
    if (folder / ANNOTATIONS).is_file():
        return COCO
    if (folder / CLASSES).is_file():
        return CAMVID
    for kind, layout in LAYOUTS.items():
        if layout.fits(folder):
            return kind
    known = ", ".join(
        f"{layout.title} ({' or '.join(layout.labels)})" for layout in LAYOUTS.values()
    )
    raise InputError(
        f"{folder} has no layout that is known: of CamVid ({IMAGES}/, {LABELS}/, {CLASSES} with "
        f'"names" and "void"), of COCO ({IMAGES}/, {ANNOTATIONS}), or where label maps lie: {known}'
    )


def _read_painted(folder: Path) -> LabelFolder:
    coco = read_coco(folder)
    photos = tuple(PaintedPhoto(photo) for photo in coco.photos)
    texts = tuple((name,) for name in coco.names)
    return LabelFolder(folder, "COCO, painted", coco.names, photos, coco.left_out, texts)


class _Classes(msgspec.Struct, frozen=True):
    names: Annotated[tuple[str, ...], msgspec.Meta(max_length=VALUES)]
    void: Annotated[int, msgspec.Meta(ge=0, lt=VALUES)]


def _read_camvid(folder: Path) -> LabelFolder:
    expected = f'the layout of CamVid ({IMAGES}/, {LABELS}/, {CLASSES} with "names" and "void")'
    classes = read_json(folder / CLASSES, _Classes, expected)
    listing = list_photos(folder / IMAGES) if (folder / IMAGES).is_dir() else None
    paths = () if listing is None else listing.paths
    table = class_table({place: place for place in range(len(classes.names))}, classes.void)
    photos = tuple(MappedPhoto(path, _label_path(folder, path), table) for path in paths)
    if listing is None or not photos or not classes.names:
        raise InputError(f"{folder} has no photo or no class. Expected {expected}.")
    texts = tuple((name,) for name in classes.names)
    return LabelFolder(folder, "CamVid", classes.names, photos, listing.counts, texts)


def _label_path(folder: Path, photo: Path) -> Path:
    path = folder / LABELS / f"{photo.stem}.png"
    if not path.is_file():
        raise InputError(f"there is no {path}, the classes of {photo.name}. Add it.")
    return path


def _read_published(folder: Path, layout: Layout, split: str | None) -> LabelFolder:
    values = {found.value: place for place, found in enumerate(layout.classes)}
    table = class_table(values, layout.void)
    pairs = layout.pairs(folder, split)
    photos = tuple(MappedPhoto(photo, labels, table) for photo, labels in pairs)
    if not photos:
        raise InputError(f"{folder} has no photo of {split or layout.split!r} in {layout.title}.")
    names = tuple(found.name for found in layout.classes)
    return LabelFolder(
        folder,
        f"{layout.title}, {split or layout.split}",
        names,
        photos,
        {},
        tuple(found.texts for found in layout.classes),
        names.index(BACKGROUND) if BACKGROUND in names else None,
    )
