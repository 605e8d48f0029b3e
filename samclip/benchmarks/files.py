"""Files that appear whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from samclip.disk.partial_files import remove_abandoned, result_file
from samclip.errors import InputError


def check_writable(path: Path) -> Path:
    """Say before long work that `path` cannot be written; returns it in full.

    What runs that were killed left of it is removed. Raises InputError.
    """
    full = path.expanduser().absolute()
    if full.is_dir():
        raise InputError(f"{full} is a folder. Give the name of a file.")
    try:
        with tempfile.TemporaryFile(dir=full.parent):
            remove_abandoned(full.parent, {full.name})
            return full
    except OSError as error:
        raise InputError(
            f"{full} cannot be written: {error.strerror}. Make its folder, or choose another."
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, then rename over it; raises WriteError when the disk refuses."""
    with result_file(path) as file:
        file.write(data)
