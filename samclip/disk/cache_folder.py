"""The folder of caches: where it is, whether it can be trusted, and one warning where it cannot.

What is cached can change answers, and some of it is run. So a cache is used only in a folder of
this user or the system that not everybody may write to, and only through plain files of the same
kind. A cache that cannot be used costs time, and never an answer: the work is done without it.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from samclip.disk.partial_files import is_safely_owned, open_without_links
from samclip.disk.paths import path_text, user_folder, user_path
from samclip.errors import InputError

CACHE_DIR_VARIABLE = "SAMCLIP_CACHE_DIR"
MODE = 0o700  # of new folders

_logger = logging.getLogger("samclip")
_warned: set[Path | None] = set()  # folders of caches, of which each is reported once


class CacheUnusableError(OSError):
    """No folder can be used for caches; the message says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)


def check_cache_dir(directory: object) -> Path | None:
    """Return a folder that a caller chose for caches; raises InputError for other values."""
    if directory is None:
        return None
    text = path_text(directory, "cache_dir")
    if not text or "\0" in text:
        came = "holds a NUL" if text else "is empty"
        raise InputError(f"cache_dir {came}. Give a folder, or None for the user's cache.")
    return Path(text)


def cache_dir(directory: object = None) -> Path:
    """Choose where caches live: `directory`, else $SAMCLIP_CACHE_DIR, else the user's cache.

    Raises CacheUnusableError, an OSError, where no home folder is known; InputError for a
    `directory` that is empty or no path.
    """
    check_cache_dir(directory)
    named = os.environ.get(CACHE_DIR_VARIABLE) if directory is None else directory
    try:
        return user_path(named, "the cache folder") if named else user_folder("cache")
    except InputError as error:
        raise CacheUnusableError(str(error).rstrip(".")) from error


def open_cache(part: str = "", directory: object = None) -> Path | None:
    """Return the folder `part` of the cache, made if need be; None where it cannot be used.

    The first time in a process that it cannot, one warning says why and what to do. A folder that
    can only be read is returned: writing to it raises OSError.
    """
    base = None
    try:
        base = cache_dir(directory)
        make_private_folder(base)
        if part:
            make_private_folder(base / part)
    except OSError as error:
        warn_unusable(base, error)
        return None
    return base / part


def make_private_folder(folder: Path, mode: int = MODE) -> None:
    """Make a folder that by default only this user can enter, unless it is there; raises OSError.

    Also when it is there but belongs to another user, or everybody may write to it.
    """
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    if not is_safely_owned(folder.stat()):
        raise PermissionError(
            errno.EPERM, "it belongs to another user, or everybody may write to it", str(folder)
        )


def check_private_file(path: Path) -> None:
    """Check a file before a library opens it by name; it may be absent.

    Raises OSError for a link, for what is not a plain file, for a file of another user, and for
    one that everybody may write to. In a private folder nobody else can exchange it afterwards.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    _check_status(path, status)


def read_private_file(path: Path, limit: int, *, shared: bool = False) -> bytes:
    """Read a file that `check_private_file` accepts, of at most `limit` bytes.

    `shared`: the file may be another user's, in a folder that a person chose. Raises OSError;
    FileNotFoundError when there is none.
    """
    with os.fdopen(open_without_links(path), "rb") as file:
        _check_status(path, os.fstat(file.fileno()), shared)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return data


def warn_unusable(base: Path | None, error: OSError) -> None:
    """Log, once in a process for each folder of caches, that nothing is kept between runs.

    `base`: what `cache_dir` returned, or None where it raised.
    """
    if base in _warned:
        return
    _warned.add(base)
    where = error.filename if isinstance(error.filename, str) else base
    _logger.warning(
        "nothing is kept between runs: %s%s. Answers are the same, and the start takes longer. Set "
        "%s to a folder of your own.",
        "" if where is None else f"{where}: ",
        error.strerror or error,
        CACHE_DIR_VARIABLE,
    )


def _check_status(path: Path, status: os.stat_result, shared: bool = False) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PermissionError(errno.EPERM, "it is not a plain file", str(path))
    if not shared and not is_safely_owned(status):
        raise PermissionError(
            errno.EPERM, "it belongs to another user, or everybody may write to it", str(path)
        )
