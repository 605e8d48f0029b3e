"""Where pictures are written: a file for one image, a folder for many."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from samclip.disk.partial_files import remove_abandoned
from samclip.errors import InputError, WriteError
from samclip.runtime.cli.images import ImageList

WRITTEN = frozenset({".png", ".jpg", ".jpeg"})  # what samclip.runtime.results.drawing can save


def plan_pictures(images: ImageList, output: Path | None, task: str) -> tuple[Path, ...]:
    """Return the picture's path for each image, in order; no folder is made yet.

    `output` is a file when its suffix is an image's, else a folder. None stands for the current
    folder, or for `samclip-<task>` inside it when there may be many images. In a folder the names
    are `<stem>.<task>.png`, numbered where two would be equal. Raises InputError for one file and
    many images, for a format that cannot be written, and when a picture would replace an image.
    """
    from samclip.runtime.images.image import SUFFIXES

    output = None if output is None else output.expanduser()
    if output is not None and output.suffix.lower() in SUFFIXES and not output.is_dir():
        pictures: tuple[Path, ...] = (_as_file(output, images.many),)
    else:
        default = Path(f"samclip-{task}") if images.many else Path()
        pictures = _in_folder(images.paths, output or default, task)
    _keep_images(images.paths, pictures)
    _check_writable(pictures)
    return pictures


def make_folder(folder: Path) -> None:
    """Make a folder for pictures, and those around it; raises WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"the folder {folder} could not be made: {error.strerror}. Make room, correct "
            "permissions, or give another --output."
        ) from error


def _as_file(output: Path, many: bool) -> Path:
    """Return `output` if one picture can be written there."""
    if many:
        raise InputError(
            f"--output {output} is one file, and there may be many images. Give a folder."
        )
    if output.suffix.lower() not in WRITTEN:
        raise InputError(
            f"--output {output}: pictures are written as {', '.join(sorted(WRITTEN))}. "
            "Choose one of these."
        )
    return output


def _in_folder(paths: Sequence[Path], folder: Path, task: str) -> tuple[Path, ...]:
    """Name the pictures after their images; equal names get -2, -3 and so on."""
    names: dict[str, None] = {}
    for path in paths:
        name, count = f"{path.stem}.{task}.png", 1
        while name in names:
            count += 1
            name = f"{path.stem}-{count}.{task}.png"
        names[name] = None
    return tuple(folder / name for name in names)


def _check_writable(pictures: Sequence[Path]) -> None:
    """Say before the model runs that a folder cannot be written to; none is made yet.

    What runs that were killed left of these pictures is removed.
    """
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


def _keep_images(paths: Sequence[Path], pictures: Sequence[Path]) -> None:
    """Refuse to write a picture over one of the images."""
    sources = {path.resolve() for path in paths}
    for picture in pictures:
        if picture.resolve() in sources:
            raise InputError(
                f"the picture would replace the image {picture}. Give another --output."
            )
