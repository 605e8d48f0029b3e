"""What every precision is asked of a photo: prompts that FP32 answers well, and masks to name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.pixels.masks import PackedMasks, nms, stability_score
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.grid import AutoMaskOptions

POINTS_PER_SIDE = 6  # of the grid in which FP32 looks for objects
MAX_OBJECTS = 16
MIN_AREA = 32**2  # pixels: below COCO's "small" a mask's IoU says more of single pixels
PER_POINT = 3  # masks that SAM's decoder offers for a lone point


@dataclass(frozen=True, eq=False)
class Questions:
    """What every model is asked of one photo, found by FP32.

    `boxes` Bx4 XYXY and `points` Px2 (x, y) in pixels of the photo; `objects`: masks to name;
    `per_point`: the masks that a point gets.
    """

    boxes: NDArray[np.float64]
    points: NDArray[np.float64]
    objects: PackedMasks
    per_point: int = PER_POINT


@dataclass(frozen=True, eq=False)
class _Found:
    """N objects: their masks, boxes Nx4 XYXY, scores N, and the points Nx2 that showed them."""

    packed: PackedMasks
    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    points: NDArray[np.float64]


def find_questions(scene: Scene) -> Questions:
    """Take what FP32 finds on a grid of points, the surest first; without finds, fixed prompts."""
    found = _offered(scene) if scene.features.has_multimask else _single(scene)
    order = np.argsort(-found.scores, kind="stable")
    chosen = order[found.packed.areas()[order] >= MIN_AREA][:MAX_OBJECTS]
    if not len(chosen):
        return _fixed_questions(scene)
    boxes = found.boxes[chosen].astype(np.float64)
    return Questions(boxes, found.points[chosen], found.packed.select(chosen), _per_point(scene))


def fixed_boxes(size: tuple[int, int]) -> NDArray[np.float64]:
    """Give five boxes of a photo of `size` (h, w), 5x4 XYXY: its middle and its quarters."""
    height, width = size
    corners = np.asarray([[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4]])
    return np.asarray(corners * np.asarray([width, height, width, height]) / 4)


def drawn_boxes(size: tuple[int, int]) -> PackedMasks:
    """Give the fixed boxes as masks, filled."""
    boxes = fixed_boxes(size).round().astype(int)
    masks = np.zeros((len(boxes), *size), np.bool_)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return PackedMasks.pack(masks, size)


def _per_point(scene: Scene) -> int:
    return PER_POINT if scene.features.has_multimask else 1


def _offered(scene: Scene) -> _Found:
    found = scene.everything(points_per_side=POINTS_PER_SIDE)
    return _Found(found.packed, found.boxes, found.scores, found.points)


def _single(scene: Scene) -> _Found:
    """Do as `everything` does, with a decoder of one mask: stable masks, without duplicates."""
    height, width = scene.size
    places = (np.arange(POINTS_PER_SIDE) + 0.5) / POINTS_PER_SIDE
    parts: list[_Found] = []
    for y in places * height:  # row by row: logits of all the grid at once would be large
        points = np.stack([places * width, np.full(POINTS_PER_SIDE, y)], axis=1)
        masks = scene.segment(points=points[:, None], return_logits=True)
        stable = np.flatnonzero(_is_stable(masks))
        parts.append(
            _Found(
                masks.packed.select(stable),
                masks.boxes[stable],
                masks.scores[stable],
                points[stable],
            )
        )
    packed = PackedMasks.concatenate([part.packed for part in parts], scene.size)
    boxes, scores, points = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("boxes", "scores", "points")
    )
    kept = nms(boxes, scores, AutoMaskOptions().box_nms_thresh)
    return _Found(packed.select(kept), boxes[kept], scores[kept], points[kept])


def _fixed_questions(scene: Scene) -> Questions:
    """Take five boxes and their centres, those to which FP32 has an answer that it is sure of.

    Where logits lie about the threshold all over, as those of an untrained encoder, the contour
    hangs on the last bit: such a mask tells of no precision. A model of one mask is asked for the
    names of the boxes all the same, which hang on no mask.
    """
    boxes, per_point = fixed_boxes(scene.size), _per_point(scene)
    points = (boxes[:, :2] + boxes[:, 2:]) / 2
    of_boxes = scene.segment(boxes=boxes, return_logits=True)
    of_points = scene.segment(points=points[:, None], multimask=per_point > 1, return_logits=True)
    best = per_point * np.arange(len(points)) + of_points.scores.reshape(-1, per_point).argmax(1)
    objects = PackedMasks.pack((), scene.size) if per_point > 1 else drawn_boxes(scene.size)
    sure = points[_is_stable(of_points[best])]
    return Questions(boxes[_is_stable(of_boxes)], sure, objects, per_point)


def _is_stable(masks: Masks) -> NDArray[np.bool_]:
    """Tell which of N masks with logits `everything` would take, by its stability score."""
    options = AutoMaskOptions()
    offset, threshold = options.stability_score_offset, options.stability_score_thresh
    logits: list[NDArray[np.float32]] = [] if masks.logits is None else list(masks.logits)
    return np.asarray([stability_score(each, offset) >= threshold for each in logits], np.bool_)
