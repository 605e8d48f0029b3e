"""Files that appear whole or not at all, and safe ways to open them.

A file is written under a separate name next to its place, which ends in `.partial`, and renamed
last. Its writer holds a lock on it, which the system releases however the process ends: partial
files without a lock are abandoned, and the next run removes them. Where there are locks, the clock
is not used: on boards without a battery it jumps by years.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from samclip.errors import WriteError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where a file that is open cannot be removed
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

SUFFIX = ".partial"
NAME = re.compile(r"[.](?P<target>.+)[.][0-9a-f]{16}[.]partial", re.DOTALL)
MAX_TARGET_BYTES = 200  # of a name inside a partial file's, so that systems take that (255) as well
PLAIN_MODE = 0o666  # less the umask, as for every new file
# Where the file system has no locks, what was left alone for so long has lost its writer.
ABANDONED_SECONDS = 86_400.0
LOOK_SECONDS = 0.01  # between two attempts at a lock


def open_without_links(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """Open `path` as `os.open` does, but follow no link and never block, as on a FIFO.

    Only its last part may not be a link, where the system can check it. Return the descriptor;
    raises OSError.
    """
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # not every system has each
        flags |= getattr(os, name, 0)
    return os.open(path, flags, mode)


def is_safely_owned(status: os.stat_result) -> bool:
    """Whether a file is this user's or the system's, and not for everybody to write to.

    Always True on Windows, whose permissions are not in `status`.
    """
    if os.name == "nt":
        return True
    return status.st_uid in {0, os.getuid()} and not status.st_mode & stat.S_IWOTH


@contextmanager
def partial_file(path: Path, mode: int = PLAIN_MODE, *, synced: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes `path`'s place when the block succeeds, and is else removed.

    It may be read as well. `mode` as for `os.open`; `synced`: written through to the disk before
    it is renamed. Raises OSError.
    """
    with locked_partial(path, make_empty_file(mode)) as partial:
        with partial.open("r+b") as file:
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
        partial.replace(path)
        if synced:
            sync_folder(path.parent)


@contextmanager
def result_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file as `partial_file` does, for what a person asked for; raises WriteError."""
    with as_write_error(path), partial_file(path) as file:
        yield file


@contextmanager
def result_path(path: Path) -> Iterator[Path]:
    """Yield the path of an empty file that takes `path`'s place as that of `result_file` does.

    For libraries that open it themselves. It is in a separate folder, because such libraries may
    in turn write another file next to it, and rename that. Raises WriteError.
    """
    with as_write_error(path), locked_partial(path, Path.mkdir) as folder:
        place = folder / "whole"
        make_empty_file()(place)
        mode = stat.S_IMODE(place.stat().st_mode)
        yield place
        place.chmod(mode)  # another file may be there now
        sync_file(place)
        place.replace(path)
        sync_folder(path.parent)


@contextmanager
def as_write_error(path: Path) -> Iterator[None]:
    """Turn an OSError while `path` is written into a WriteError with the remedy."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{path} could not be written: {error.strerror or error}. What was there before is "
            "whole. Make room, correct permissions, or choose another place, and try again."
        ) from error


def replace_link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`, in place of one that is there; raises OSError.

    Whenever the process dies, `path` is what it was, or the new link.
    """
    with locked_partial(path, Path.mkdir) as folder:
        link = folder / "link"
        link.symlink_to(target)
        link.replace(path)
        sync_folder(path.parent)


def write_file(path: Path, data: bytes, mode: int = PLAIN_MODE, *, synced: bool = True) -> None:
    """Write a file whole or not at all; raises OSError, and then `path` is as it was."""
    with partial_file(path, mode, synced=synced) as file:
        file.write(data)


@contextmanager
def locked_partial(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Let `make` create a partial file or folder next to `path`, and hold its lock for the block.

    What is left of it is removed afterwards. Raises OSError.
    """
    while True:
        partial = partial_name(path)
        try:
            make(partial)
            lock = _lock_own(partial)
            if lock is not None:
                with closing(lock):
                    yield partial
                return
        finally:  # where it cannot be removed, a later run does
            remove_partial(partial)


def make_empty_file(mode: int = PLAIN_MODE) -> Callable[[Path], None]:
    """Return a function that makes an empty file of that mode, for `locked_partial`."""

    def make(path: Path) -> None:
        os.close(open_without_links(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))

    return make


@contextmanager
def lock_abandoned(path: Path) -> Iterator[bool]:
    """Yield whether the writer of a file or folder has died; True to one process at a time.

    Raises OSError when it cannot be looked at.
    """
    with closing(Lock(path)) as lock:
        yield lock.is_ours or (lock.is_ours is None and _age(path) > ABANDONED_SECONDS)


def partial_name(path: Path) -> Path:
    """Return a new name for a partial file or folder that is to take `path`'s place."""
    return path.with_name(f".{_target(path.name)}.{secrets.token_hex(8)}{SUFFIX}")


def remove_abandoned(folder: Path, targets: Collection[str] | None = None) -> None:
    """Remove partial files and folders in `folder` whose writers have died.

    All of them, or those that were to take the place of the names `targets`. What cannot be
    looked at or removed stays.
    """
    wanted = None if targets is None else {_target(name) for name in targets}
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return
    for name in names:
        found = NAME.fullmatch(name)
        if found is not None and (wanted is None or found["target"] in wanted):
            with contextlib.suppress(OSError), lock_abandoned(folder / name) as has_lost_its_writer:
                if has_lost_its_writer:
                    remove_partial(folder / name)


def remove_partial(partial: Path) -> None:
    """Remove a partial file or folder, as much of it as can be removed."""
    with contextlib.suppress(OSError):
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Write a file through to the disk; raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_tree(path: Path) -> None:
    """Write the entries of a folder and of all folders in it through to the disk."""
    for folder, _, _ in os.walk(path):
        sync_folder(Path(folder))


def sync_folder(path: Path) -> None:
    """Write a folder's entries through to the disk."""
    if os.name == "nt":  # cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _target(name: str) -> str:
    """Return a name, or a digest of one that is too long to be part of another."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= MAX_TARGET_BYTES else hashlib.sha256(encoded).hexdigest()


class Lock:
    """An attempt to lock a file or folder; raises OSError when it cannot be opened.

    `shared`: any number of processes may hold it so, while nobody holds it alone. `patience`: the
    seconds for which it is tried. The system releases it however the process ends; forked children
    hold it with their parent. `is_ours`: whether it succeeded; None where there are no locks.
    """

    def __init__(self, path: Path, *, shared: bool = False, patience: float = 0.0) -> None:
        self.is_ours: bool | None = None
        self._descriptor: int | None = None
        if HAS_LOCKS:
            flags = os.O_RDONLY if shared or path.is_dir() else os.O_RDWR
            self._descriptor = open_without_links(path, flags)
            until = time.monotonic() + patience
            self.is_ours = self._try(self._descriptor, shared)
            while self.is_ours is False and time.monotonic() < until:
                time.sleep(LOOK_SECONDS)
                self.is_ours = self._try(self._descriptor, shared)

    @staticmethod
    def _try(descriptor: int, shared: bool) -> bool | None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # this file system has none
            return None
        return True

    def close(self) -> None:
        """Release it; closing again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _lock_own(partial: Path) -> Lock | None:
    """Lock a new partial; None when another run took it for abandoned in that moment."""
    try:
        lock = Lock(partial)
    except FileNotFoundError:
        return None
    if lock.is_ours is False or not os.path.lexists(partial):
        lock.close()
        return None
    return lock


def _age(path: Path) -> float:
    """Seconds since `path` was last written to; none if it is gone."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
