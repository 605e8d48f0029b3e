"""YOLO's data sets for segmentation, as ultralytics and supervision read them.

`data.yaml` has the names; `images/STEM.jpg` is a copy of the image, and `labels/STEM.txt` has a
line for each object: its class and its outline, x and y in turn, as parts of width and height.
Readers find a label by the image's path with `images` replaced by `labels`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from samclip.disk.partial_files import as_write_error
from samclip.runtime.formats.dataset import Dataset, in_one_line, write_picture, write_text
from samclip.runtime.formats.outlines import join_rings, trace_islands
from samclip.runtime.formats.sample import Sample

IMAGES, LABELS = "images", "labels"
# Readers make whole pixels of coordinates: ultralytics cuts off, supervision rounds. A quarter of a
# pixel after a pixel's beginning both come to that pixel.
FROM_CENTRE = -0.25
DIGITS = 7  # of a coordinate in [0, 1]


class Yolo(Dataset):
    """A data set whose objects have one outline each; islands are joined by lines."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in (IMAGES, LABELS):
            with as_write_error(folder / name):
                (folder / name).mkdir()
        self._write_names()

    def _write(self, sample: Sample) -> None:
        if self._learn(sample.all_labels):
            self._write_names()
        height, width = sample.size
        lines = []
        for name, mask in zip(sample.labels, sample.packed, strict=True):
            outline = join_rings(trace_islands(mask)) + FROM_CENTRE  # Px2
            parts = np.ravel(outline / (width, height))
            numbers = " ".join(f"{part:.{DIGITS}f}" for part in parts)
            lines.append(f"{self.classes[name]} {numbers}\n")
        stem = self._take_stem(sample)
        write_text(self.folder / LABELS / f"{stem}.txt", "".join(lines))
        write_picture(sample, self.folder / IMAGES, stem)

    def _write_names(self) -> None:
        """Write `data.yaml`; without `path`, readers take its own folder."""
        lines = [f"train: {IMAGES}", f"val: {IMAGES}", f"nc: {len(self.classes)}", "names:"]
        if not self.classes:
            lines[-1] += " {}"
        for name, index in self.classes.items():
            lines.append(f"  {index}: {json.dumps(in_one_line(name), ensure_ascii=False)}")
        write_text(self.folder / "data.yaml", "\n".join(lines) + "\n")
