"""Plain files of bounded size that users name: links are followed, pipes and devices refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from samclip.errors import InputError, SamclipError

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@contextmanager
def open_plain(
    path: Path, what: str, error: type[SamclipError] = InputError
) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file for the block; yields it with its size in bytes.

    Never waits, as for the other end of a pipe. `what` names it in messages, as "the file of a
    run". Raises `error` when it is missing, cannot be read, or is not a plain file.
    """
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise error(f"{what} {path} is {_kind(status.st_mode)}; expected a plain file")
            yield file, status.st_size
    except IsADirectoryError:  # what Python's own files say of folders
        raise error(f"{what} {path} is a folder; expected a plain file") from None
    except (OSError, ValueError) as failure:  # ValueError: a name with NUL
        reason = failure.strerror if isinstance(failure, OSError) else failure
        raise error(f"{what} {path} cannot be read: {reason}") from failure


def read_plain(path: Path, limit: int, what: str, error: type[SamclipError] = InputError) -> bytes:
    """Read a file of at most `limit` bytes; raises `error` as `open_plain`, and for a larger one.

    The size on disk is not believed: system files state none, and files grow.
    """
    with open_plain(path, what, error) as (file, size):
        data = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(data) > limit:
        raise error(
            f"{what} {path} has {max(size, len(data)):,} bytes or more; at most {limit:,} are "
            "read. Check that it is the right file."
        )
    return data


def _kind(mode: int) -> str:
    return next((name for test, name in KINDS if test(mode)), "not a file")
