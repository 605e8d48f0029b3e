"""Annotations of photos and frames: `AnnotationWriter`, and the formats that it knows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samclip.disk.partial_files import as_write_error
from samclip.errors import ClosedError, InputError, brief, did_you_mean
from samclip.runtime.formats.coco_file import CocoFile
from samclip.runtime.formats.cvat import Cvat
from samclip.runtime.formats.dataset import Dataset
from samclip.runtime.formats.detections_json import DetectionsJson
from samclip.runtime.formats.label_pngs import LabelPngs
from samclip.runtime.formats.labelme import Labelme
from samclip.runtime.formats.sample import make_sample
from samclip.runtime.formats.yolo import Yolo
from samclip.runtime.results.classification import SemanticMap
from samclip.runtime.results.drawing import as_path
from samclip.runtime.results.masks import Masks

Format = Literal["yolo", "coco", "labelme", "cvat", "mask-png", "supervision-json"]
FORMATS: dict[Format, type[Dataset]] = {
    "yolo": Yolo,
    "coco": CocoFile,
    "labelme": Labelme,
    "cvat": Cvat,
    "mask-png": LabelPngs,
    "supervision-json": DetectionsJson,
}


class AnnotationWriter:
    """Write the answers to photos, or to the frames of a stream, as one data set.

    `kind`: "yolo" writes `data.yaml`, `images/` and `labels/` with an outline for each object, for
    ultralytics; "labelme" polygons to edit, next to copies of the images; "coco"
    `annotations.json`, "cvat" `annotations.xml` and "supervision-json" `detections.json`, all with
    exact pixels; "mask-png" an index PNG for each image and `classes.txt`. `folder` is made; it
    must be empty if it is there.

    A class has one id in all samples: names count in the order in which they first come, whatever
    vocabulary each answer had. Masks without names are of the class "object". Masks without
    pixels are left out. Memory does not grow with the masks: what is written at the end waits on
    disk.

    Use it in a `with` block, or call `close`: "coco", "cvat" and "supervision-json" are one file,
    which is there once the writer is closed, also after an exception, with all samples until then.
    The other formats can be read after each sample. Use it from one thread at a time.

    Raises InputError for an unknown format, and for a folder that is not empty; WriteError.

    Examples:
        >>> masks = scene.segment(boxes=[(172, 17, 410, 308)], names=["cup", "cat"])
        >>> with samclip.AnnotationWriter("yolo", "cups") as writer:
        ...     writer.add("coffee.jpg", masks)
        >>> sorted(path.name for path in writer.folder.iterdir())
        ['data.yaml', 'images', 'labels']
    """

    def __init__(self, kind: Format, folder: str | os.PathLike[str]) -> None:
        self.kind = check_format(kind)
        self.folder = check_empty(as_path(folder, "folder"))
        self.count = 0
        with as_write_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._dataset: Dataset | None = FORMATS[self.kind](self.folder)

    def add(
        self,
        file_name: str | Path,
        answer: Masks | SemanticMap,
        *,
        source: str | os.PathLike[str] | None = None,
        tracks: Sequence[int] | NDArray[np.integer] | None = None,
    ) -> None:
        """Write the answer to one image.

        `file_name`: how the data set lists the image, as "street.jpg" or "day1/000017.jpg"; each
        one once. `source`: the image's file, which "yolo" and "labelme" copy; without it they
        write the answer's pixels as JPEG. `tracks`: N whole numbers, the same for one object in
        several frames: COCO's `track_id`, supervision's `tracker_id`, the `group_id` of labelme
        and CVAT.

        Raises InputError for what is none of these, and for a name that came before; ClosedError;
        WriteError.
        """
        if self._dataset is None:
            raise ClosedError(
                "the annotations were closed, and are complete. Open another AnnotationWriter."
            )
        origin = None if source is None else as_path(source, "source")
        self._dataset.add(make_sample(file_name, answer, origin, tracks))
        self.count = self._dataset.count

    def close(self) -> Path:
        """Complete the data set and return its folder; may be called again. Raises WriteError."""
        dataset, self._dataset = self._dataset, None
        if dataset is not None:
            dataset.close()
        return self.folder

    def __enter__(self) -> AnnotationWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"AnnotationWriter({self.kind}, {str(self.folder)!r}: {self.count:,} images)"


def check_format(kind: Any) -> Format:
    """Return `kind` if it is the name of a format; else InputError."""
    if isinstance(kind, str) and kind in FORMATS:
        return kind
    nearest = did_you_mean(kind, FORMATS) if isinstance(kind, str) else ""
    known = ", ".join(FORMATS)
    raise InputError(f"a format of annotations is one of {known}; got {brief(kind)}{nearest}.")


def check_empty(folder: Path) -> Path:
    """Return `folder` if nothing is there, or an empty folder; else InputError."""
    try:
        holds = next(folder.iterdir(), None)
    except FileNotFoundError:
        return folder
    except OSError as error:
        raise InputError(
            f"annotations cannot be written to {folder}: {error.strerror}. Give another folder."
        ) from error
    if holds is not None:
        raise InputError(
            f"the folder {folder} is not empty: it holds {holds.name}. Nothing is replaced: give "
            "another folder, or remove this one."
        )
    return folder
