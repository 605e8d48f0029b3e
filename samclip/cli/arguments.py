"""Values of the task commands' options, checked and combined before a model is loaded.

These are the images to answer, the names to look for, the prompts for `Scene.segment`, and the
paths of the pictures to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samclip.cli.options import Box, Point
from samclip.errors import ImageError, InputError, PromptError, VocabularyError, WriteError

MAX_LABELS_BYTES = 10_000_000
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})  # results.drawing can save these


@dataclass(frozen=True)
class ImageList:
    """Image files, in the order of the answers.

    `many`: whether several paths or a folder were given. The answers then form a series, even if
    the folder holds a single image.
    """

    paths: tuple[Path, ...]
    many: bool


def find_images(arguments: Sequence[Path]) -> ImageList:
    """List the files, and in place of each folder the images directly inside it, in name order.

    Hidden files are left out. Raises ImageError for a path that does not exist and for a folder
    without images.
    """
    arguments = [argument.expanduser() for argument in arguments]
    paths: list[Path] = []
    for argument in arguments:
        paths += _list_folder(argument) if argument.is_dir() else [_check_exists(argument)]
    many = len(arguments) > 1 or arguments[0].is_dir()
    return ImageList(tuple(paths), many)


def _list_folder(folder: Path) -> list[Path]:
    """List the images of a folder in name order."""
    from samclip.runtime.pixels.image import SUFFIXES

    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise ImageError(
            f"the folder {folder} holds no image; expected files that end in "
            f"{', '.join(sorted(SUFFIXES))}. Its subfolders are not searched."
        )
    return found


def _check_exists(path: Path) -> Path:
    """Return `path`, or raise ImageError with the name that was probably meant."""
    if path.exists():
        return path
    import difflib

    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f" Did you mean {path.parent / close[0]}?" if close else ""
    raise ImageError(f"there is no image {path}.{hint}")


def read_names(names: Sequence[str] | None, labels: Path | None) -> list[str] | None:
    """Join the comma-separated `names` and the lines of `labels`; None when neither is given.

    Order is kept; empty entries are dropped. Raises VocabularyError when nothing is left, or when
    the file cannot be read as UTF-8 text.
    """
    if not names and labels is None:
        return None
    found = [part.strip() for text in names or () for part in text.split(",")]
    if labels is not None:
        found += [line.strip() for line in _read_labels(labels.expanduser()).splitlines()]
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


def plan_pictures(images: ImageList, output: Path | None, task: str) -> tuple[Path, ...]:
    """Return the path of the picture for each image, in order; no folder is made yet.

    `output` is a file when its suffix is an image's, else a folder. None stands for the current
    folder, or for `samclip-<task>` inside it when there may be many images. In a folder the names
    are `<stem>.<task>.png`, numbered where two would be equal. Raises InputError for one file and
    many images, for a format or a folder that cannot be written, and when a picture would replace
    an image.
    """
    from samclip.runtime.pixels.image import SUFFIXES

    output = None if output is None else output.expanduser()
    if output is not None and output.suffix.lower() in SUFFIXES and not output.is_dir():
        _check_file(output, images.many)
        pictures: tuple[Path, ...] = (output,)
    else:
        default = Path(f"samclip-{task}") if images.many else Path()
        pictures = _name_pictures(images.paths, output or default, task)
    sources = {path.resolve() for path in images.paths}
    for picture in pictures:
        if picture.resolve() in sources:
            raise InputError(
                f"the picture would replace the image {picture}. Give another --output."
            )
    _check_writable(pictures)
    return pictures


def make_folder(folder: Path) -> None:
    """Make a folder for pictures, and the folders around it; raises WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"the folder {folder} could not be made: {error.strerror}. Make room, correct "
            "permissions, or give another --output."
        ) from error


def _check_file(output: Path, many: bool) -> None:
    """Raise InputError unless one picture can be written to the file `output`."""
    if many:
        raise InputError(
            f"--output {output} is one file, and there may be many images. Give a folder."
        )
    if output.suffix.lower() not in PICTURE_SUFFIXES:
        raise InputError(
            f"--output {output}: pictures are written as {', '.join(sorted(PICTURE_SUFFIXES))}. "
            "Choose one of these."
        )


def _name_pictures(paths: Sequence[Path], folder: Path, task: str) -> tuple[Path, ...]:
    """Name the pictures after their images; equal names get -2, -3 and so on."""
    from samclip.runtime.results.mask_files import fit_file_name

    names: dict[str, None] = {}
    for path in paths:
        name = fit_file_name(path.stem, f".{task}.png")
        count = 1
        while name in names:
            count += 1
            name = fit_file_name(path.stem, f"-{count}.{task}.png")
        names[name] = None
    return tuple(folder / name for name in names)


def _check_writable(pictures: Sequence[Path]) -> None:
    """Raise InputError, before the model runs, when a folder cannot be written to.

    No folder is made. Partial pictures that an earlier, killed run left are removed.
    """
    import tempfile

    from samclip.disk.partial_files import remove_abandoned

    for folder in dict.fromkeys(picture.absolute().parent for picture in pictures):
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
        try:
            with tempfile.TemporaryFile(dir=nearest):
                remove_abandoned(folder, {picture.name for picture in pictures})
        except OSError as error:
            raise InputError(
                f"no picture can be written to {folder}: {error.strerror}. "
                "Give another --output, or --json for no picture."
            ) from error
