"""CVAT's file `annotations.xml`, of the kind "CVAT for images 1.1"; objects are its masks.

A mask is cut to its box: `left`, `top`, `width`, `height` and `rle`, the lengths of runs of pixels
row by row, outside and inside in turn. It is exact, holes and islands too.
"""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.formats.dataset import Dataset, Spool, in_one_line
from samclip.runtime.formats.sample import Sample
from samclip.runtime.pixels.mask_ops import mask_extent

FILE = "annotations.xml"


class Cvat(Dataset):
    """A file that CVAT loads into a task whose images have the same names."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._images = Spool(folder)

    def _write(self, sample: Sample) -> None:
        self._learn(sample.all_labels)
        height, width = sample.size
        lines = [
            f'  <image id="{self.count}" name="{_quoted(sample.file_name)}" width="{width}" '
            f'height="{height}">\n'
        ]
        groups = sample.tracks or (0,) * len(sample)
        for label, group, mask in zip(sample.labels, groups, sample.packed, strict=True):
            lines.append(_describe_mask(label, group, mask))
        self._images.write("".join([*lines, "  </image>\n"]))

    def _complete(self) -> None:
        labels = "".join(
            f"        <label>\n          <name>{_quoted(name)}</name>\n"
            "          <attributes></attributes>\n        </label>\n"
            for name in self.classes
        )
        self._images.finish(
            self.folder / FILE,
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
            f"  <meta>\n    <task>\n      <size>{self.count}</size>\n"
            f"      <mode>annotation</mode>\n      <labels>\n{labels}      </labels>\n"
            "    </task>\n  </meta>\n",
            "</annotations>\n",
        )


def _describe_mask(label: str, group: int, mask: NDArray[np.bool_]) -> str:
    x0, y0, x1, y1 = mask_extent(mask)
    runs = ", ".join(map(str, count_runs(mask[y0 : y1 + 1, x0 : x1 + 1]).tolist()))
    grouped = f' group_id="{group}"' if group else ""
    return (
        f'    <mask label="{_quoted(label)}" source="auto" occluded="0" rle="{runs}" '
        f'left="{x0}" top="{y0}" width="{x1 - x0 + 1}" height="{y1 - y0 + 1}" '
        f'z_order="0"{grouped}></mask>\n'
    )


def count_runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the lengths of runs in C order, those outside first, 0 where there is none."""
    flat = mask.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], ends, [flat.size]])
    runs = np.diff(edges)
    return np.concatenate([[0], runs]) if flat[0] else runs


def _quoted(text: str) -> str:
    return html.escape(in_one_line(text))
