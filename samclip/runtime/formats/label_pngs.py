"""Index PNGs for trainers: `STEM.png`, the class of every pixel, and `classes.txt`.

Line i of `classes.txt`, from 0, is the name of the pixels with the value i. Pixels of no object
have 255, or 65535 in the PNGs of 16 bits that more than 255 classes need. Masks without names get
their own numbers instead of classes, from 0 in each image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.formats.dataset import Dataset, in_one_line, write_text
from samclip.runtime.formats.sample import Sample
from samclip.runtime.results.mask_files import write_labels

CLASSES = "classes.txt"


class LabelPngs(Dataset):
    """A folder of PNGs; where masks overlap, the smaller one is on top."""

    def _write(self, sample: Sample) -> None:
        path = self.folder / f"{self._take_stem(sample)}.png"
        if sample.names is None:
            write_labels(paint(sample, range(len(sample))), len(sample), path)
            return
        if self._learn(sample.all_labels):
            lines = (f"{in_one_line(name)}\n" for name in self.classes)
            write_text(self.folder / CLASSES, "".join(lines))
        values = [self.classes[name] for name in sample.names]
        write_labels(paint(sample, values), len(self.classes), path)


def paint(sample: Sample, values: range | list[int]) -> NDArray[np.int32]:
    """Return the value of each pixel's mask, the smaller of two; -1 for none: HxW int32."""
    labels = np.full(sample.size, -1, np.int32)
    for row in np.argsort(-sample.areas, kind="stable").tolist():
        labels[sample.packed.unpack(row)] = values[row]
    return labels
