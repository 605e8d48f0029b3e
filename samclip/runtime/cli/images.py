"""The IMAGE arguments: files and folders, expanded to a list of files in a stable order."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samclip.errors import ImageError


@dataclass(frozen=True)
class ImageList:
    """Image files in the order of the answers.

    `many` is True when several paths, or a folder, were given: answers then come as a series even
    if there is one only.
    """

    paths: tuple[Path, ...]
    many: bool


def find_images(arguments: Sequence[Path]) -> ImageList:
    """Expand folders to the images directly inside them, in name order; hidden files are left out.

    Raises ImageError for a path that does not exist and for a folder without images.
    """
    arguments = [argument.expanduser() for argument in arguments]
    paths: list[Path] = []
    for argument in arguments:
        paths += _inside(argument) if argument.is_dir() else [_existing(argument)]
    many = len(arguments) > 1 or arguments[0].is_dir()
    return ImageList(tuple(paths), many)


def _inside(folder: Path) -> list[Path]:
    """List the images of a folder in name order."""
    from samclip.runtime.images.image import SUFFIXES

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


def _existing(path: Path) -> Path:
    """Return `path`, or raise ImageError with the name that was probably meant."""
    if path.exists():
        return path
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f" Did you mean {path.parent / close[0]}?" if close else ""
    raise ImageError(f"there is no image {path}.{hint}")
