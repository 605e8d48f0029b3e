"""Directories that appear under their name whole or not at all.

A directory is made hidden next to its target (`partial_directory`), then renamed (`put_in_place`).
To replace another one, the old one is renamed aside first and deleted last. Whenever the process
dies, the name means the old or the new one; only between the two renames it means nothing, and
`recover` restores the old one. Nobody waits: a writer that loses a rename tries again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samclip.disk.partial_files import (
    locked_partial,
    partial_name,
    remove_abandoned,
    remove_partial,
    sync_folder,
)

OLD = ".old"
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


def recover(path: Path) -> bool:
    """Restore the directory that an interrupted replacement left aside, if `path` is gone.

    Return whether it did. Raises OSError when the disk fails.
    """
    if os.path.lexists(path) or not path.parent.is_dir():
        return False
    newest = min(_siblings(path), key=_age, default=None)
    return newest is not None and _rename(newest, path)


def remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` that died left next to it."""
    recover(path)
    old = _siblings(path)
    if os.path.lexists(path):  # looked at after the list: so all in it have been replaced
        for sibling in old:
            _discard(sibling, path)
    remove_abandoned(path.parent, {path.name})


def _replace(partial: Path, path: Path) -> bool:
    """Put `partial` where `path` is; restore the old directory on failure, else delete it."""
    old = path.with_name(f".{path.name}.{secrets.token_hex(8)}{OLD}")
    if not _rename(path, old):
        return False
    done = False
    try:
        done = _rename(partial, path)
    finally:
        if not done and not _rename(old, path):  # another writer was faster: the old one has ended
            _discard(old, path)
    if done:
        _discard(old, path)
    return done


def _discard(old: Path, path: Path) -> None:
    """Delete a directory under a partial name, because half of it must never be recovered."""
    rubbish = partial_name(path)
    with contextlib.suppress(OSError):
        old = old.rename(rubbish)
    remove_partial(old)


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
    """List the directories that replacements of `path` have put aside."""
    start = f".{path.name}."
    length = len(start) + 16 + len(OLD)
    return [
        other
        for other in path.parent.iterdir()
        if other.name.startswith(start) and other.suffix == OLD and len(other.name) == length
    ]


def _age(path: Path) -> float:
    """Seconds since `path` was renamed or got its last entry; none if it is gone."""
    try:
        return time.time() - path.lstat().st_ctime
    except FileNotFoundError:
        return 0.0
