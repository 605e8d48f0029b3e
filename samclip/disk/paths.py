"""Paths that people give, and the folders of the user: a leading `~`, and homes that are absent.

Services and containers may run as a user that no file lists, without HOME. Nothing here raises for
that but InputError, and no path returned has a `~` that stands for an unknown home.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from samclip.errors import InputError

SEPARATORS = frozenset(filter(None, ("/", os.sep, os.altsep)))
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.+", re.DOTALL)
MAX_SHOWN = 200  # characters of a path in a message
LONGEST_NAME = 255  # bytes of a file's name, in all common file systems
# The folders below the home, where the variable is not set to an absolute path (XDG).
XDG_FOLDERS = {
    "cache": ("XDG_CACHE_HOME", ".cache"),
    "data": ("XDG_DATA_HOME", os.path.join(".local", "share")),  # noqa: PTH118 - a part, not a path
}


def is_address(text: str) -> bool:
    """Whether a text is an address such as "https://example.com/a.jpg", and no file is there."""
    return ADDRESS.fullmatch(text) is not None and not os.path.lexists(text)


def path_text(given: object, what: str = "the path") -> str:
    """Return the text of a str or `os.PathLike`, whose bytes are decoded; raises InputError.

    `what` begins the message. Plain bytes are refused: elsewhere they are the contents of a file.
    """
    text = given
    if isinstance(given, os.PathLike):
        text = os.fspath(given)
        if isinstance(text, bytes):  # an os.DirEntry of a folder that was listed as bytes
            return os.fsdecode(text)
    if not isinstance(text, str):
        advice = " Decode it first: os.fsdecode(path)." if isinstance(text, bytes) else ""
        raise InputError(
            f"{what} must be a str or a pathlib.Path; got {type(given).__name__}.{advice}"
        )
    return text


def user_path(given: object, what: str = "the path") -> Path:
    """Return a path that a person gave, with a leading `~` replaced by a home folder.

    `~` and `~/...` always mean the home of this user. `~name` and `~name/...` mean what exists
    under that name; else what is in the home of the user `name`; and without such a user, the
    name as it is. Raises InputError for another type, for an empty path, one with a NUL, and for
    `~` where no home is known.
    """
    text = path_text(given, what)
    if not text or "\0" in text:
        came = "is empty" if not text else f"holds a NUL: {text[:MAX_SHOWN]!r}"
        raise InputError(f"{what} {came}. Give the path of a file or folder.")
    if not text.startswith("~"):
        return Path(text)
    first, rest = _split(text)
    if first == "~":
        home = home_folder()
        if home is None:
            raise InputError(
                f"{what} {text[:MAX_SHOWN]!r} begins with ~, and this user has no home folder. "
                "Give an absolute path, or set HOME to one."
            )
        return home / rest
    given_path = Path(text)
    if _exists(given_path):
        return given_path
    other = os.path.expanduser(first)  # noqa: PTH111 - unlike pathlib's, it never raises
    return Path(other) / rest if other != first and os.path.isabs(other) else given_path  # noqa: PTH117


def home_folder() -> Path | None:
    """Return this user's home, by HOME or the list of users; None when neither has one.

    It need not exist. A HOME that is empty or relative does not count.
    """
    variable = "USERPROFILE" if os.name == "nt" else "HOME"
    path = Path(os.environ.get(variable, ""))
    if path.is_absolute():
        return path
    return _listed_home()


def user_folder(kind: str) -> Path:
    """Return samclip's folder among the user's "cache" or "data"; raises InputError without one.

    It need not exist. On Linux a variable of XDG counts if its path is absolute, as XDG says.
    """
    if os.name == "posix" and sys.platform != "darwin":
        variable, below = XDG_FOLDERS[kind]
        root = Path(os.environ.get(variable, ""))
        home = home_folder()
        if root.is_absolute():
            return root / "samclip"
        if home is not None:
            return home / below / "samclip"
    elif home_folder() is not None:
        import platformdirs  # noqa: PLC0415 - its rules for macOS and Windows

        found = getattr(platformdirs, f"user_{kind}_dir")("samclip")
        if os.path.isabs(found):  # noqa: PTH117
            return Path(found)
    raise InputError(
        f"there is no folder for samclip's {kind}: this user has no home folder. Set HOME to one."
    )


def _split(text: str) -> tuple[str, str]:
    """Split a text at its first separator, which is dropped."""
    for index, letter in enumerate(text):
        if letter in SEPARATORS:
            return text[:index], text[index:].lstrip("".join(SEPARATORS))
    return text, ""


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def _listed_home() -> Path | None:
    """Return the home that the system lists for this process's user."""
    try:
        import pwd  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    try:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None
    return home if home.is_absolute() else None
