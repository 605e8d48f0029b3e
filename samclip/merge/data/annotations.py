"""Photos with outlined and named objects, in COCO's format, and the instances that views show."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling
from pycocotools import mask as coco_mask
from torch import Tensor

from samclip.disk.user_files import read_user_file
from samclip.errors import InputError
from samclip.merge.data.labels import UNNAMED, Labels
from samclip.merge.data.mask_prompts import MASK_STRIDE, boxes_from_masks
from samclip.merge.data.photo_sources import FolderSource, JoinedSource, PhotoSource, PickedSource
from samclip.merge.data.views import View
from samclip.runtime.results.coco import CocoFile, RleDict, find_image_and_category, to_rle

WHAT = "the annotations"
MAX_FILE_BYTES = 2**32  # of annotations; those of LVIS have 1.1 GB
LEAST_PIXELS = 32  # of an instance in a view, as in the released code's filter


@dataclass(frozen=True)
class Instances:
    """K named instances of a picture, in its square of S pixels; K may be 0.

    `masks`: KxHxW bool over the whole square, H = W = S / 4, none of them empty. `boxes`: Kx4
    float32, (x0, y0, x1, y1) in pixels of the square. `labels`: K int64, -1 for those unnamed.
    """

    masks: Tensor
    boxes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def to(self, device: torch.device) -> Instances:
        """Move the tensors to a device."""
        return Instances(self.masks.to(device), self.boxes.to(device), self.labels.to(device))


def no_instances(size: int) -> Instances:
    """Return the instances of a picture without any, in a square of `size` pixels."""
    side = size // MASK_STRIDE
    return Instances(
        masks=torch.zeros(0, side, side, dtype=torch.bool),
        boxes=torch.zeros(0, 4),
        labels=torch.full((0,), UNNAMED, dtype=torch.int64),
    )


@dataclass(frozen=True)
class Outline:
    """An annotated object of a photo: its outline in pycocotools' form, its category's name."""

    rle: RleDict
    category: str


class Annotations:
    """The annotated objects of photos, which are identified by the SHA-256 of their files.

    `categories` are the names in the order of the file, `photos` those photos of the source that
    have at least one object.
    """

    def __init__(
        self,
        categories: tuple[str, ...],
        outlines: Mapping[str, Sequence[Outline]],
        source: PhotoSource,
    ) -> None:
        self.categories = categories
        self._outlines = outlines
        self.photos: PhotoSource = PickedSource(
            source, [index for index in range(len(source)) if source.key(index) in outlines]
        )

    def shown(self, photo: str, view: View, labels: Labels) -> Instances:
        """Return the instances of a photo that a view shows, without those of a few pixels.

        Raises InputError where the annotations are of a photo of another size.
        """
        squares: list[Tensor] = []
        categories: list[str] = []
        for outline in self._outlines.get(photo, ()):
            square = _draw_in_view(outline.rle, view)
            if int(square.sum()) >= LEAST_PIXELS and bool(_reduce(square[None]).any()):
                squares.append(square)
                categories.append(outline.category)
        if not squares:
            return no_instances(view.size)
        masks = torch.stack(squares)  # KxSxS
        return Instances(_reduce(masks), boxes_from_masks(masks, 1), labels.places(categories))


def read_annotations(file: Path, folders: Sequence[FolderSource]) -> Annotations:
    """Read a JSON file in COCO's or LVIS's format whose photos are in `folders`.

    Crowds, and objects without a pixel, are left out. Raises InputError for a file of another
    format, and where none of its photos is in the folders.
    """
    try:
        content = msgspec.json.decode(read_user_file(file, MAX_FILE_BYTES, WHAT), type=CocoFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file} holds no annotations in COCO's format: {error}") from error
    keys = {
        path.relative_to(source.folder).as_posix(): source.key(index)
        for source in folders
        for index, path in enumerate(source.paths)
    }
    images = {image.id: image for image in content.images}
    categories = {category.id: category.name.replace("_", " ") for category in content.categories}
    outlines: dict[str, list[Outline]] = {}
    for found in content.annotations:
        image, name = find_image_and_category(found, images, categories, file)
        key = next((keys[name] for name in image.names if name in keys), None)
        rle = to_rle(found.segmentation, image)
        if key is not None and rle is not None and not found.iscrowd:
            outlines.setdefault(key, []).append(Outline(rle, name))
    if not outlines:
        raise InputError(
            f"none of the photos that {file} annotates is in the folders; its file names must be "
            f"paths within them; the first is {content.images[0].names if content.images else None}"
        )
    names = tuple(dict.fromkeys(categories.values()))
    return Annotations(names, outlines, JoinedSource(folders))


def _draw_in_view(rle: RleDict, view: View) -> Tensor:
    """Draw an object's mask as a view shows it: SxS bool."""
    if tuple(rle["size"]) != view.photo_size:
        raise InputError(
            f"an outline of (h, w) = {tuple(rle['size'])} belongs to a photo of {view.photo_size} "
            "pixels; use the photos that the annotations were made for, without `longest`"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools', under numpy 2
        whole: NDArray[np.uint8] = coco_mask.decode(rle)  # HxW of 0 and 1
    x0, y0, x1, y1 = view.box
    height, width = view.shown_size
    crop = Image.fromarray(np.ascontiguousarray(whole[y0:y1, x0:x1]) * np.uint8(255))
    pixels = np.asarray(crop.resize((width, height), Resampling.BILINEAR)) >= 128
    square = torch.zeros(view.size, view.size, dtype=torch.bool)
    square[:height, :width] = torch.from_numpy(pixels[:, ::-1].copy() if view.flip else pixels)
    return square


def _reduce(squares: Tensor) -> Tensor:
    """Reduce KxSxS masks to the decoder's resolution, KxS/4xS/4: cells covered at least by half."""
    return F.avg_pool2d(squares.float().unsqueeze(1), MASK_STRIDE).squeeze(1) >= 0.5
