"""All three tasks on one scene, for the picture of `samclip demo`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.results.masks import AutoMasks, Masks
from samclip.runtime.results.poster import Overview
from samclip.runtime.scene import Scene, Templates

POINTS_PER_SIDE = 8  # 64 prompts find what is large
MOST_MASKS = 3
AREAS = (0.01, 0.7)  # of the image: neither crumbs nor backgrounds
MAX_OVERLAP = 0.2  # of the smaller mask


def look_over(
    scene: Scene,
    names: Sequence[str],
    boxes: Sequence[tuple[float, float, float, float]] | None = None,
    templates: Templates = None,
) -> Overview:
    """Classify a scene, segment and name what `boxes` show, and name every pixel.

    `boxes`: XYXY in pixels of the image; None for the largest objects that SAM's automatic masks
    find, or what is in the middle when they find none. Raises as the tasks do.
    """
    return Overview(
        classification=scene.classify(names, templates=templates),
        masks=_find(scene, names, boxes, templates),
        semantic=scene.semantic(names, templates=templates, refine=True),
    )


def _find(
    scene: Scene,
    names: Sequence[str],
    boxes: Sequence[tuple[float, float, float, float]] | None,
    templates: Templates,
) -> Masks:
    if boxes:
        return scene.segment(boxes=np.asarray(boxes), names=names, templates=templates)
    found = scene.everything(names=names, templates=templates, points_per_side=POINTS_PER_SIDE)
    chosen = found[prominent(found)]
    if len(chosen):
        return chosen
    height, width = scene.size
    return scene.segment(points=[(width / 2, height / 2)], names=names, templates=templates)


def prominent(masks: AutoMasks) -> NDArray[np.int64]:
    """Choose the largest masks that stand apart and are no backgrounds: indices, largest first."""
    shares = masks.areas / (masks.packed.size[0] * masks.packed.size[1])
    chosen: list[int] = []
    for row in np.argsort(-shares, kind="stable").tolist():
        inside = AREAS[0] <= shares[row] <= AREAS[1]
        if inside and len(chosen) < MOST_MASKS and _stands_apart(masks, row, chosen):
            chosen.append(row)
    return np.asarray(chosen, np.int64)


def _stands_apart(masks: AutoMasks, row: int, larger: Sequence[int]) -> bool:
    mask = masks.packed.unpack(row)
    limit = MAX_OVERLAP * masks.areas[row]
    return all((mask & masks.packed.unpack(other)).sum() <= limit for other in larger)
