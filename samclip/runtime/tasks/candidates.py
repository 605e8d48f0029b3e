"""Masks on their way through the filters of automatic mask generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.results.packed_masks import PackedMasks
from samclip.runtime.tasks.mask_ops import mask_extent, nms, remove_small_regions

_ARRAYS = ("boxes", "ious", "stability", "points", "point_index", "crop_boxes")


@dataclass(frozen=True, eq=False)
class Candidates:
    """N masks in the original image, as bits.

    `boxes`: Nx4 float32 XYXY, last pixel inclusive, as segment-anything's; `ious`, `stability`: N
    float32; `points`: Nx2 float64 (x, y) that they came from; `point_index`: N int64, counted
    over all crops; `crop_boxes`: Nx4 int64 XYXY.
    """

    packed: PackedMasks
    boxes: NDArray[np.float32]
    ious: NDArray[np.float32]
    stability: NDArray[np.float32]
    points: NDArray[np.float64]
    point_index: NDArray[np.int64]
    crop_boxes: NDArray[np.int64]

    @staticmethod
    def concatenate(parts: Sequence[Candidates], size: tuple[int, int]) -> Candidates:
        """Join candidates of images of `size` (h, w)."""
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in (_none(size), *parts)])
            for name in _ARRAYS
        }
        return Candidates(PackedMasks.concatenate([p.packed for p in parts], size), **arrays)

    def __len__(self) -> int:
        return len(self.packed)

    def select(self, rows: NDArray[np.intp]) -> Candidates:
        """Keep the candidates of these indices, in their order."""
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return Candidates(self.packed.select(rows), **arrays)

    def without_duplicates(self, scores: NDArray[np.float32], iou_threshold: float) -> Candidates:
        """Suppress masks whose box overlaps that of one with a better score; best first."""
        return self.select(nms(self.boxes, scores, iou_threshold))

    def without_small_regions(self, min_area: float, iou_threshold: float) -> Candidates:
        """Fill small holes, drop small islands, then suppress the duplicates this made.

        Masks that needed no change go first, as in segment-anything's
        `postprocess_small_regions`.
        """
        size, boxes = self.packed.size, self.boxes.copy()
        unchanged = np.ones(len(self), np.float32)
        parts = []
        for row, original in enumerate(self.packed):
            mask, filled = remove_small_regions(original, min_area, "holes")
            mask, dropped = remove_small_regions(mask, min_area, "islands")
            unchanged[row] = not (filled or dropped)
            boxes[row] = mask_extent(mask)
            parts.append(PackedMasks.pack([mask], size))
        cleaned = replace(self, packed=PackedMasks.concatenate(parts, size), boxes=boxes)
        return cleaned.without_duplicates(unchanged, iou_threshold)


def _none(size: tuple[int, int]) -> Candidates:
    return Candidates(
        packed=PackedMasks.pack((), size),
        boxes=np.zeros((0, 4), np.float32),
        ious=np.zeros(0, np.float32),
        stability=np.zeros(0, np.float32),
        points=np.zeros((0, 2)),
        point_index=np.zeros(0, np.int64),
        crop_boxes=np.zeros((0, 4), np.int64),
    )
