"""labelme's files: `STEM.json` next to a copy of the image, whose objects are polygons to edit.

Islands of one mask share a `group_id`. labelme has no holes: a hole is joined to the border of its
island by a line.
"""

from __future__ import annotations

from typing import Any

from samclip.json_text import to_json
from samclip.runtime.formats.dataset import Dataset, write_picture, write_text
from samclip.runtime.formats.outlines import trace_islands
from samclip.runtime.formats.sample import Sample

VERSION = "5.5.0"  # of labelme, whose fields these are
TOLERANCE = 1.0  # pixels, so that an outline has few enough points to edit


class Labelme(Dataset):
    """A folder that labelme opens."""

    def _write(self, sample: Sample) -> None:
        stem = self._take_stem(sample)
        picture = write_picture(sample, self.folder, stem)
        groups = sample.tracks or tuple(range(len(sample)))
        height, width = sample.size
        shapes = [
            _make_shape(label, group, polygon.tolist())
            for label, group, mask in zip(sample.labels, groups, sample.packed, strict=True)
            for polygon in trace_islands(mask, TOLERANCE)
        ]
        record: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": picture.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_text(self.folder / f"{stem}.json", to_json(record, indent=2) + "\n")


def _make_shape(label: str, group: int, points: list[list[float]]) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }
