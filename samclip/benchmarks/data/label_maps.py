"""Photos with a class for every pixel: painted from COCO's objects, or in maps of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.benchmarks.data.coco import CocoPhoto
from samclip.errors import InputError
from samclip.runtime.pixels.image import load_image

IGNORED = -1
UNKNOWN = -2
VALUES = 256  # of an 8-bit map


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
        """Read the truth: HxW; raises InputError for what is no map of these classes."""
        values = _read_map(self.label_path)
        labels: NDArray[np.int32] = self.classes[values]
        if (labels == UNKNOWN).any():
            raise InputError(
                f"{self.label_path} has the class {values[labels == UNKNOWN][0]}, which is none of "
                f"the {self.classes.max() + 1} of this data set, nor void. Is it of another one?"
            )
        return labels


def class_table(classes: Mapping[int, int], void: int) -> NDArray[np.int32]:
    """Tell what each number of a map means, `classes` by number: 256 indices, IGNORED, UNKNOWN."""
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
