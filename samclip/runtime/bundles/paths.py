"""Which paths a bundle may list: relative, plain, and the same file on every system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from samclip.errors import UnsafePathError
from samclip.runtime.bundles.manifest import DIGEST_NAME, MANIFEST_NAME, SIGNATURE_NAME

MAX_COMPONENT_BYTES = 255  # what Linux, macOS and Windows file systems take
MAX_PATH_BYTES = 1024
NOT_PORTABLE = frozenset('<>:"|?*\\')
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
RESERVED = frozenset({MANIFEST_NAME, DIGEST_NAME, SIGNATURE_NAME})


def check_path(path: str) -> None:
    """Check that `path` names a file inside a bundle, the same one on every system.

    It must be relative, with `/` between components that are neither empty, `.` nor `..`, have
    no space at an end nor a dot at the end, and hold only printable characters in Unicode's NFC
    that every file system takes. Raises UnsafePathError.
    """
    reason = _path_fault(path) or next(filter(None, map(_component_fault, path.split("/"))), "")
    if reason:
        raise UnsafePathError(
            f"the path {path[:80]!r} {reason}. A bundle takes relative paths with '/' that mean "
            "the same on every system: rename the file and export the bundle again."
        )


def _path_fault(path: str) -> str:
    if path.startswith("/"):
        return "is absolute"
    if not path.isprintable():  # controls, NUL, lone surrogates, bidirectional marks
        return "holds an unprintable character"
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    if path != unicodedata.normalize("NFC", path):
        return "is not in Unicode's form NFC"
    return ""


def _component_fault(name: str) -> str:
    if name in {"", ".", ".."}:
        return f"has the component {name!r}"
    if name != name.strip() or name.endswith("."):
        return "has a component that begins or ends with a space, or ends with a dot"
    if NOT_PORTABLE.intersection(name):
        return "holds one of the characters " + " ".join(sorted(NOT_PORTABLE))
    if DEVICE_NAME.fullmatch(name):
        return f"uses {name!r}, which Windows keeps for devices"
    if len(name.encode()) > MAX_COMPONENT_BYTES:
        return f"has a component longer than {MAX_COMPONENT_BYTES} bytes"
    return ""


def check_paths(paths: Collection[str]) -> None:
    """Check every path, and that no two are one on a file system that ignores case.

    Raises UnsafePathError; also for a path that is both a file and a folder, and for one of the
    manifest's own names.
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
                f"the paths {other!r} and {path!r} are one on systems that ignore case. "
                "Rename one and export the bundle again."
            )


def parent_folders(paths: Collection[str]) -> set[str]:
    """Give every folder above the paths: for `a/b/c` these are `a` and `a/b`."""
    folders = set()
    for path in paths:
        while "/" in path:
            path = path.rpartition("/")[0]  # noqa: PLW2901
            folders.add(path)
    return folders
