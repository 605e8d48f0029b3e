"""Folders of small photos, each of one colour, for tests of what reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200), (9, 9, 9))


def write_photo(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (48, 32)) -> Path:
    """Save a PNG of `size` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "PNG")
    return path


def write_photos(folder: Path, names: list[str]) -> Path:
    """Save a photo for each name, of another colour each."""
    for name, colour in zip(names, COLOURS, strict=False):
        write_photo(folder / name, colour)
    return folder


class ListSource:
    """A source of n noise photos, each computed when it is read; keys are hashes of the index."""

    def __init__(self, count: int, size: tuple[int, int] = (24, 32)) -> None:
        self._count, self._size = count, size
        self.read: list[int] = []

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        """The hash of the index."""
        return hashlib.sha256(str(index).encode()).hexdigest()

    def photo(self, index: int) -> NDArray[np.uint8]:
        """HWC uint8 RGB."""
        self.read.append(index)
        return np.random.default_rng(index).integers(0, 256, (*self._size, 3), np.uint8)
