"""Small files that people name: configurations, reports, keys, lists of names, read whole.

What the name leads to may be anything: a pipe that nobody writes to, a device without end, a
terabyte of holes. It is opened without waiting, looked at once it is open, and read up to a limit.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from samclip.errors import InputError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_user_file(
    path: Path,
    limit: int,
    what: str = "the file",
    error: type[InputError] = InputError,
    advice: str = "Give the path of such a file.",
) -> bytes:
    """Return the bytes of a plain file, at most `limit`; links are followed.

    `what` stands before the path in messages, as in "the report"; `advice` ends them. Raises
    `error` when there is no such file, when it cannot be read, is not a plain file, or is longer.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as problem:  # ValueError: a NUL
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise error(f"{what} {path} cannot be read: {reason}. {advice}") from problem
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = KINDS.get(stat.S_IFMT(status.st_mode), "not a plain file")
            raise error(
                f"{what} {path} is {kind}; expected a plain file. Save what it gives to a file, "
                "and give that."
            )
        if status.st_size > limit:
            raise error(_too_long(what, path, f"{status.st_size:,}", limit, advice))
        data = _read(descriptor, limit + 1)
    except OSError as problem:
        raise error(f"{what} {path} cannot be read: {problem.strerror}. {advice}") from problem
    finally:
        os.close(descriptor)
    if len(data) > limit:  # it grew, or the system does not know its size
        raise error(_too_long(what, path, f"more than {limit:,}", limit, advice))
    return data


def read_user_text(
    path: Path,
    limit: int,
    what: str = "the file",
    error: type[InputError] = InputError,
    advice: str = "Give the path of such a file.",
) -> str:
    """Return a file's text as `read_user_file` does: UTF-8, with or without a byte-order mark."""
    data = read_user_file(path, limit, what, error, advice)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(
            f"{what} {path} is not UTF-8 text: {problem.reason} at byte {problem.start}. Save it "
            "as UTF-8."
        ) from problem


def _read(descriptor: int, count: int) -> bytes:
    pieces = []
    while count > 0 and (piece := os.read(descriptor, min(count, 2**20))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _too_long(what: str, path: Path, size: str, limit: int, advice: str) -> str:
    return f"{what} {path} has {size} bytes; at most {limit:,} are read. {advice}"
