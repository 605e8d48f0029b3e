"""Files that only the user could have written: plans, and what is kept with them.

Plans, timings and compiled kernels steer native code. So a file is read only if it is a plain one
of the user's own, which nobody else can write to, and after a comparison of its bytes with a
digest: that of a sidecar, or the one that the file begins with.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from samclip.disk.cache_folder import make_private_folder
from samclip.disk.partial_files import (
    is_safely_owned,
    open_without_links,
    remove_abandoned,
    write_file,
)
from samclip.engines.steps import BuildPlans
from samclip.errors import PlanDamagedError

MODE = 0o644
DIGEST_BYTES = 64  # of a SHA-256 in hexadecimal digits
PIECE_BYTES = 2**24


def read_own(path: Path, limit: int) -> bytes:
    """Read a plain file of the user's own, at most `limit` + 1 bytes of it; follows no link.

    Raises PlanDamagedError, and FileNotFoundError.
    """
    with _open_own(path) as file:
        return file.read(limit + 1)


def hash_own(path: Path) -> str:
    """Return the SHA-256 of a plain file of the user's own that is not empty.

    It is mapped and hashed in one call, which leaves Python's lock to other threads. Raises
    PlanDamagedError, and FileNotFoundError.
    """
    with _open_own(path) as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return hashlib.sha256(mapped).hexdigest()
        except ValueError as error:
            raise PlanDamagedError(f"{path} is empty. Remove it.") from error


class VerifiedFile:
    """A file whose bytes have a given SHA-256, read again in pieces that are compared once more.

    So a large file is used without a copy of it in memory, and what is written into it meanwhile is
    found. It stays open as long as this object lives.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        weakref.finalize(self, os.close, descriptor)
        self._pieces: list[bytes] = []
        whole, self.size = hashlib.sha256(), 0
        while piece := os.pread(descriptor, PIECE_BYTES, self.size):
            whole.update(piece)
            self._pieces.append(hashlib.sha256(piece).digest())
            self.size += len(piece)
        self.sha256 = whole.hexdigest()

    def read_at(self, position: int) -> bytes:
        """Read from a position to the end of its piece; raises PlanDamagedError if it changed."""
        number, begin = divmod(position, PIECE_BYTES)
        if position >= self.size:
            return b""
        piece = os.pread(self._descriptor, PIECE_BYTES, number * PIECE_BYTES)
        if hashlib.sha256(piece).digest() != self._pieces[number]:
            raise PlanDamagedError(
                f"{self._path} was changed while it was read. It is not loaded. Build it again.",
                steps=(BuildPlans(force=True),),
            )
        return piece[begin:]

    def __bytes__(self) -> bytes:
        return b"".join(map(self.read_at, range(0, self.size, PIECE_BYTES)))


PlanBytes = bytes | VerifiedFile


def open_verified(path: Path) -> VerifiedFile:
    """Open a plain file of the user's own, following no link, and hash it.

    Raises PlanDamagedError, and FileNotFoundError.
    """
    with _open_own(path) as file:
        return VerifiedFile(os.dup(file.fileno()), path)


@contextmanager
def _open_own(path: Path) -> Iterator[IO[bytes]]:
    try:
        with os.fdopen(open_without_links(path), "rb") as file:
            _check_own(path, os.fstat(file.fileno()))
            yield file
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PlanDamagedError(
            f"{path} cannot be read: {error.strerror}. Remove it, and build the plan again."
        ) from error


def _check_own(path: Path, status: os.stat_result) -> None:
    """Refuse a file that somebody else could have written: a plan is a program."""
    if not stat.S_ISREG(status.st_mode):
        raise PlanDamagedError(f"{path} is not a plain file. Remove it, and build the plan again.")
    if not is_safely_owned(status):
        raise PlanDamagedError(
            f"{path} belongs to another user, or everybody may write to it: a plan is a program, "
            "and only your own are run. Build the plan again, or make the file yours (chown, "
            "chmod o-w) if you know where it comes from."
        )


def read_digested(path: Path, limit: int) -> bytes:
    """Read what `write_digested` wrote; raises PlanDamagedError, and FileNotFoundError."""
    data = read_own(path, limit + DIGEST_BYTES)
    digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if digest.decode("ascii", "replace") != hashlib.sha256(content).hexdigest():
        raise PlanDamagedError(f"{path} is damaged: its bytes are not those of its SHA-256")
    return content


def write_digested(path: Path, data: bytes) -> None:
    """Write a file that begins with its SHA-256, whole or not at all; raises OSError."""
    make_private_folder(path.parent)
    remove_abandoned(path.parent)
    write_file(path, hashlib.sha256(data).hexdigest().encode() + data, MODE)
