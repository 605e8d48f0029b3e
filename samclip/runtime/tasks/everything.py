"""Segmentation of everything: a grid of points, filters and non-maximum suppression.

The procedure is that of segment-anything's `SamAutomaticMaskGenerator`: given the same decoder
outputs it keeps the same masks, in the same order. The option `adaptive`, which that lacks, leaves
points out, see `CropSearch`. Memory grows by a bit for each pixel of the box around a mask that
passes the filters, and by H * W / 8 bytes for each mask that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.progress import SILENT, Progress, ProgressStage
from samclip.runtime.features import Features
from samclip.runtime.photo import Photo, pixels_of
from samclip.runtime.pixels.mask_ops import (
    MASK_THRESHOLD,
    PackedMasks,
    mask_extent,
    near_crop_edge,
    nms,
    remove_small_regions,
    stability_score,
)
from samclip.runtime.pixels.prompts import Prompt
from samclip.runtime.results.masks import AutoMasks
from samclip.runtime.room import require_memory
from samclip.runtime.stages import stage as timed_stage
from samclip.runtime.tasks.grid import AutoMaskOptions, Crop, generate_crops
from samclip.runtime.tasks.segment import MULTI

CHECKED_BYTES = 2**28  # of masks: as often as so many more are held, it is checked that more fit
ENOUGH = 3  # other points whose masks cover a point: an adaptive search then leaves it out
COVERED = "covered"  # what progress says of such a point
Encode = Callable[[NDArray[np.uint8]], Features]
# The fields of `Candidates` with one row per mask, in addition to `packed`.
_ARRAYS = ("boxes", "ious", "stability", "points", "point_index", "crop_boxes")


def segment_everything(
    features: Features,
    image: Photo,
    options: AutoMaskOptions,
    encode: Encode,
    progress: Progress = SILENT,
) -> AutoMasks:
    """Find the masks of everything in `image`, HWC uint8 RGB, whose `features` are given.

    `encode` computes the features of crops, if the options ask for crops; the image itself is not
    encoded again. `progress` gets one stage, with a step for each point. Raises CapabilityError for
    a decoder of one mask, ClosedError, EngineRunError.
    """
    features.check_multimask("everything")
    size = features.letterbox.original_size
    found = []
    tried = 0  # points
    crops = list(generate_crops(size, options.crop_n_layers, options.crop_overlap_ratio))
    total = sum(len(options.grid(crop.layer)) for crop in crops)
    with progress.stage("points", total) as stage:
        for crop in crops:
            own = features if crop.layer == 0 else encode(pixels_of(image)[crop.rows_columns])
            try:
                search = CropSearch(own, crop, size, options)
                found.append(search.run(tried, stage))
                tried += len(search.points)
            finally:
                if own is not features:
                    own.close()
    return _make_result(_join_crops(found, size, options), image)


def _join_crops(
    found: list[Candidates], size: tuple[int, int], options: AutoMaskOptions
) -> Candidates:
    """Join the crops' masks, drop duplicates between crops, then clean small regions."""
    joined = Candidates.concatenate(found, size)
    if len(found) > 1:  # masks of smaller crops are preferred
        x0, y0, x1, y1 = joined.crop_boxes.T  # N each
        areas = ((x1 - x0) * (y1 - y0)).astype(np.float32)
        joined = joined.without_duplicates(1 / areas, options.crop_nms_thresh)
    if options.min_mask_region_area > 0:
        threshold = max(options.box_nms_thresh, options.crop_nms_thresh)
        joined = joined.without_small_regions(options.min_mask_region_area, threshold)
    return joined


def _make_result(found: Candidates, image: Photo) -> AutoMasks:
    one_past = np.where(found.packed.areas()[:, None] > 0, (0, 0, 1, 1), 0)
    return AutoMasks(
        packed=found.packed,
        scores=found.ious,
        boxes=(found.boxes + one_past).astype(np.float32),
        prompt_index=found.point_index,
        image=image,
        points=found.points,
        stability_scores=found.stability,
        crop_boxes=found.crop_boxes,
    )


class CropSearch:
    """The search with a grid of points in one crop of an image of `size` (h, w).

    An adaptive search tries every second row and column of the grid first, and then all other
    points but those that masks of `ENOUGH` of the first points cover; masks that pass the filters
    count. So the second pass is for regions that fewer points have found, because they are small
    or their masks rarely pass, and for gaps between masks, as around an object on a table. Which
    points are tried depends neither on batches nor on threads.
    """

    def __init__(
        self, features: Features, crop: Crop, size: tuple[int, int], options: AutoMaskOptions
    ) -> None:
        height, width = features.letterbox.original_size
        self.points = options.grid(crop.layer) * (width, height)  # Mx2, pixels of the crop
        self._features = features
        self._crop = crop
        self._size = size
        self._options = options

    def run(self, first_index: int, stage: ProgressStage = SILENT) -> Candidates:
        """Return the masks that pass the filters, without duplicates, the best first.

        `first_index`: the index of the crop's first point among the points of all crops; `stage`:
        gets a step for each point, with the text `COVERED` for one that is left out.
        """
        passed: list[Passed] = []
        for rows in self._options.passes(self._crop.layer):
            is_open = self._count_covers(passed)[rows] < ENOUGH
            for _ in rows[~is_open]:
                stage.advance(COVERED)
            passed += self._try(rows[is_open], stage)
        passed.sort(key=lambda one: one.row)  # as if all had been tried in the grid's order
        return self._keep_best(passed, first_index)

    def _count_covers(self, passed: Sequence[Passed]) -> NDArray[np.int64]:
        """Count for each of the crop's M points the tried points of which a mask covers it: M."""
        height, width = self._features.letterbox.original_size
        columns, rows = np.minimum(self.points.astype(np.int64), (width - 1, height - 1)).T
        covers = np.zeros(len(self.points), np.int64)
        for _, masks in groupby(passed, key=lambda one: one.row):
            covered = np.zeros(len(self.points), np.bool_)
            for one in masks:
                x0, y0, x1, y1 = one.extent
                is_near = (x0 <= columns) & (columns <= x1) & (y0 <= rows) & (rows <= y1)
                near = np.flatnonzero(is_near)
                covered[near] |= one.inside()[rows[near] - y0, columns[near] - x0]
            covers += covered
        return covers

    def _try(self, rows: NDArray[np.intp], stage: ProgressStage) -> list[Passed]:
        """Return the masks of the points with these indices that pass the filters."""
        prompts = [Prompt(self.points[row][None], np.ones(1)) for row in rows]
        limit = self._options.points_per_batch
        threshold = self._options.pred_iou_thresh
        passed: list[Passed] = []
        held = 0
        for batch, iou, low_res in self._features.decode_all(prompts, limit, len(self.points)):
            offered = iou[:, list(MULTI)]  # Bx3
            good = offered > threshold if threshold > 0 else np.ones(offered.shape, np.bool_)
            for place, output in np.argwhere(good):
                row, token = int(rows[batch.rows[place]]), MULTI[output]
                one = self._examine(low_res[place, token], iou[place, token], row)
                if one is None:
                    continue
                passed.append(one)
                held += len(one.bits)
                if held > CHECKED_BYTES:
                    require_memory(CHECKED_BYTES, "more masks that pass the filters")
                    held = 0
            for _ in batch.rows:
                stage.advance()
        return passed

    def _examine(self, low_res: NDArray[np.float32], iou: np.float32, row: int) -> Passed | None:
        """Return the mask of one output if it passes the filters."""
        offset = self._options.stability_score_offset
        with timed_stage("upscale"):  # all other pixels of the crop are outside both masks
            floor = MASK_THRESHOLD - offset
            logits, (rows, columns) = self._features.letterbox.upscale_above(low_res, floor)
        stability = stability_score(logits, offset)
        threshold = self._options.stability_score_thresh
        if threshold > 0 and stability < threshold:
            return None
        mask = logits > MASK_THRESHOLD
        x0, y0, x1, y1 = mask_extent(mask)
        left, top = columns.start, rows.start
        extent = (left + x0, top + y0, left + x1, top + y1)
        if near_crop_edge(np.asarray([extent], np.float32), self._crop.box, self._size)[0]:
            return None
        bits = np.packbits(mask[y0 : y1 + 1, x0 : x1 + 1])
        return Passed(extent, bits, float(iou), stability, row)

    def _keep_best(self, passed: Sequence[Passed], first_index: int) -> Candidates:
        """Drop duplicates, and place the other masks in the image, the best first."""
        x0, y0, _, _ = self._crop.box  # from the crop's frame to the image's
        offset = np.asarray([x0, y0, x0, y0], np.float32)
        boxes = np.asarray([one.extent for one in passed], np.float32).reshape(-1, 4)
        ious = np.asarray([one.iou for one in passed], np.float32)
        best = nms(boxes, ious, self._options.box_nms_thresh)
        kept = [passed[index] for index in best]
        rows = np.asarray([one.row for one in kept], np.int64)
        return Candidates(
            packed=self._place(kept),
            boxes=boxes[best] + offset,
            ious=ious[best],
            stability=np.asarray([one.stability for one in kept], np.float32),
            points=self.points[rows] + offset[:2],
            point_index=first_index + rows,
            crop_boxes=np.tile(np.asarray(self._crop.box, np.int64), (len(kept), 1)),
        )

    def _place(self, kept: Sequence[Passed]) -> PackedMasks:
        """Unpack masks of the crop into masks of the image; raises DeviceMemoryError."""
        width = (self._size[0] * self._size[1] + 7) // 8
        require_memory(len(kept) * width, f"{len(kept):,} masks")
        packed = PackedMasks(np.empty((len(kept), width), np.uint8), self._size)
        left, top, _, _ = self._crop.box
        for row, one in enumerate(kept):
            placed = np.zeros(self._size, np.bool_)
            x0, y0, x1, y1 = one.extent
            placed[top + y0 : top + y1 + 1, left + x0 : left + x1 + 1] = one.inside()
            packed.bits[row] = np.packbits(placed)
        return packed


@dataclass(frozen=True, eq=False)
class Passed:
    """A mask of a crop that passed the filters, before duplicates are dropped.

    `extent`: XYXY in pixels of the crop, the last pixel inclusive; `bits`: the pixels inside it,
    packed; `row`: the index of its point in the crop.
    """

    extent: tuple[int, int, int, int]
    bits: NDArray[np.uint8]
    iou: float
    stability: float
    row: int

    def inside(self) -> NDArray[np.bool_]:
        """Unpack the part of the mask in its extent: hxw."""
        x0, y0, x1, y1 = self.extent
        height, width = y1 + 1 - y0, x1 + 1 - x0
        flat = np.unpackbits(self.bits, count=height * width)
        return flat.view(np.bool_).reshape(height, width)


@dataclass(frozen=True, eq=False)
class Candidates:
    """N masks of the original image on their way through the filters.

    `boxes`: Nx4 float32 XYXY, the last pixel inclusive, as in segment-anything; `ious`,
    `stability`: N float32; `points`: Nx2 float64, the prompt (x, y) of each mask; `point_index`: N
    int64, counted over all crops; `crop_boxes`: Nx4 int64 XYXY.
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
        """Join candidates of an image of `size` (h, w)."""
        if len(parts) == 1:
            return parts[0]
        empty = Candidates(
            packed=PackedMasks.pack((), size),
            boxes=np.zeros((0, 4), np.float32),
            ious=np.zeros(0, np.float32),
            stability=np.zeros(0, np.float32),
            points=np.zeros((0, 2)),
            point_index=np.zeros(0, np.int64),
            crop_boxes=np.zeros((0, 4), np.int64),
        )
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in (empty, *parts)])
            for name in _ARRAYS
        }
        return Candidates(PackedMasks.concatenate([p.packed for p in parts], size), **arrays)

    def __len__(self) -> int:
        return len(self.packed)

    def select(self, rows: NDArray[np.intp]) -> Candidates:
        """Return the candidates with these indices, in their order."""
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return Candidates(self.packed.select(rows), **arrays)

    def without_duplicates(self, scores: NDArray[np.float32], iou_threshold: float) -> Candidates:
        """Drop masks whose box overlaps the box of one with a better score; best first."""
        return self.select(nms(self.boxes, scores, iou_threshold))

    def without_small_regions(self, min_area: float, iou_threshold: float) -> Candidates:
        """Fill small holes, drop small islands, then drop the duplicates that arise.

        Masks that needed no change come first, as in segment-anything's
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
