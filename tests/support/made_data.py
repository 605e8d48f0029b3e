"""Small data sets in the layouts that benchmarks read, with answers that are known.

Photos have 256x256 pixels, the fake model's own size, so that nothing is resized.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SIDE = 256
NAMES = ("red", "green", "blue")


def stripes(*colours: int) -> np.ndarray:
    """A photo of vertical stripes of equal width, each of one of the three NAMES."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    for place, colour in enumerate(colours):
        image[:, place * SIDE // len(colours) : (place + 1) * SIDE // len(colours), colour] = 255
    return image


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE))
    return np.hypot(columns + 0.5 - x, rows + 0.5 - y) < radius


@dataclass
class Made:
    """An object to annotate; `box` XYXY, None for the mask's own."""

    name: str
    mask: np.ndarray
    box: tuple[float, float, float, float] | None = None
    crowd: bool = False
    changes: dict[str, Any] = field(default_factory=dict)

    def annotation(self, image_id: int, names: Sequence[str]) -> dict[str, Any]:
        rle = coco_mask.encode(np.asfortranarray(self.mask, dtype=np.uint8))
        x0, y0, x1, y1 = self.box or self._own_box()
        return {
            "image_id": image_id,
            "category_id": names.index(self.name) + 1,
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": int(self.crowd),
            **self.changes,
        }

    def _own_box(self) -> tuple[float, ...]:
        rows, columns = np.nonzero(self.mask)
        if not len(rows):
            return 0.0, 0.0, 1.0, 1.0
        return (*map(float, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)),)


def save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_coco(
    folder: Path,
    photos: Mapping[str, tuple[np.ndarray, Sequence[Made]]],
    names: Sequence[str] = NAMES,
) -> Path:
    """Write photos, by file name, with their objects."""
    images, annotations = [], []
    for number, (name, (image, objects)) in enumerate(photos.items(), 7):
        save(image, folder / "images" / name)
        height, width = image.shape[:2]
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations += [made.annotation(number, names) for made in objects]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


def write_camvid(
    folder: Path,
    photos: Mapping[str, tuple[np.ndarray, np.ndarray]],
    names: Sequence[str] = NAMES,
    void: int = 11,
) -> Path:
    """Write photos, by stem, with their class indices."""
    for stem, (image, labels) in photos.items():
        save(image, folder / "images" / f"{stem}.png")
        save(labels.astype(np.uint8), folder / "labels" / f"{stem}.png")
    (folder / "classes.json").write_text(json.dumps({"names": list(names), "void": void}))
    return folder
