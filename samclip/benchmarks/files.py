"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from samclip.errors import InputError
from samclip.runtime.bundles.directory_swap import sync_directory


def check_writable(path: Path) -> Path:
    """Say before long work that `path` cannot be written; returns it in full.

    Raises InputError.
    """
    full = path.expanduser().absolute()
    if full.is_dir():
        raise InputError(f"{full} is a folder. Give the name of a file.")
    try:
        with tempfile.TemporaryFile(dir=full.parent):
            return full
    except OSError as error:
        raise InputError(
            f"{full} cannot be written: {error.strerror}. Make its folder, or choose another."
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, then rename over it; raises OSError when the disk refuses."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
        sync_directory(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
