"""Values of the task commands' options, checked and combined before a model is loaded.

These are the names to look for, and the prompts for `Scene.segment`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samclip.cli.options import Box, Point
from samclip.disk.paths import user_path
from samclip.disk.user_files import read_user_text
from samclip.errors import InputWarning, PromptError, VocabularyError, warn_caller
from samclip.json_text import SURROGATE

if TYPE_CHECKING:
    from samclip.runtime.text.vocabulary import Vocabulary

MAX_LABELS_BYTES = 10_000_000
# What lists in other forms leave in their lines: comments, numbers before a name, tabs, quotes,
# brackets, separators at the end, and the keys and dashes of YAML.
OTHER_FORM = re.compile(
    r"""(?:\#|//|-\s).*|.*\t.*|n\d{8}\b.*|\d+\s*[:,;].*|["'].*["'],?|[\[\]{}].*|.*[,;:\]}]""",
    re.DOTALL,
)
LISTS = (".txt", ".csv", ".tsv", ".json", ".names", ".yaml", ".yml")


def read_vocabulary(
    names: Sequence[str] | None, labels: Path | None, file: Path | None
) -> list[str | Vocabulary] | None:
    """Return the vocabulary of `file`, then the names as `read_names` does; None without either.

    Raises VocabularyError as `read_names` and `samclip.load_vocabulary` do.
    """
    given = read_names(names, labels)
    if file is None:
        return None if given is None else [*given]
    import samclip  # brings in numpy

    return [samclip.load_vocabulary(file), *(given or ())]


def count_names(given: Sequence[str | Vocabulary]) -> int:
    """Count the different names, those of vocabularies with the others."""
    groups = [[each] if isinstance(each, str) else each.names for each in given]
    return len({name for group in groups for name in group})


def choose_floor(background: float, given: Sequence[str | Vocabulary]) -> float | None:
    """Return the probability that a pixel's name needs, None where each pixel has a name.

    The best of K names has at least 1 / K: a floor up to that leaves nothing out.
    """
    return background if background > 1 / max(1, count_names(given)) else None


def read_names(names: Sequence[str] | None, labels: Path | None) -> list[str] | None:
    """Join the comma-separated `names` and the lines of `labels`; None when neither is given.

    Order is kept; empty entries are dropped. Raises VocabularyError when nothing is left, or when
    the file cannot be read as UTF-8 text. Warns with InputWarning of names that look like parts of
    a list in another form, such as JSON or CSV; they are used as they are.
    """
    if not names and labels is None:
        return None
    found = [part.strip() for text in names or () for part in _decode(text).split(",")]
    _warn_of_other_forms(found, "--names", "Write them as in --names 'car,bus'.", ";")
    for name in found:
        if name.lower().endswith(LISTS) and os.path.lexists(name.removeprefix("@")):
            warn_caller(
                f"{name!r:.100} is taken for a name, and it is a file. For the names in it, write "
                f"--labels {name.removeprefix('@')}.",
                InputWarning,
            )
    if labels is not None:
        lines = read_lines(labels)
        only = "," if len(lines) == 1 else None
        advice = "Write one name a line, and nothing else."
        _warn_of_other_forms(lines, str(labels), advice, only)
        found += lines
    found = [name for name in found if name]
    if not found:
        raise VocabularyError(
            'no name was given; expected at least one, as in --names "car,bus", or one per line in '
            "the file of --labels."
        )
    return found


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file without spaces around them; empty ones are left out.

    Raises VocabularyError when it cannot be read as UTF-8 text.
    """
    path = user_path(file, "the file of names")
    advice = "Give a text file with one name a line."
    text = read_user_text(path, MAX_LABELS_BYTES, "the file of names", VocabularyError, advice)
    if "\0" in text:
        raise VocabularyError(
            f"the file of names {path} holds NUL characters, as UTF-16 read as UTF-8 does. "
            "Save it as UTF-8."
        )
    return [line.strip() for line in text.splitlines() if line.strip()]


def require_names(names: list[str | Vocabulary] | None, task: str) -> list[str | Vocabulary]:
    """Return `names`; raises VocabularyError when there are none, which `task` needs."""
    if names is None:
        raise VocabularyError(
            f'{task} needs names to choose from: add --names "car,bus", --labels FILE or '
            "--vocabulary FILE."
        )
    return names


def _warn_of_other_forms(names: Sequence[str], source: str, advice: str, mark: str | None) -> None:
    """Warn of names that look like parts of another form of list, or hold its mark."""
    odd = [name for name in names if OTHER_FORM.fullmatch(name) or (mark and mark in name)]
    if odd:
        shown = ", ".join(f"{name!r:.60}" for name in odd[:3])
        warn_caller(
            f"{source} gives names that look like a list in another form, such as comments, JSON "
            f"or CSV, and each is used as a name as it is: {shown}"
            + (f" and {len(odd) - 3:,} more" if len(odd) > 3 else "")
            + f". {advice}",
            InputWarning,
        )


def _decode(text: str) -> str:
    """Return an argument whose bytes the locale does not know as the UTF-8 that they are.

    Under LC_ALL=C without Python's UTF-8 mode, such bytes arrive as lone surrogates.
    """
    try:
        return os.fsencode(text).decode("utf-8") if SURROGATE.search(text) else text
    except UnicodeError:
        return text


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
