"""Files opened as what they are, and whether somebody else could have written them."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def open_itself(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open `path` as `os.open` does, but follow no link and wait for nobody, as on a FIFO.

    Only its last part may not be a link, where the system can tell. Gives the descriptor; raises
    OSError.
    """
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # not every system has each
        flags |= getattr(os, name, 0)
    return os.open(path, flags, mode)


def is_own(status: os.stat_result) -> bool:
    """Tell whether a file is this user's or the system's, and not for everybody to write to.

    Always True on Windows, whose permissions are not in `status`.
    """
    if os.name == "nt":
        return True
    return status.st_uid in {0, os.getuid()} and not status.st_mode & stat.S_IWOTH
