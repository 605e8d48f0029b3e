"""Values of the task commands' options, checked and combined before a model is loaded.

These are the names to look for, and the prompts for `Scene.segment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samclip.cli.options import Box, Point
from samclip.disk.paths import user_path
from samclip.errors import PromptError, VocabularyError

MAX_LABELS_BYTES = 10_000_000


def read_names(names: Sequence[str] | None, labels: Path | None) -> list[str] | None:
    """Join the comma-separated `names` and the lines of `labels`; None when neither is given.

    Order is kept; empty entries are dropped. Raises VocabularyError when nothing is left, or when
    the file cannot be read as UTF-8 text.
    """
    if not names and labels is None:
        return None
    found = [part.strip() for text in names or () for part in text.split(",")]
    if labels is not None:
        found += [
            line.strip()
            for line in _read_labels(user_path(labels, "the file of --labels")).splitlines()
        ]
    found = [name for name in found if name]
    if not found:
        raise VocabularyError(
            'no name was given; expected at least one, as in --names "car,bus", or one per line in '
            "the file of --labels."
        )
    return found


def require_names(names: list[str] | None, task: str) -> list[str]:
    """Return `names`; raises VocabularyError when there are none, which `task` needs."""
    if names is None:
        raise VocabularyError(
            f'{task} needs names to choose from: add --names "car,bus" or --labels FILE.'
        )
    return names


def _read_labels(path: Path) -> str:
    """Read a file of names: UTF-8 text, with or without a byte-order mark, of a bounded size."""
    if not path.is_file():
        raise VocabularyError(f"there is no file {path} to read names from (--labels).")
    if path.stat().st_size > MAX_LABELS_BYTES:
        raise VocabularyError(
            f"{path} has {path.stat().st_size:,} bytes; a list of names may have "
            f"{MAX_LABELS_BYTES:,}. Give a shorter one (--labels)."
        )
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}. Save it as UTF-8."
        ) from error


@dataclass(frozen=True)
class PromptOptions:
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
) -> PromptOptions:
    """Combine the options into prompts.

    All points together describe one object, or one each when `separate`. Each box is an object;
    points given with exactly one box refine it. Raises PromptError for any other combination.
    """
    points = list(points or ())
    labels = list(labels or ())
    boxes = list(boxes or ())
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
            "with --separate every point is a separate object, so --label 0 would describe an "
            "object by what it is not. Leave out one of the two."
        )
    if separate and points:
        return PromptOptions(
            points=[[point] for point in points], labels=[[label] for label in labels]
        )
    return PromptOptions(
        points=points or None, labels=labels if points else None, boxes=boxes or None
    )
