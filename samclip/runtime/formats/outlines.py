"""Outlines of masks as polygons, for formats that have no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.runtime.pixels.mask_ops import mask_extent

Polygon = NDArray[np.float64]  # Px2, (x, y) in pixels of the image
LEAST_POINTS = 3  # readers take fewer for a box or a mistake


def trace_islands(mask: NDArray[np.bool_], tolerance: float = 0.0) -> list[Polygon]:
    """Trace each island of an HxW mask as one polygon Px2, (x, y), the largest first.

    The points are the centres of border pixels: (0.5, 0.5) is the centre of the first pixel. A
    hole is joined to its island's border by a line of one pixel's width, there and back, so that
    the polygon filled by the even-odd rule, its border included, is the island again, but for
    these lines. `tolerance`: how far, in pixels, points that are left out may lie from the polygon.
    An empty mask has no polygon; islands of one or two pixels repeat a point, for three at least.
    """
    x0, y0, x1, y1 = mask_extent(mask)
    part = mask[y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8)
    contours, family = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    islands: list[tuple[float, Polygon]] = []
    for index, contour in enumerate(contours):
        if family[0, index, 3] >= 0:  # a hole, whose island is elsewhere in the list
            continue
        rings = [contour, *_holes_of(index, contours, family[0])]
        area = cv2.contourArea(contour)
        if tolerance:
            rings = [cv2.approxPolyDP(ring, tolerance, closed=True) for ring in rings]
        joined = join_rings([ring.reshape(-1, 2) for ring in rings])
        islands.append((area, joined + np.array([x0 + 0.5, y0 + 0.5])))
    return [polygon for _, polygon in sorted(islands, key=lambda island: -island[0])]


def join_rings(rings: Sequence[NDArray[np.number]]) -> Polygon:
    """Join closed rings, each Px2, into one: each is reached by a line from what is joined so far.

    The line goes there and back, from near point to near point. Lines of no area fill nothing
    under the even-odd rule; programs that draw the border as well draw them.
    """
    whole = np.asarray(rings[0], np.float64)
    for ring in rings[1:]:
        start = _nearest(whole, ring[0])
        first = _nearest(ring, whole[start])
        start = _nearest(whole, ring[first])
        turned = np.roll(ring, -first, axis=0)
        detour = np.concatenate([whole[start : start + 1], turned, turned[:1]])
        whole = np.concatenate([whole[:start], detour, whole[start:]])
    missing = LEAST_POINTS - len(whole)
    return whole if missing <= 0 else np.concatenate([whole, np.repeat(whole[-1:], missing, 0)])


def _nearest(points: NDArray[np.number], to: NDArray[np.number]) -> int:
    """Return the index of the point Px2 that is nearest to (x, y)."""
    return int(((points - to) ** 2).sum(axis=1).argmin())


def _holes_of(island: int, contours: Sequence[Any], family: NDArray[np.int32]) -> list[Any]:
    """Return the contours of an island's holes; `family` has next, previous, child, parent."""
    holes = []
    child = int(family[island, 2])
    while child >= 0:
        holes.append(contours[child])
        child = int(family[child, 0])
    return holes
