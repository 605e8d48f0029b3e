"""Three tasks on one scene, for the picture of `samclip demo`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.results.masks import AutoMasks, Masks
from samclip.runtime.results.poster import Overview
from samclip.runtime.scene import Names, Scene, Templates

POINTS_PER_SIDE = 8  # 64 prompts find the large objects
MOST_MASKS = 3
AREAS = (0.01, 0.7)  # share of the image: neither crumbs nor backgrounds
MAX_OVERLAP = 0.2  # share of the smaller mask


def look_over(
    scene: Scene,
    names: Names,
    boxes: Sequence[tuple[float, float, float, float]] | None = None,
    templates: Templates = None,
) -> Overview:
    """Classify a scene, segment and name the objects in `boxes`, and name every pixel.

    `boxes`: XYXY in pixels of the image; without any, the largest of SAM's automatic masks are
    taken, or the object in the middle when there are none. Raises as the tasks do.
    """
    return Overview(
        classification=scene.classify(names, templates=templates),
        masks=_find(scene, names, boxes, templates),
        semantic=scene.semantic(names, templates=templates, refine=True),
    )


def _find(
    scene: Scene,
    names: Names,
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
    """Return the indices of the largest masks that stand apart, largest first; no backgrounds."""
    shares = masks.areas / (masks.packed.size[0] * masks.packed.size[1])
    chosen: list[int] = []
    for row in np.argsort(-shares, kind="stable").tolist():
        if not AREAS[0] <= shares[row] <= AREAS[1] or len(chosen) == MOST_MASKS:
            continue
        mask = masks.packed.unpack(row)
        limit = MAX_OVERLAP * masks.areas[row]
        if all((mask & masks.packed.unpack(larger)).sum() <= limit for larger in chosen):
            chosen.append(row)
    return np.asarray(chosen, np.int64)
