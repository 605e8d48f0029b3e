"""The paths and files of a bundle: valid names, a tree of plain files, and verified reading.

A path is relative and means the same file on every system. What is read is what was checked: the
status is that of the open file and the SHA-256 that of the bytes in memory, so a change on the
disk in between cannot bring in other bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from samclip.disk.partial_files import open_without_links
from samclip.disk.safe_names import DEVICE_NAME, NOT_PORTABLE
from samclip.engines.machine.free_memory import available_memory, free_swap
from samclip.errors import DeviceMemoryError, IntegrityError, ManifestError, UnsafePathError
from samclip.runtime.assets import is_packaged
from samclip.runtime.bundles.manifest import (
    DIGEST_NAME,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    FileEntry,
)

MAX_COMPONENT_BYTES = 255  # the limit of file systems on Linux, macOS and Windows
MAX_PATH_BYTES = 1024
RESERVED = frozenset({MANIFEST_NAME, DIGEST_NAME, SIGNATURE_NAME})
MAX_DEPTH = 16  # components of a path
LARGE_BYTES = 2**28  # from here on the machine's free memory is looked at before a file is read
CHUNK_BYTES = 2**20
# What file managers, network file systems, synchronisers and version control put next to any file.
# It is left out of the check of unlisted files, and never opened. Compared without case.
# fmt: off
IGNORED_NAMES = frozenset(
    {
        # macOS
        ".ds_store", ".localized", ".appledouble", ".appledb", ".appledesktop", ".fseventsd",
        ".spotlight-v100", ".temporaryitems", ".trashes", ".documentrevisions-v100",
        ".volumeicon.icns", ".apdisk", "icon\r",
        # Windows
        "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db",
        "desktop.ini", "$recycle.bin", "system volume information",
        # Linux
        ".directory", ".thumbnails", "lost+found",
        # file servers
        ".snapshot", ".snapshots", ".zfs", "@eadir", "#recycle", "#snapshot",
        # synchronisers
        ".stfolder", ".stignore", ".stversions", ".dropbox",
        # version control
        ".git", ".gitattributes", ".gitignore",
    }
)
# fmt: on
IGNORED_PATTERN = re.compile(
    r"[.]_.*"  # macOS: the attributes of a file, on disks that have none
    r"|[.]nfs[0-9a-f]+"  # NFS: a file that was removed while it was open
    r"|[.]fuse_hidden[0-9a-f]+|[.]smb(delete)?[0-9a-f]+|[.]cifs[0-9a-f]+"  # FUSE and SMB: the same
    r"|[.]trash-[0-9]+"  # Linux desktops: the rubbish of a disk
    r"|[.]manifest[.]sig[.][0-9a-f]{16}[.]partial",  # samclip sign, interrupted
    re.IGNORECASE | re.DOTALL,
)
COPY_FILES = "A bundle holds plain files only: copy it again with the files themselves (cp -RL)."


def check_path(path: str) -> None:
    """Check that `path` names a file inside a bundle, and the same file on every system.

    It must be relative, with `/` between its components. A component is not empty, `.` or `..`,
    does not begin or end with a space or end with a dot, and holds only printable characters in
    Unicode's NFC that every file system accepts. Raises UnsafePathError.
    """
    reason = _find_path_fault(path) or next(
        filter(None, map(_find_component_fault, path.split("/"))), ""
    )
    if reason:
        raise UnsafePathError(
            f"the path {path[:80]!r} {reason}. A bundle takes relative paths with '/' that mean "
            "the same on every system: rename the file and export the bundle again."
        )


def _find_path_fault(path: str) -> str:
    if path.startswith("/"):
        return "is absolute"
    if not path.isprintable():  # controls, NUL, lone surrogates, bidirectional marks
        return "holds an unprintable character"
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    if path.count("/") >= MAX_DEPTH:
        return f"has more than {MAX_DEPTH} components"
    if path != unicodedata.normalize("NFC", path):
        return "is not in Unicode's form NFC"
    return ""


def _find_component_fault(name: str) -> str:
    if name in {"", ".", ".."}:
        return f"has the component {name!r}"
    if name != name.strip() or name.endswith("."):
        return "has a component that begins or ends with a space, or ends with a dot"
    if NOT_PORTABLE.intersection(name):
        return "holds one of the characters " + " ".join(sorted(NOT_PORTABLE - {"/"}))
    if DEVICE_NAME.fullmatch(name):
        return f"uses {name!r}, which Windows keeps for devices"
    if len(name.encode()) > MAX_COMPONENT_BYTES:
        return f"has a component longer than {MAX_COMPONENT_BYTES} bytes"
    return ""


def check_paths(paths: Collection[str]) -> None:
    """Check every path, and that no two are the same on a file system that ignores case.

    Raises UnsafePathError; also for a path that is both a file and a folder, and for the names of
    the manifest's own files.
    """
    for path in paths:
        check_path(path)
        if path.casefold() in RESERVED:
            raise UnsafePathError(f"the manifest may not list {path!r}. Export the bundle again.")
    folders = parent_folders(paths)
    if both := folders.intersection(paths):
        raise UnsafePathError(
            f"the path {min(both)!r} is both a file and a folder. "
            "Rename one and export the bundle again."
        )
    spelling: dict[str, str] = {}
    for path in sorted([*folders, *paths]):
        other = spelling.setdefault(path.casefold(), path)
        if other != path:
            raise UnsafePathError(
                f"the paths {other!r} and {path!r} are the same on systems that ignore case. "
                "Rename one and export the bundle again."
            )


def parent_folders(paths: Collection[str]) -> set[str]:
    """Return every folder above the paths: for `a/b/c`, `a` and `a/b`."""
    folders = set()
    for path in paths:
        while "/" in path:
            path = path.rpartition("/")[0]  # noqa: PLW2901
            folders.add(path)
    return folders


def check_tree(root: Path, files: Mapping[str, FileEntry]) -> None:
    """Check that `root` holds exactly `files` and the manifest's own, all of them plain.

    What file managers and network file systems leave in any folder (`is_ignored`) may be there.
    Hard links are refused, except in a packaged bundle, where installers make them. Raises
    UnsafePathError for a symbolic or hard link, FIFO, socket or device; IntegrityError for a file
    that is missing, has another size, or is not listed.
    """
    try:
        found = dict(_walk(root, files.keys() | RESERVED, parent_folders(files)))
    except OSError as error:
        raise IntegrityError(
            f"{root} cannot be listed: {error.strerror}. Correct its permissions, or copy the "
            "bundle again."
        ) from error
    for path, entry in files.items():
        if path not in found:
            raise IntegrityError(f"{path!r} is missing from {root}. Copy the bundle again.")
        _check_size(path, found[path], entry)


def is_ignored(name: str) -> bool:
    """Whether an unlisted file or folder of this name is not samclip's, and left unopened."""
    return name.casefold() in IGNORED_NAMES or IGNORED_PATTERN.fullmatch(name) is not None


def _walk(
    root: Path, files: Collection[str], folders: Collection[str]
) -> Iterator[tuple[str, int]]:
    """Yield the path and size of every file below `root`; refuse anything that is not listed."""
    may_be_linked = is_packaged(root)
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                path = prefix + entry.name
                status = entry.stat(follow_symlinks=False)
                is_folder = stat.S_ISDIR(status.st_mode)
                listed = path in (folders if is_folder else files)
                if not listed and is_ignored(entry.name):
                    if not is_folder and not stat.S_ISREG(status.st_mode):
                        _check_plain(path, status, may_be_linked)
                    continue
                if not is_folder:
                    _check_plain(path, status, may_be_linked)
                if not listed:
                    raise IntegrityError(
                        f"{path!r} is in {root} but not in its manifest. Delete it, or copy or "
                        "export the bundle again."
                    )
                if is_folder:
                    waiting.append(path + "/")
                else:
                    yield path, status.st_size


def _check_plain(path: str, status: os.stat_result, may_be_linked: bool) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise UnsafePathError(f"{path!r} is a symbolic link. {COPY_FILES}")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{path!r} is not a plain file. {COPY_FILES}")
    if status.st_nlink != 1 and not may_be_linked:
        raise UnsafePathError(
            f"{path!r} has {status.st_nlink} hard links, so it may change from elsewhere. "
            f"{COPY_FILES}"
        )


def _check_size(path: str, size: int, entry: FileEntry) -> None:
    if size != entry.size:
        raise IntegrityError(
            f"{path!r} has {size:,} bytes, the manifest says {entry.size:,}. Copy the bundle again."
        )


def _check_memory(path: str, size: int) -> None:
    """Refuse to read a file that this machine has no memory for: the system would kill processes.

    A file of holes takes no room on the disk, and its whole size in memory.
    """
    free = available_memory() if size >= LARGE_BYTES else None
    if free is None:
        return
    free += free_swap()
    if size > free:
        raise DeviceMemoryError(
            f"{path!r} has {size:,} bytes, and {free:,} of this machine's memory are free. End "
            "other programs, or take a smaller bundle."
        )


@contextmanager
def open_plain_file(root: Path, path: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file of the bundle for the block; yields it with its size in bytes.

    Never follows a link and never blocks, for instance on a FIFO. Raises UnsafePathError when it
    is not a plain file, IntegrityError when it is missing or the disk fails.
    """
    may_be_linked = is_packaged(root)
    try:
        _check_plain(path, (root / path).lstat(), may_be_linked)
        with os.fdopen(open_without_links(root / path), "rb") as file:
            status = os.fstat(file.fileno())
            _check_plain(path, status, may_be_linked)
            yield file, status.st_size
    except OSError as error:
        raise IntegrityError(
            f"{path!r} of {root} cannot be read: {error.strerror}. Copy the bundle again, or "
            "correct its permissions."
        ) from error


def read_capped(root: Path, path: str, limit: int) -> bytes:
    """Read a file of unknown size; raises as `open_plain_file`, ManifestError over `limit`."""
    with open_plain_file(root, path) as (file, size):
        if size > limit:
            raise ManifestError(
                f"{path!r} has {size:,} bytes; at most {limit:,} are accepted. "
                "Export the bundle again."
            )
        return file.read(size)


def read_verified(root: Path, path: str, entry: FileEntry) -> bytes:
    """Read a listed file into memory: exactly the bytes whose SHA-256 the manifest states.

    Raises as `open_plain_file`, IntegrityError when the size or the digest differs, and
    DeviceMemoryError when less memory is free than the file has bytes.
    """
    with open_plain_file(root, path) as (file, size):
        _check_size(path, size, entry)
        _check_memory(path, size)
        data = file.read(size)
    _check_digest(path, hashlib.sha256(data).hexdigest(), entry)
    return data


def verify_file(root: Path, path: str, entry: FileEntry) -> None:
    """Check a listed file as `read_verified` does, a mebibyte at a time."""
    digest = hashlib.sha256()
    with open_plain_file(root, path) as (file, size):
        _check_size(path, size, entry)
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    _check_digest(path, digest.hexdigest(), entry)


def _check_digest(path: str, digest: str, entry: FileEntry) -> None:
    if digest != entry.sha256:
        raise IntegrityError(
            f"{path!r} has SHA-256 {digest}, the manifest says {entry.sha256}: its bytes changed. "
            "Copy or export the bundle again."
        )
