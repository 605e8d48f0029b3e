"""Masks and label maps as PNG files for other programs, each whole or absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.disk.partial_files import as_write_error, result_file
from samclip.disk.paths import LONGEST_NAME, SEPARATORS
from samclip.errors import ImageError, InputError, brief
from samclip.runtime.results.drawing import as_path
from samclip.runtime.results.own_pictures import save_options
from samclip.runtime.results.palette import colour

MIN_DIGITS = 3  # of the number in a mask's file name
NONE_8, NONE_16 = 255, 65_535  # the values of a pixel without a label


def write_masks(
    masks: Iterable[NDArray[np.bool_]], count: int, folder: str | os.PathLike[str], stem: str
) -> list[Path]:
    """Write `count` HxW masks as `STEM.000.png`, `STEM.001.png` and so on; return the paths.

    A file is 8-bit grey, 255 inside the mask and 0 outside. `folder` is made if it is missing.
    Other files there stay as they are. A stem that is too long for a file's name is cut, see
    `fit_file_name`. Raises InputError when `stem` is not a plain file name,
    WriteError when the disk refuses.
    """
    name = check_file_name(stem)
    place = as_path(folder, "folder")
    with as_write_error(place):
        place.mkdir(parents=True, exist_ok=True)
    digits = max(MIN_DIGITS, len(str(count - 1)))
    paths = []
    for row, mask in enumerate(masks):
        path = place / fit_file_name(name, f".{row:0{digits}d}.png")
        _write_png(Image.fromarray(mask.astype(np.uint8) * np.uint8(255)), path)
        paths.append(path)
    return paths


def write_labels(labels: NDArray[np.int32], count: int, path: str | os.PathLike[str]) -> Path:
    """Write an HxW map of indices into `count` names, -1 for none, as an index PNG; return `path`.

    Up to 255 names make an 8-bit palette PNG: the value of a pixel is its index, 255 for none,
    and the palette has the colours in which maps are drawn. More names, up to 65,535, make a
    16-bit grey PNG with 65535 for none. Raises ImageError when the name does not end in .png,
    InputError for more names, WriteError when the disk refuses.
    """
    target = as_path(path, "path")
    if target.suffix.lower() != ".png":
        raise ImageError(f"cannot save {target.name!r}: use a name that ends in .png.")
    if count > NONE_16:
        raise InputError(f"an index PNG holds at most {NONE_16:,} names; the map has {count:,}.")
    if count > NONE_8:
        _write_png(Image.fromarray(np.where(labels < 0, NONE_16, labels).astype(np.uint16)), target)
        return target
    picture = Image.fromarray(np.where(labels < 0, NONE_8, labels).astype(np.uint8))
    palette = [colour(index) for index in range(count)] + [(0, 0, 0)] * (NONE_8 + 1 - count)
    picture.putpalette([part for entry in palette for part in entry])
    _write_png(picture, target)
    return target


def check_file_name(stem: str) -> str:
    """Return `stem` if it can begin a file's name and names no other folder; else InputError."""
    if not isinstance(stem, str) or not stem or (SEPARATORS | {"\0"}).intersection(stem):
        raise InputError(
            f"stem must be the beginning of a file's name, without a folder; got {brief(stem)}. "
            "Pass folder and stem separately, as in folder='masks', stem='street'."
        )
    return stem


def fit_file_name(stem: str, suffix: str) -> str:
    """Join a stem and a suffix to a file name that file systems take, of at most 255 bytes.

    A longer stem is cut, and `~` with eight digits of its digest keeps it apart from others.
    """
    if len(os.fsencode(stem + suffix)) <= LONGEST_NAME:
        return stem + suffix
    digest = hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
    kept = os.fsencode(stem)[: LONGEST_NAME - len(os.fsencode(suffix)) - len(digest) - 1]
    return f"{kept.decode('utf-8', 'ignore')}~{digest}{suffix}"


def _write_png(picture: Image.Image, path: Path) -> None:
    with result_file(path) as file:
        picture.save(file, "PNG", **save_options("PNG"))
