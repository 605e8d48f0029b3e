"""Sharp borders for a coarse label map: the CLIP head prompts SAM's decoder.

SAM-CLIP (section 4.3, "composing both heads") goes from each class's coarse mask to one to three
points, gives points and mask to the prompt encoder, and takes the argmax of the classes' mask
logits. It leaves open how masks become logits, how points are drawn, and what happens to a class
in several places. What is chosen here:

- a prompt per region, a connected part of the coarse map, because SAM's decoder outlines single
  objects; regions smaller than a token, or beyond the 256 largest, get none;
- up to three points, without chance: where probability times distance to the region's edge is
  highest, then the same times the distance to the nearest point so far;
- the region's box, and as mask the log-odds of its name against the best other name, upscaled
  and clipped to +-10: its zero is the coarse border;
- the single-mask output; below a predicted IoU of 0.7, and where there was no prompt, the coarse
  region itself, as logit 2 (RADSeg too keeps coarse regions whose predicted IoU is low);
- a mask gets the name whose mean cosine inside it is highest, which may be another than that of
  the region it was prompted with: the object as a whole tells more than a few odd tokens;
- per pixel the mask with the highest logit above 0, else the coarse label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.runtime.features import Features
from samclip.runtime.tasks.coarse import CoarseMap
from samclip.runtime.tasks.naming import TokenSpread
from samclip.runtime.tasks.prompt_batches import batch_prompts
from samclip.runtime.tasks.prompts import Prompt
from samclip.runtime.tasks.segment import SINGLE

MAX_REGIONS = 256  # the largest ones
MAX_POINTS = 3
MIN_IOU = 0.7
COARSE_LOGIT = 2.0
CLIP = 10.0


@dataclass(frozen=True, eq=False)
class Region:
    """A connected part of the map: name `index`, `box` XYXY in pixels, `inside` bool in the box."""

    index: int
    box: tuple[int, int, int, int]
    inside: NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        """Slices that cut the box out of an HxW array."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)


def refine_labels(
    features: Features, coarse: CoarseMap, labels: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Redraw the borders of coarse `labels`, HxW int32 indices of names: HxW int32.

    One decoder prompt per region. Raises ClosedError, EngineRunError.
    """
    regions = _find_regions(labels, _token_area(features, coarse.grid))
    refined: NDArray[np.int32] = labels.copy()
    if len(np.unique(labels)) < 2:
        return refined
    best = _unprompted(regions, labels.shape)
    side = features.mask_size
    spread = TokenSpread(features.letterbox, features.clip().token_mask)
    prompts = list(_make_prompts(regions, coarse, side))
    for batch in batch_prompts(prompts, features.letterbox, side):
        iou, low_res = features.decode(batch)
        for place, row in enumerate(batch.rows):
            region = regions[row]
            logits: NDArray[np.float32]
            if iou[place, SINGLE] >= MIN_IOU:
                logits = features.letterbox.upscale(low_res[place, SINGLE])
                _claim(refined, best, _name(coarse, spread, region, logits > 0), logits)
            else:
                logits, window = np.float32(COARSE_LOGIT) * region.inside, region.window
                _claim(refined[window], best[window], region.index, logits)
    return refined


def _name(coarse: CoarseMap, spread: TokenSpread, region: Region, mask: NDArray[np.bool_]) -> int:
    """Name an HxW mask by what lies inside it; one that covers no token by its region."""
    weights = spread.covered(mask)
    return coarse.best_inside(weights) if weights.any() else region.index


def _unprompted(regions: list[Region], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return HxW: the coarse logit, and 0 in the regions that get a prompt."""
    best = np.full(shape, COARSE_LOGIT, np.float32)
    for region in regions:
        best[region.window][region.inside] = 0
    return best


def _claim(
    labels: NDArray[np.int32], best: NDArray[np.float32], index: int, logits: NDArray[np.float32]
) -> None:
    """Give the pixels whose logit is higher than any before, and above 0, to name `index`."""
    better = logits > best
    labels[better] = index
    np.copyto(best, logits, where=better)


def _token_area(features: Features, grid: int) -> float:
    """Return the pixels of the original image that one token covers."""
    letterbox = features.letterbox
    side = letterbox.image_size / grid * max(letterbox.original_size) / max(letterbox.input_size)
    return side**2


def _find_regions(labels: NDArray[np.int32], min_area: float) -> list[Region]:
    """List the 8-connected regions of at least `min_area` pixels, name by name."""
    found: list[tuple[int, Region]] = []
    for index in np.unique(labels).tolist():
        _, parts, stats, _ = cv2.connectedComponentsWithStats(
            (labels == index).astype(np.uint8), connectivity=8
        )
        for part, (x, y, width, height, area) in enumerate(stats[1:].tolist(), start=1):
            if area >= min_area:
                inside = parts[y : y + height, x : x + width] == part
                found.append((area, Region(index, (x, y, x + width, y + height), inside)))
    largest = sorted(found, key=lambda pair: -pair[0])[:MAX_REGIONS]
    return sorted((region for _, region in largest), key=lambda region: region.index)


def _make_prompts(regions: list[Region], coarse: CoarseMap, mask_size: int) -> Iterator[Prompt]:
    """Yield a prompt per region; regions of one name follow each other."""
    for index, group in groupby(regions, key=lambda region: region.index):
        probability = coarse.upscale(coarse.probabilities(index))
        odds = np.clip(coarse.log_odds(index), -CLIP, CLIP)
        mask = cv2.resize(odds, (mask_size, mask_size), interpolation=cv2.INTER_LINEAR)
        for region in group:
            points = _choose_points(region, probability[region.window])
            box = np.asarray(region.box, np.float64)
            yield Prompt(points, np.ones(len(points)), box, np.asarray(mask, np.float32))


def _choose_points(region: Region, probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """Choose up to three points well inside the region: Nx2 (x, y), at pixel centres.

    `probability`: of the region's name, in its box.
    """
    padded = np.pad(region.inside, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    weight = depth * probability
    rows, columns = np.indices(region.inside.shape)
    apart = np.ones(region.inside.shape)
    points: list[tuple[float, float]] = []
    for _ in range(MAX_POINTS):
        weight = depth * probability * apart
        row, column = np.unravel_index(int(weight.argmax()), weight.shape)
        if weight[row, column] <= 0:  # fewer pixels than points
            break
        points.append((region.box[0] + column + 0.5, region.box[1] + row + 0.5))
        distance = np.hypot(rows - row, columns - column)
        apart = np.minimum(apart, distance) if len(points) > 1 else distance
    return np.asarray(points, np.float64).reshape(-1, 2)
