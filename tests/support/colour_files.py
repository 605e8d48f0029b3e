"""Small image files of one colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def write_colour(path: Path, colour: str, size: tuple[int, int] = (20, 30)) -> Path:
    """An image of one colour, (h, w) = `size`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), COLOURS[colour], np.uint8)
    Image.fromarray(pixels).save(path)
    return path
