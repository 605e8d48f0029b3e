"""Directories that appear under their name whole or not at all.

A directory is made hidden next to its target (`partial_directory`), then renamed (`put_in_place`).
To replace another one, the old one is renamed aside first and deleted last. Whenever the process
dies, the name means the old or the new one; only between the two renames it means nothing, and
`recover` restores the old one. Nobody waits: a writer that loses a rename tries again.

A directory aside has a name that only the process that moved it could give: it is bound to the
directory's number on its disk. So one that came with a download is never taken for ours.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from samclip.disk.partial_files import (
    is_safely_owned,
    locked_partial,
    partial_name,
    remove_abandoned,
    remove_partial,
    sync_folder,
)

OLD = ".old"
TOKEN_DIGITS = 16  # of the digest in the name of a directory aside
MAX_ATTEMPTS = 100


@contextmanager
def partial_directory(path: Path) -> Iterator[Path]:
    """Make a hidden empty directory next to `path`; what is left of it is removed afterwards."""
    remove_leftovers(path)
    with locked_partial(path, Path.mkdir) as partial:
        yield partial


def put_in_place(partial: Path, path: Path, overwrite: bool) -> None:
    """Rename `partial` to `path`, replacing a directory there if `overwrite`.

    Raises FileExistsError when `path` is taken, or other writers kept it busy; OSError when the
    disk fails, after which `path` is what it was.
    """
    for _ in range(MAX_ATTEMPTS):
        if _rename(partial, path) or (overwrite and _replace(partial, path)):
            sync_folder(path.parent)
            return
        if not overwrite:
            break
    raise FileExistsError(f"{path} is taken")


def recover(path: Path, is_whole: Callable[[Path], bool] = Path.is_dir) -> bool:
    """Restore the directory that an interrupted replacement left aside, if `path` is gone.

    Only one that this user's process moved there, that not everybody may write to, and of which
    `is_whole` says that its contents are what belongs at `path`. Return whether it did. Raises
    OSError when the disk fails.
    """
    if os.path.lexists(path) or not path.parent.is_dir():
        return False
    newest = min(filter(is_whole, _siblings(path)), key=_age, default=None)
    return newest is not None and _rename(newest, path)


def list_aside(path: Path) -> list[Path]:
    """List directories that look as if they had been put aside for `path`, made by anyone.

    On disks that do not keep numbers of directories (FAT), those of this user are not known
    either. Raises OSError.
    """
    start = f".{path.name}."
    length = len(start) + TOKEN_DIGITS + len(OLD)
    return [
        other
        for other in path.parent.iterdir()
        if other.name.startswith(start) and other.suffix == OLD and len(other.name) == length
    ]


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` that died left next to it."""
    recover(path)
    old = _siblings(path)
    if os.path.lexists(path):  # looked at after the list: so all in it have been replaced
        for sibling in old:
            discard(sibling, path)
    remove_abandoned(path.parent, {path.name})


def discard(old: Path, path: Path) -> None:
    """Delete `old`, a directory of `path`, under a partial name: half of it is never a whole one.

    What cannot be removed now, a later writer next to `path` removes.
    """
    rubbish = partial_name(path)
    with contextlib.suppress(OSError):
        old = old.rename(rubbish)
    remove_partial(old)


def _replace(partial: Path, path: Path) -> bool:
    """Put `partial` where `path` is; restore the old directory on failure, else delete it."""
    try:
        old = path.with_name(_name_aside(path.name, path.lstat()))
    except FileNotFoundError:
        return False
    if not _rename(path, old):
        return False
    done = False
    try:
        done = _rename(partial, path)
    finally:
        if not done and not _rename(old, path):  # another writer was faster: the old one has ended
            discard(old, path)
    if done:
        discard(old, path)
    return done


def _rename(source: Path, target: Path) -> bool:
    """Rename a directory; False when the target is taken or another writer took the source."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
            return False
        raise
    return True


def _siblings(path: Path) -> list[Path]:
    """List the directories that this user's replacements of `path` have put aside."""
    return [other for other in list_aside(path) if _is_ours(other, path.name)]


def _is_ours(other: Path, name: str) -> bool:
    try:
        status = other.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode) or other.name != _name_aside(name, status):
        return False
    is_mine = os.name == "nt" or status.st_uid == os.getuid()
    return is_mine and is_safely_owned(status)


def _name_aside(name: str, status: os.stat_result) -> str:
    """Return the name of a directory `name` while it is aside, which depends on its number."""
    facts = f"{name}\0{status.st_ino}\0{status.st_uid}".encode("utf-8", "surrogateescape")
    return f".{name}.{hashlib.sha256(facts).hexdigest()[:TOKEN_DIGITS]}{OLD}"


def _age(path: Path) -> float:
    """Seconds since `path` was renamed or got its last entry; none if it is gone."""
    try:
        return time.time() - path.lstat().st_ctime
    except FileNotFoundError:
        return 0.0
