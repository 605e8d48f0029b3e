"""Places for results, tried before the work whose result they are for."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from samclip.disk.partial_files import locked_partial, sync_file


def try_place(path: Path, least_bytes: int = 0) -> None:
    """Write a little next to `path` and remove it again, as its writer will when it is done.

    The folder around `path` must exist. Raises OSError when nothing can be written there, or when
    the disk has less than `least_bytes` free.
    """
    with locked_partial(path, Path.mkdir) as folder:
        probe = folder / "probe"
        probe.write_bytes(b"0")
        sync_file(probe)
    free = shutil.disk_usage(path.parent).free
    if free < least_bytes:
        raise OSError(
            errno.ENOSPC,
            f"{os.strerror(errno.ENOSPC)}: {least_bytes:,} bytes are needed, {free:,} are free",
        )
