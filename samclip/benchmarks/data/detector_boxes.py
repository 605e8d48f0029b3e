"""A detector's boxes, from a file of COCO's results format."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import msgspec

from samclip.benchmarks.data.coco import CocoFolder, CocoPhoto, read_json
from samclip.errors import InputError


class _Result(msgspec.Struct, frozen=True):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class DetectedBox:
    """A box XYXY in pixels of its photo, an index of a category, and the detector's score."""

    category: int
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Detections:
    """The boxes of each photo by its number, surest first; `left_out`: how many, by reason."""

    boxes: dict[int, tuple[DetectedBox, ...]]
    left_out: dict[str, int]

    def of(self, photo: CocoPhoto) -> tuple[DetectedBox, ...]:
        """Return the boxes of a photo, none where the detector found nothing."""
        return self.boxes.get(photo.number, ())


def read_detections(path: Path, coco: CocoFolder) -> Detections:
    """Read a list of image_id, category_id, bbox XYWH and score, of the photos of `coco`.

    Of each photo the 100 surest are kept, 300 in LVIS, as their evaluations do. Boxes of other
    photos, of nothing, or outside their photo are left out. Raises InputError.
    """
    results = read_json(path, list[_Result], "COCO results: image_id, category_id, bbox, score")
    photos = {photo.number: photo for photo in (*coco.photos, *coco.bare)}
    places = {number: place for place, number in enumerate(coco.categories.ids)}
    left_out: Counter[str] = Counter()
    boxes: dict[int, list[DetectedBox]] = defaultdict(list)
    for result in results:
        if result.category_id not in places:
            raise InputError(
                f"{path} has the category {result.category_id}, which is none of the "
                f"{len(places)} of {coco.path}. Give the finds of a detector of these."
            )
        photo = photos.get(result.image_id)
        if photo is None:
            left_out["boxes of other photos"] += 1
        elif (found := _box(result, photo, places[result.category_id])) is None:
            left_out["boxes of nothing"] += 1
        else:
            boxes[photo.number].append(found)
    if not boxes:
        raise InputError(f"{path} has no box in a photo of {coco.path}. Give finds on its photos.")
    surest = {
        number: tuple(
            sorted(group, key=lambda found: -found.score)[: coco.categories.finds_per_photo]
        )
        for number, group in boxes.items()
    }
    return Detections(surest, dict(left_out))


def _box(result: _Result, photo: CocoPhoto, place: int) -> DetectedBox | None:
    x, y, width, height = result.bbox
    rows, columns = photo.size
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, columns), min(y + height, rows)
    return DetectedBox(place, (x0, y0, x1, y1), result.score) if x0 < x1 and y0 < y1 else None
