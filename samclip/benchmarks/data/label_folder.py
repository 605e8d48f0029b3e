"""A data set of labelled photos, in whichever of the known layouts its folder has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from samclip.benchmarks.data.class_lists import BACKGROUND
from samclip.benchmarks.data.coco import read_coco
from samclip.benchmarks.data.coco_layout import ANNOTATIONS
from samclip.benchmarks.data.json_file import read_json
from samclip.benchmarks.data.label_layouts import LAYOUTS, Layout
from samclip.benchmarks.data.label_maps import (
    VALUES,
    LabelledPhoto,
    MappedPhoto,
    PaintedPhoto,
    class_table,
)
from samclip.errors import InputError
from samclip.runtime.pixels.image import SUFFIXES

CLASSES, IMAGES, LABELS = "classes.json", "images", "labels"
CAMVID, COCO = "camvid", "coco"
KINDS = (CAMVID, COCO, *LAYOUTS)


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
    paths = sorted(p for p in (folder / IMAGES).glob("*") if p.suffix.lower() in SUFFIXES)
    table = class_table({place: place for place in range(len(classes.names))}, classes.void)
    photos = tuple(MappedPhoto(path, _label_path(folder, path), table) for path in paths)
    if not photos or not classes.names:
        raise InputError(f"{folder} has no photo or no class. Expected {expected}.")
    texts = tuple((name,) for name in classes.names)
    return LabelFolder(folder, "CamVid", classes.names, photos, {}, texts)


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
