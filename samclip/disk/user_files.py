"""Files that people name: weights, configurations, reports, keys, lists of names.

What the name leads to may be anything: a pipe that nobody writes to, a device without end, a
terabyte of holes. It is opened without waiting, looked at once it is open, and read up to a limit.
Links are followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from samclip.errors import InputError, SamclipError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
ADVICE = "Give the path of such a file."

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def open_user_file(
    path: Path,
    what: str = "the file",
    error: type[SamclipError] = InputError,
    advice: str = ADVICE,
) -> Iterator[tuple[BinaryIO, int]]:
    """Open a plain file for the block; yields it with its size in bytes.

    `what` stands before the path in messages, as in "the report"; `advice` ends them. Raises
    `error` when there is no such file, when it cannot be read, in the block too, and when it is not
    a plain file.
    """
    file, size = _open(path, what, error, advice)
    with file:
        try:
            yield file, size
        except SamclipError:
            raise
        except OSError as problem:
            raise _unreadable(what, path, problem, error, advice) from problem


def read_user_file(
    path: Path,
    limit: int,
    what: str = "the file",
    error: type[SamclipError] = InputError,
    advice: str = ADVICE,
) -> bytes:
    """Return the bytes of a plain file, at most `limit`; raises `error`, also for a longer file.

    The other parameters are those of `open_user_file`. The size on disk is not believed: files of
    the system state none, and files grow.
    """
    with open_user_file(path, what, error, advice) as (file, size):
        data = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(data) > limit:
        came = f"{size:,}" if size > limit else f"more than {limit:,}"
        raise error(f"{what} {path} has {came} bytes; at most {limit:,} are read. {advice}")
    return data


def read_user_text(
    path: Path,
    limit: int,
    what: str = "the file",
    error: type[SamclipError] = InputError,
    advice: str = ADVICE,
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


def _open(path: Path, what: str, error: type[SamclipError], advice: str) -> tuple[BinaryIO, int]:
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as problem:  # ValueError: a NUL
        raise _unreadable(what, path, problem, error, advice) from problem
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = KINDS.get(stat.S_IFMT(status.st_mode), "not a plain file")
            raise error(
                f"{what} {path} is {kind}; expected a plain file. Save what it gives to a file, "
                "and give that."
            )
        return os.fdopen(descriptor, "rb"), status.st_size
    except BaseException:
        os.close(descriptor)
        raise


def _unreadable(
    what: str, path: Path, problem: Exception, error: type[SamclipError], advice: str
) -> SamclipError:
    reason = problem.strerror if isinstance(problem, OSError) else problem
    return error(f"{what} {path} cannot be read: {reason}. {advice}")
