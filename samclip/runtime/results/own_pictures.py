"""A mark in the pictures that samclip writes, by which a later run tells them from photos.

PNG has it in a text chunk "Software", JPEG in a comment; both stand at the beginning of the file.
WebP has it in Exif's "Software", at the end of the file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

MARK = "made by samclip"
HEAD = 2048  # bytes in which the mark is looked for, and as many at the end
SOFTWARE = 0x0131  # Exif's tag


def save_options(kind: str) -> dict[str, Any]:
    """Return the options of Pillow's `save` that write the mark into a PNG, JPEG or WebP."""
    if kind == "JPEG":
        return {"comment": MARK}
    if kind == "WEBP":
        exif = Image.Exif()
        exif[SOFTWARE] = MARK
        return {"exif": exif}
    text = PngInfo()
    text.add_text("Software", MARK)
    return {"pnginfo": text}


def may_be_replaced(path: Path) -> bool:
    """Whether a picture may take this path: nothing is there, an empty file, or such a picture.

    Raises OSError for what cannot be looked at.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and (status.st_size == 0 or has_mark(path))


def has_mark(path: Path) -> bool:
    """Whether a file is such a picture; raises OSError when it cannot be read. Never waits."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        head = os.read(descriptor, HEAD)
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            os.lseek(descriptor, max(0, os.fstat(descriptor).st_size - HEAD), os.SEEK_SET)
            head = os.read(descriptor, HEAD)
        return MARK.encode() in head
    finally:
        os.close(descriptor)
