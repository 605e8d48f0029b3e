"""Names from files and command lines that become names of files and folders.

A run's name in its TOML file or a bundle's name is text that somebody else wrote. Before such a
name becomes part of a path, it passes `check_name`: it then stays inside the folder that it is
joined to, and means the same file on every system.
"""

from __future__ import annotations

import re
import unicodedata

from samclip.errors import InputError, SamclipError

MAX_NAME_BYTES = 200  # file systems take 255, and partial files add some to a name
NOT_PORTABLE = frozenset('<>:"|?*\\/')
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
LEADING = {
    "-": "begins with '-', as options do",
    "~": "begins with '~', as home folders do",
    ".": "begins with a dot, as hidden files do",
}


def check_name(name: object, what: str, error: type[SamclipError] = InputError) -> str:
    """Return `name` if it may become the name of one file or folder, inside any folder.

    It holds no separator, is neither `.` nor `..`, begins with none of `.`, `-` and `~`, does not
    begin or end with a space or end with a dot, and holds only printable characters in Unicode's
    NFC that every file system accepts, 200 bytes at most in UTF-8. `what` names it in the message,
    as "the run's name". Raises `error`.
    """
    if not isinstance(name, str):
        raise error(f"{what} is {type(name).__name__} {name!r:.80}; expected text")
    if reason := find_name_fault(name):
        raise error(
            f"{what} {name[:80]!r} {reason}. It becomes the name of a folder or file: use letters, "
            "digits, '-', '_' and '.', such as 'tiny-2'."
        )
    return name


def find_name_fault(name: str) -> str:
    """Return why `name` may not become the name of a file, as "is empty"; "" when it may."""
    encoded = name.encode("utf-8", "surrogatepass")
    faults = {
        "is empty": not name,
        "holds an unprintable character": not name.isprintable(),  # also NUL, lone surrogates
        "holds one of " + " ".join(sorted(NOT_PORTABLE)): bool(NOT_PORTABLE.intersection(name)),
        "begins or ends with a space, or ends with a dot": name != name.strip()
        or name.endswith("."),
        **{fault: name.startswith(sign) for sign, fault in LEADING.items()},
        "is not in Unicode's form NFC": name != unicodedata.normalize("NFC", name),
        "is a name that Windows keeps for devices": DEVICE_NAME.fullmatch(name) is not None,
        f"is longer than {MAX_NAME_BYTES} bytes": len(encoded) > MAX_NAME_BYTES,
    }
    return next((fault for fault, found in faults.items() if found), "")


class DistinctNames:
    """Names of which no two are equal; those that differ in case only are, as in file systems."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def take(self, name: str) -> str:
        """Return `name` where it is free, else `name-2`, `name-3` and so on; it is then taken."""
        key = fold(name)
        free = name
        while fold(free) in self._taken:
            self._counts[key] = self._counts.get(key, 1) + 1
            free = f"{name}-{self._counts[key]}"
        self._taken.add(fold(free))
        return free


def fold(name: str) -> str:
    """Return what is equal for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", name).casefold()
