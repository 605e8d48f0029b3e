"""Label maps in the layouts of published data sets, of small photos whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from made_data import save
from PIL import Image

Photos = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by stem: the photo, HW3, and its map, HW


def save_palette(labels: np.ndarray, path: Path) -> None:
    """Write a map as VOC's are: a PNG with a palette of colours unrelated to the numbers."""
    image = Image.fromarray(labels.astype(np.uint8), "L").copy()
    image.putpalette([(37 * i + 11) % 256 for i in range(3 * 256)])
    assert image.mode == "P"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_voc(folder: Path, photos: Photos, split: str = "val") -> Path:
    """VOCdevkit/VOC2012; photos of other splits lie in the same folders."""
    return _write_listed(folder, photos, "SegmentationClass", "Segmentation", split)


def write_context(folder: Path, photos: Photos, split: str = "val") -> Path:
    """VOCdevkit/VOC2010 with the maps of PASCAL Context."""
    return _write_listed(folder, photos, "SegmentationClassContext", "SegmentationContext", split)


def write_ade20k(folder: Path, photos: Photos) -> Path:
    """ADEChallengeData2016."""
    for stem, (image, labels) in photos.items():
        save_jpeg(image, folder / "images" / "validation" / f"{stem}.jpg")
        save(labels.astype(np.uint8), folder / "annotations" / "validation" / f"{stem}.png")
    return folder


def write_coco_stuff(
    folder: Path, photos: Photos, images: str = "images", maps: str = "annotations"
) -> Path:
    """COCO-Stuff 164k, in `images`/ and `maps`/, with a converted map next to each."""
    for stem, (image, labels) in photos.items():
        save_jpeg(image, folder / images / "val2017" / f"{stem}.jpg")
        path = folder / maps / "val2017" / f"{stem}.png"
        save(labels.astype(np.uint8), path)
        save(np.zeros_like(labels, np.uint8), path.with_name(f"{stem}_labelTrainIds.png"))
    return folder


def save_jpeg(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=100, subsampling=0)


def _write_listed(folder: Path, photos: Photos, maps: str, sets: str, split: str) -> Path:
    for stem, (image, labels) in photos.items():
        save_jpeg(image, folder / "JPEGImages" / f"{stem}.jpg")
        save_palette(labels, folder / maps / f"{stem}.png")
    listing = folder / "ImageSets" / sets / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{stem}\n" for stem in photos))
    return folder
