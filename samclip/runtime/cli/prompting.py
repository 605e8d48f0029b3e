"""From the --point, --label and --box options to the prompts of `Scene.segment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from samclip.errors import PromptError
from samclip.runtime.cli.parsing import Box, Point


@dataclass(frozen=True)
class Prompts:
    """Arguments for `Scene.segment`.

    `points`: Nx2 for one object or Nx1x2 for N objects, (x, y) in pixels of the image; `labels`:
    the same shape without the 2; `boxes`: Bx4 XYXY.
    """

    points: list[Any] | None = None
    labels: list[Any] | None = None
    boxes: list[Box] | None = None


def gather_prompts(
    points: Sequence[Point] | None,
    labels: Sequence[int] | None,
    boxes: Sequence[Box] | None,
    separate: bool,
) -> Prompts:
    """Combine the options.

    Points describe one object together, or one each when `separate`; each box is an object, and
    points beside exactly one box refine it. Raises PromptError for any other combination.
    """
    points, labels, boxes = list(points or ()), list(labels or ()), list(boxes or ())
    if not points and not boxes:
        raise PromptError("nothing to segment: add --point X,Y or --box X1,Y1,X2,Y2.")
    if labels and len(labels) != len(points):
        raise PromptError(
            f"{len(labels)} --label for {len(points)} --point: give one for each point, in order, "
            "or none."
        )
    if not {*labels} <= {0, 1}:
        raise PromptError(f"--label must be 1 (the object) or 0 (not the object); got {labels}.")
    labels = labels or [1] * len(points)
    if points and boxes and (separate or len(boxes) > 1):
        raise PromptError(
            f"{len(points)} --point and {len(boxes)} --box cannot be objects of one command: "
            "points refine a single --box. Segment the boxes and the points in two commands."
        )
    if separate and 0 in labels:
        raise PromptError(
            "with --separate every point is an object of its own, so --label 0 would describe an "
            "object by what it is not. Leave out one of the two."
        )
    if separate and points:
        return Prompts([[point] for point in points], [[label] for label in labels])
    return Prompts(points or None, labels if points else None, boxes or None)
