"""The images that a command answers: files, what folders hold, and standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from samclip.cli.given_paths import how_to_fetch, working_folder_exists
from samclip.disk.paths import is_address, user_path
from samclip.errors import ImageError, InputError

if TYPE_CHECKING:
    from samclip.runtime.pixels.photo_listing import PhotoListing

STDIN = Path("-")
STDIN_STEM = "stdin"  # of the names of its pictures
OWN = "pictures that samclip made"
CHUNK = 2**20


@dataclass(frozen=True)
class ImageList:
    """Image files, in the order of the answers.

    `many`: whether several paths or a folder were given. The answers then form a series, even if
    the folder holds a single image. `piped`: the bytes of standard input, which `paths` has as
    `STDIN`. `notes`: what was left out of the folders, a line for each.
    """

    paths: tuple[Path, ...]
    many: bool
    piped: bytes | None = None
    notes: tuple[str, ...] = ()

    def source(self, index: int) -> Path | bytes:
        """Return what to read an image from: its file, or its bytes."""
        path = self.paths[index]
        return path if self.piped is None or path != STDIN else self.piped

    def stem(self, index: int) -> str:
        """Return what the names of an image's pictures and masks begin with."""
        path = self.paths[index]
        return STDIN_STEM if path == STDIN else path.stem


def find_images(
    arguments: Sequence[str | os.PathLike[str]], *, recursive: bool = False
) -> ImageList:
    """List the files, and in place of each folder the images directly inside it, in name order.

    `recursive`: those of its subfolders too. A text with `*`, `?` or `[`, by which no file is
    called, is a pattern, for shells that pass patterns on, as those of Windows do; `**` stands for
    any number of folders. "-" stands for an image on standard input, which is read now. Hidden
    files are left out of folders. Raises ImageError for what is not there, for an address, for a
    pattern that nothing fits, and for a folder without images.
    """
    given = [os.fspath(argument) for argument in arguments]
    texts = [text for each in given for text in _expand(each)]
    paths: list[Path] = []
    notes: list[str] = []
    many = len(texts) > 1 or texts != given
    piped = read_stdin(texts.count("-")) if "-" in texts else None
    for text in texts:
        path = STDIN if text == "-" else _check_path(text)
        if text != "-" and path.is_dir():
            listing = _list_folder(path, recursive)
            paths += listing.paths
            notes += filter(None, [listing.describe_left_out()])
            many = True
        else:
            paths.append(path)
    return ImageList(tuple(paths), many, piped, tuple(notes))


def _expand(text: str) -> list[str]:
    """Return the paths that fit a pattern, in name order, or the text when it is none."""
    if not glob.has_magic(text) or is_address(text) or os.path.lexists(text):
        return [text]
    found = sorted(glob.glob(str(user_path(text, "the pattern")), recursive=True))  # noqa: PTH207
    if not found:
        raise ImageError(f"no file fits the pattern {text}. Check it, or give a folder.")
    return found


def _list_folder(folder: Path, recursive: bool) -> PhotoListing:
    """List the images of a folder in name order; raises ImageError when there are none."""
    from samclip.runtime.pixels.image import SUFFIXES
    from samclip.runtime.pixels.photo_listing import list_photos

    listing = list_photos(folder, below=recursive)
    made = {path for path in listing.paths if _is_own(path)}
    if made:  # left there by an earlier run with the same folder as --output
        paths = tuple(path for path in listing.paths if path not in made)
        own = sorted(path.relative_to(folder).as_posix() for path in made)
        listing = replace(listing, paths=paths, left_out={**listing.left_out, OWN: own})
    if not listing.paths:
        left_out = listing.describe_left_out()
        raise ImageError(
            f"the folder {folder} holds no image; expected the formats of files that end in "
            f"{', '.join(sorted(SUFFIXES))}."
            + ("" if recursive else " Its subfolders are searched with --recursive.")
            + (f" It was {left_out}." if left_out else "")
        )
    return listing


def _is_own(path: Path) -> bool:
    """Whether a file is a picture or a mask of samclip, by its name and its mark."""
    if "." not in path.stem or path.suffix != ".png":
        return False
    from samclip.runtime.results.own_pictures import has_mark

    try:
        return has_mark(path)
    except OSError:
        return False


def _check_path(text: str) -> Path:
    """Return an image's or a folder's path; raises ImageError with what to do where there is none.

    Some other file is taken as it is, for its content decides.
    """
    if not text:
        raise ImageError(
            'the path of an image is empty: "". Give a file, a folder, or - for stdin.'
        )
    if is_address(text):
        raise ImageError(f"{text} is an address, not a file. {how_to_fetch(text)}")
    path = user_path(text, "the image")
    try:
        path.stat()
    except OSError as error:
        raise ImageError(_describe_missing(path, error)) from error
    return path


def _describe_missing(path: Path, error: OSError) -> str:
    """Return why there is nothing to read at a path, and what to do."""
    if not isinstance(error, FileNotFoundError):
        return f"the image {path} cannot be looked at: {error.strerror}. Check the path."
    if path.is_symlink():
        return (
            f"{path} is a link to {path.readlink()}, which does not exist. Restore that file, or "
            "give another image."
        )
    if not working_folder_exists() and not path.is_absolute():
        return f"there is no image {path}: the working folder was deleted. Go to another one."
    import difflib

    try:
        siblings = [p.name for p in path.parent.iterdir()]
    except OSError:
        siblings = []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f" Did you mean {path.parent / close[0]}?" if close else ""
    return f"there is no image {path}.{hint}"


def read_stdin(times: int = 1) -> bytes:
    """Read an image from standard input, at most as much as an image file may have.

    What does not begin like an image is not read to its end. Raises ImageError, and InputError for
    an input that is a terminal or is asked for several times.
    """
    if times > 1:
        raise InputError(f"- was given {times} times, but standard input can be read only once.")
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(
            "- reads an image from standard input, and nothing leads there. Redirect a file, as in "
            "samclip classify - --names A,B < photo.jpg."
        )
    try:
        return _read_image(sys.stdin.buffer)
    except OSError as error:
        raise ImageError(
            f"standard input cannot be read: {error.strerror}. Give a file by its name instead."
        ) from error


def _read_image(stream: BinaryIO) -> bytes:
    from samclip.runtime.pixels.decode import MAX_IMAGE_BYTES
    from samclip.runtime.pixels.formats import HEAD_BYTES, describe, sniff

    data = bytearray(stream.read(HEAD_BYTES))
    if not data:
        raise ImageError("standard input is empty; expected an image. Check what writes to it.")
    if not sniff(bytes(data)):
        raise ImageError(
            f"standard input is {describe(bytes(data))}, not an image that is read. Check what "
            "writes to it."
        )
    while chunk := stream.read(CHUNK):
        data += chunk
        if len(data) > MAX_IMAGE_BYTES:
            raise ImageError(
                f"standard input has more than the {MAX_IMAGE_BYTES:,} bytes that an image may "
                "have. Compress it or make it smaller."
            )
    return bytes(data)
