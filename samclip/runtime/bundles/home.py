"""Where bundles live on this machine, and how a name becomes a path."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import platformdirs

from samclip.errors import BundleNotFoundError
from samclip.runtime.bundles.directory_swap import recover
from samclip.runtime.bundles.manifest import MANIFEST_NAME
from samclip.runtime.suggest import did_you_mean

HOME_VARIABLE = "SAMCLIP_HOME"
MAX_NAMES_SHOWN = 20


def bundle_home() -> Path:
    """Give the directory of the bundles that are found by name; it need not exist.

    It is `$SAMCLIP_HOME`, or `bundles` in the user's data directory.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return platformdirs.user_data_path("samclip") / "bundles"


def list_bundles() -> list[str]:
    """Give the names in `bundle_home()`, sorted: the directories that have a manifest."""
    home = bundle_home()
    if not home.is_dir():
        return []
    return sorted(
        entry.name
        for entry in home.iterdir()
        if (entry / MANIFEST_NAME).is_file() and not entry.name.startswith(".")
    )


def find_bundle(name_or_path: str | PathLike[str]) -> Path:
    """Find a bundle's directory: an existing path, else a name in `bundle_home()`.

    Raises BundleNotFoundError, which lists the known names.
    """
    text = os.fspath(name_or_path)
    path = _expand(text)
    if path is not None and _is_directory(path):
        return path
    is_name = text not in {"", ".", ".."} and not {"/", os.sep, "\0"}.intersection(text)
    if is_name and _is_directory(bundle_home() / text):
        return bundle_home() / text
    raise BundleNotFoundError(_not_found(text))


def _expand(text: str) -> Path | None:
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError:  # ~user of nobody: the message below names the text
        return None


def _is_directory(path: Path) -> bool:
    """Whether `path` is a directory, after an interrupted overwrite the old one."""
    try:
        recover(path.absolute())
        return path.is_dir()
    except (OSError, ValueError):  # a name too long, a NUL: no directory
        return False


def _not_found(text: str) -> str:
    if os.path.isfile(text):  # noqa: PTH113 - False for a name too long or with a NUL
        return f"{text!r} is a file. A bundle is a directory with a {MANIFEST_NAME}: give that."
    known = list_bundles()
    names = ", ".join(known[:MAX_NAMES_SHOWN]) or "none yet"
    return (
        f"there is no bundle {text[:200]!r}{did_you_mean(text, known)}: neither a directory nor a "
        f"name in {bundle_home()}, which has: {names}. Export one with samclip-export, or give "
        "the path of a directory."
    )
