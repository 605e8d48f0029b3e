"""Directories that appear under their name whole or not at all.

A directory is made hidden beside its target (`partial_directory`), then renamed (`put_in_place`).
To replace another one, that is renamed aside first and deleted last: whenever the process dies,
the name means the old or the new one; only between the two renames it means nothing, and
`recover` brings the old one back. No locks: a writer that loses a rename tries again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL, OLD = ".partial", ".old"
ABANDONED_SECONDS = 3600  # a partial directory left alone for so long has lost its writer
MAX_ATTEMPTS = 100


@contextmanager
def partial_directory(path: Path) -> Iterator[Path]:
    """Make a hidden empty directory beside `path`; whatever is left of it is removed after."""
    remove_abandoned(path)
    partial = _new_sibling(path, PARTIAL)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, path: Path, overwrite: bool) -> None:
    """Rename `partial` to `path`, replacing a directory there if `overwrite`.

    Raises FileExistsError when `path` is taken, or other writers kept it busy; OSError when the
    disk fails, after which `path` is what it was.
    """
    for _ in range(MAX_ATTEMPTS):
        if _rename(partial, path) or (overwrite and _replace(partial, path)):
            sync_directory(path.parent)
            return
        if not overwrite:
            break
    raise FileExistsError(f"{path} is taken")


def recover(path: Path) -> bool:
    """Bring back what an interrupted replacement left aside, if `path` is gone.

    Returns whether it did. Raises OSError when the disk fails.
    """
    if os.path.lexists(path) or not path.parent.is_dir():
        return False
    newest = min(_siblings(path, OLD), key=_age, default=None)
    return newest is not None and _rename(newest, path)


def remove_abandoned(path: Path) -> None:
    """Remove what writers of `path` that died left beside it."""
    recover(path)
    old = _siblings(path, OLD)
    if os.path.lexists(path):  # looked at after the list: so all in it have been replaced
        for sibling in old:
            _discard(sibling)
    for sibling in _siblings(path, PARTIAL):
        if _age(sibling) > ABANDONED_SECONDS:
            shutil.rmtree(sibling, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Write a directory's entries through to the disk."""
    if os.name == "nt":  # cannot open directories
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(partial: Path, path: Path) -> bool:
    """Put `partial` where `path` is; put that back when it fails, delete it when done."""
    old = _new_sibling(path, OLD)
    if not _rename(path, old):
        return False
    done = False
    try:
        done = _rename(partial, path)
    finally:
        if not done and not _rename(old, path):  # another writer was faster: the old one has ended
            _discard(old)
    if done:
        _discard(old)
    return done


def _discard(old: Path) -> None:
    """Delete a directory under another name, because half of it must not be recovered."""
    rubbish = _new_sibling(old, PARTIAL)
    with contextlib.suppress(OSError):
        old = old.rename(rubbish)
    shutil.rmtree(old, ignore_errors=True)


def _rename(source: Path, target: Path) -> bool:
    """Rename a directory; False when the target is taken or another writer took the source."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
            return False
        raise
    return True


def _new_sibling(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{suffix}")


def _siblings(path: Path, suffix: str) -> list[Path]:
    start = f".{path.name}."
    length = len(start) + 16 + len(suffix)
    return [
        other
        for other in path.parent.iterdir()
        if other.name.startswith(start) and other.suffix == suffix and len(other.name) == length
    ]


def _age(path: Path) -> float:
    """Seconds since `path` was renamed or got its last entry; none if it is gone."""
    try:
        return time.time() - path.lstat().st_ctime
    except FileNotFoundError:
        return 0.0
