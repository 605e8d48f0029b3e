"""Photos with a class for every pixel: CamVid's layout, or COCO's instances painted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.benchmarks.data.coco import ANNOTATIONS, CocoPhoto, read_coco
from samclip.benchmarks.data.json_file import read_json
from samclip.errors import InputError
from samclip.runtime.cli.images import SUFFIXES
from samclip.runtime.images.image import load_image

IGNORED = -1
CLASSES, IMAGES, LABELS = "classes.json", "images", "labels"


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
class LabelFolder:
    """Labelled photos in the order of their file names, and the `names` of the K classes."""

    path: Path
    layout: str
    names: tuple[str, ...]
    photos: tuple[LabelledPhoto, ...]
    left_out: dict[str, int]


def read_label_folder(folder: Path) -> LabelFolder:
    """Read a folder in CamVid's layout, or in COCO's where it has `instances.json`.

    Raises InputError.
    """
    if (folder / ANNOTATIONS).is_file():
        coco = read_coco(folder)
        photos = tuple(PaintedPhoto(photo) for photo in coco.photos)
        return LabelFolder(folder, "COCO, painted", coco.names, photos, coco.left_out)
    return _read_camvid(folder)


@dataclass(frozen=True)
class PaintedPhoto:
    """A photo whose truth is made of COCO's objects: larger ones first, so smaller ones show."""

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


@dataclass(frozen=True)
class MappedPhoto:
    """A photo whose truth is an image of class indices; `void` is the index that means none."""

    path: Path
    label_path: Path
    classes: int
    void: int

    def pixels(self) -> NDArray[np.uint8]:
        """Read the photo: HWC uint8 RGB; raises ImageError."""
        return load_image(self.path)

    def labels(self) -> NDArray[np.int32]:
        """Read the truth: HxW; raises InputError for what is no map of these classes."""
        labels = _read_map(self.label_path)
        labels[labels == self.void] = IGNORED
        if labels.max() >= self.classes:
            raise InputError(
                f"{self.label_path} has the class {labels.max()}; {CLASSES} names "
                f"{self.classes} from 0 on, and {self.void} for void."
            )
        return labels


class _Classes(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    void: int


def _read_camvid(folder: Path) -> LabelFolder:
    expected = (
        f'the layout of CamVid ({IMAGES}/, {LABELS}/, {CLASSES} with "names" and "void") or of '
        f"COCO ({IMAGES}/, {ANNOTATIONS})"
    )
    classes = read_json(folder / CLASSES, _Classes, expected)
    paths = sorted(p for p in (folder / IMAGES).glob("*") if p.suffix.lower() in SUFFIXES)
    photos = tuple(
        MappedPhoto(path, _label_path(folder, path), len(classes.names), classes.void)
        for path in paths
    )
    if not photos or not classes.names:
        raise InputError(f"{folder} has no photo or no class. Expected {expected}.")
    return LabelFolder(folder, "CamVid", classes.names, photos, {})


def _label_path(folder: Path, photo: Path) -> Path:
    path = folder / LABELS / f"{photo.stem}.png"
    if not path.is_file():
        raise InputError(f"there is no {path}, the classes of {photo.name}. Add it.")
    return path


def _read_map(path: Path) -> NDArray[np.int32]:
    try:
        with Image.open(path) as image:
            if image.mode in {"L", "P"}:  # grey, or a palette: the stored number is the class
                return np.asarray(image).astype(np.int32)
            mode = image.mode
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read: {error}. Expected an 8-bit PNG.") from error
    raise InputError(f"{path} has pixels of mode {mode}. Expected 8-bit class indices.")
