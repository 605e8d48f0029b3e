"""Files of caches, read only where nothing else than this user's own work can be in them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from samclip.disk.partial_files import is_safely_owned, open_without_links


def read_own_file(path: Path, limit: int, *, shared: bool = False) -> bytes:
    """Read a plain file of at most `limit` bytes that this user or the system owns.

    Follows no link, and does not wait for a pipe. `shared`: the file may be another user's, in a
    folder that a person has chosen. Raises OSError, FileNotFoundError among them.
    """
    with os.fdopen(open_without_links(path), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file", str(path))
        if not shared and not is_safely_owned(status):
            raise OSError(errno.EPERM, "somebody else can write to it", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return data
