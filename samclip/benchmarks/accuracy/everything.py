"""`everything` judged: objects that it finds, masks, points that it tries, and its time.

A grid of points is compared with the adaptive search of the same grid, and with coarser grids. All
answer from one scene of each photo, in turns, so that they differ in nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from samclip.benchmarks.data.coco import CocoObject, CocoPhoto
from samclip.benchmarks.records import Row
from samclip.benchmarks.scores import ALL, PHOTOS, Candidate, Scores, by_area, by_size, compare
from samclip.progress import SILENT, Progress, Silent, track
from samclip.runtime.pixels.mask_ops import encode_rle
from samclip.runtime.results.coco import RleDict
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.everything import COVERED

FOUND, SAME = 0.5, 0.8  # IoU from which a mask counts as an object, and as a mask of the grid
OBJECTS, BEST = "objects found", "best mask mIoU"
MASKS = "masks of the whole grid found"
POINTS, SECONDS, PROCESSOR = "points tried", "everything", "everything, processor time"
PROTOCOL = (
    f"{OBJECTS}: the share of objects of which a mask has an IoU of at least {FOUND}. {BEST}: the "
    "IoU of the mask that fits an object best, averaged over objects. Crowds are left out.",
    f"{MASKS}: of the masks that the whole grid keeps after non-maximum suppression, the share for "
    f"which another search keeps one with an IoU of at least {SAME}; small, medium and large by "
    "the mask's pixels.",
    f"{POINTS}: as a share of the whole grid, by the progress that `everything` reports. Times are "
    "of photos that are encoded already, averaged over photos. The searches take turns, and each "
    "begins as often. A first search of the first photo, which loads graphs, is not counted.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)


@dataclass(frozen=True)
class Search:
    """A way to search, and what rows call it."""

    name: str
    options: dict[str, Any]


def searches(points: int, coarser: Sequence[int] = ()) -> tuple[Search, ...]:
    """Return the adaptive search of a grid, then the whole grid, then `coarser` ones."""
    sides = dict.fromkeys((points, *coarser))
    grids = [Search(f"{side} x {side} points", {"points_per_side": side}) for side in sides]
    return (Search("adaptive", {"points_per_side": points, "adaptive": True}), *grids)


class _Tried(Silent):
    """Counts the points that were tried."""

    def __init__(self) -> None:
        self.points = 0

    def advance(self, text: str = "") -> None:
        self.points += text != COVERED


@dataclass(frozen=True, eq=False)
class _Found:
    """N masks that a search found in a photo, their areas in pixels, and costs by measure."""

    outlines: list[RleDict]
    areas: NDArray[np.int64]
    costs: dict[str, float]

    def best(self, others: Sequence[RleDict]) -> NDArray[np.float64]:
        """Return for each of M masks the IoU with the one found that fits it best: M."""
        if not self.outlines or not others:
            return np.zeros(len(others))
        overlaps = coco_mask.iou(self.outlines, list(others), [0] * len(others))  # NxM
        return np.asarray(overlaps.max(axis=0), np.float64)


def _search(scene: Scene, search: Search, grid: int) -> _Found:
    """Search a scene; `grid`: the points of the whole grid."""
    tried = _Tried()
    start, spent = time.perf_counter(), time.process_time()
    found = scene.everything(**search.options, progress=tried)
    seconds, processor = time.perf_counter() - start, time.process_time() - spent
    costs = {POINTS: tried.points / grid, SECONDS: seconds, PROCESSOR: processor}
    return _Found([encode_rle(mask) for mask in found.packed], found.packed.areas(), costs)


def evaluate_everything(
    candidate: Candidate,
    photos: Sequence[CocoPhoto],
    points: int,
    coarser: Sequence[int] = (),
    progress: Progress = SILENT,
) -> list[Row]:
    """Compare the adaptive search of a grid of `points` a side with the whole grid and others.

    Raises ImageError, InputError, PromptError, CapabilityError, EngineRunError.
    """
    ways = searches(points, coarser)
    whole = ways[1].name
    objects, masks, costs = Scores(), Scores(), Scores()
    known: list[CocoObject] = []
    areas: list[int] = []  # of the whole grid's masks
    for number, photo in enumerate(track(progress, photos, "everything")):
        with candidate.model.encode(photo.pixels()) as scene:
            if number == 0:
                _search(scene, ways[0], points**2)  # loads the graphs
            turn = number % len(ways)
            found = {
                way.name: _search(scene, way, points**2) for way in (*ways[turn:], *ways[:turn])
            }
        objects.photos += [number] * len(photo.objects)
        masks.photos += [number] * len(found[whole].outlines)
        costs.photos.append(number)
        known += photo.objects
        areas += found[whole].areas.tolist()
        for way in ways:
            one = found[way.name]
            fits = one.best([each.rle for each in photo.objects])
            objects.add(way.name, OBJECTS, fits >= FOUND)
            objects.add(way.name, BEST, fits)
            if way.name != whole:
                masks.add(way.name, MASKS, one.best(found[whole].outlines) >= SAME)
            for measure, value in one.costs.items():
                costs.add(way.name, measure, [value])
    sizes = {ALL: np.ones(len(areas), np.bool_), **by_area(np.asarray(areas, np.int64))}
    return [*compare(objects, by_size(known)), *compare(masks, sizes), *_cost_rows(costs)]


def _cost_rows(costs: Scores) -> Iterator[Row]:
    """Yield the means over photos, and the ratios of the first search to the others."""
    for row in compare(costs, {PHOTOS: np.ones(len(costs.photos), np.bool_)}):
        is_time = row.unit != "ratio" and row.measure != POINTS
        yield structs.replace(row, unit="seconds") if is_time else row
