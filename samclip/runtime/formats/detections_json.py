"""Rows of detections, `detections.json`, as `supervision.JSONSink` writes them.

Each object is a row: `x_min`, `y_min`, `x_max`, `y_max`, `class_id`, `confidence`, `tracker_id`,
`class_name` and, with names, `class_probability`. What is not known is an empty text, as there.
Two fields are added: `image`, the file's name, and `segmentation`, the pixels as COCO's RLE.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samclip.json_text import finite, to_json
from samclip.runtime.formats.dataset import Dataset, Spool
from samclip.runtime.formats.sample import Sample
from samclip.runtime.pixels.mask_ops import encode_rle

FILE = "detections.json"


class DetectionsJson(Dataset):
    """A JSON list of rows; `class_id` counts the names in the order in which they first came."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._rows = Spool(folder)
        self._count = 0

    def _write(self, sample: Sample) -> None:
        self._learn(sample.all_labels)
        for index in range(len(sample)):
            row = self._make_row(sample, index)
            self._rows.write((",\n" if self._count else "\n") + to_json(row))
            self._count += 1

    def _complete(self) -> None:
        self._rows.finish(self.folder / FILE, "[", "\n]\n")

    def _make_row(self, sample: Sample, index: int) -> dict[str, Any]:
        x0, y0, x1, y1 = (float(edge) for edge in sample.boxes[index])
        confidence = finite(sample.confidences[index])
        row: dict[str, Any] = {
            "x_min": x0,
            "y_min": y0,
            "x_max": x1,
            "y_max": y1,
            "class_id": self.classes[sample.labels[index]],
            "confidence": "" if confidence is None else confidence,
            "tracker_id": "" if sample.tracks is None else sample.tracks[index],
            "class_name": sample.labels[index],
        }
        if sample.name_probabilities is not None:
            row["class_probability"] = finite(sample.name_probabilities[index])
        row["image"] = sample.file_name
        row["segmentation"] = encode_rle(sample.packed.unpack(index))
        return row
