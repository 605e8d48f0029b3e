"""The folders in which bundles are found by name.

A name means a folder in the working folder, else the bundle in the user's bundle home, else the one
that came with the package.
"""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from samclip.disk.directory_swap import list_aside
from samclip.disk.paths import path_text, user_folder, user_path
from samclip.engines.steps import ExportBundle
from samclip.errors import BundleNotFoundError, InputError, did_you_mean
from samclip.runtime.assets import DEFAULT_BUNDLE, in_archive, packaged_bundles
from samclip.runtime.bundles.manifest import MANIFEST_NAME
from samclip.runtime.bundles.recovery import recover_bundle

HOME_VARIABLE = "SAMCLIP_HOME"
MAX_NAMES_SHOWN = 20
MAX_SHOWN = 200  # characters of a name in a message


def bundle_home() -> Path:
    """Return the directory of the user's bundles, which need not exist.

    It is `$SAMCLIP_HOME`, or `bundles` in the user's data directory. Raises InputError where this
    user has no home folder.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return user_path(chosen, HOME_VARIABLE)
    return user_folder("data") / "bundles"


def list_bundles() -> dict[str, Path]:
    """Return the bundles that can be found by name, sorted: the directories with a manifest.

    A folder that cannot be read counts as empty.
    """
    found: dict[str, Path] = {}
    for folder in _folders()[::-1]:  # a name in an earlier folder replaces one in a later folder
        for path in _entries(folder):
            if _has_manifest(path) and not path.name.startswith("."):
                found[path.name] = path
    return dict(sorted(found.items()))


def find_bundle(name_or_path: str | PathLike[str] | None = None) -> Path:
    """Find a bundle's directory: an existing path, else by name; None means the default bundle.

    Raises BundleNotFoundError, which lists the known names; InputError for other things than paths.
    """
    text = DEFAULT_BUNDLE if name_or_path is None else path_text(name_or_path, "a bundle")
    # Without an argument the name alone counts: a folder in the working directory may share it.
    path = None if name_or_path is None else _expand(text)
    if path is not None and _is_directory(path):
        return path
    is_name = text not in {"", ".", ".."} and not {"/", os.sep, "\0"}.intersection(text)
    for folder in _folders() if is_name else ():
        if _is_directory(folder / text) or _recovers(folder / text):
            return folder / text
    # Last, so that what an interrupted overwrite left in the working folder replaces no known name.
    if path is not None and _recovers(path):
        return path
    raise _not_found(text, path)


def _folders() -> tuple[Path, ...]:
    """Return the folders in which a name is looked up; the first that has it wins."""
    try:
        return bundle_home(), packaged_bundles()
    except InputError:  # no home folder, as in a container with an unknown user
        return (packaged_bundles(),)


def _entries(folder: Path) -> list[Path]:
    try:
        return [*folder.iterdir()] if folder.is_dir() else []
    except OSError:
        return []


def _has_manifest(path: Path) -> bool:
    try:
        return (path / MANIFEST_NAME).is_file()
    except OSError:
        return False


def _expand(text: str) -> Path | None:
    try:
        return user_path(text, "a bundle")
    except InputError:  # empty, a NUL, or no home for ~: the error message shows the text
        return None


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # the name is too long, or holds a NUL
        return False


def _recovers(path: Path) -> bool:
    """Undo an interrupted overwrite of `path`; return whether it is a directory now."""
    try:
        return recover_bundle(path.absolute())
    except (OSError, ValueError):  # as in `_is_directory`; or the working folder was removed
        return False


def _not_found(text: str, path: Path | None) -> BundleNotFoundError:
    if not text:
        return BundleNotFoundError(
            "the name of the bundle is empty. Give a name or the path of a directory, or leave it "
            f"out for the default, {DEFAULT_BUNDLE}."
        )
    if path is not None and os.path.isfile(path):  # noqa: PTH113 - False for a name too long
        return BundleNotFoundError(
            f"{text!r} is a file. A bundle is a directory with a {MANIFEST_NAME}: give that."
        )
    known = list_bundles()
    names = ", ".join([*known][:MAX_NAMES_SHOWN]) or "none yet"
    if text == DEFAULT_BUNDLE:
        return _no_default(names)
    try:
        put = f", or put one into {bundle_home()}"
    except InputError:
        put = f", or set {HOME_VARIABLE} to a folder of bundles"
    return BundleNotFoundError(
        f"there is no bundle {text[:MAX_SHOWN]!r}{did_you_mean(text, known)}: neither a directory "
        f"nor a known name, of which there are: {names}. Export one, or give the path of a "
        f"directory{put}.{_describe_aside(path)}",
        steps=(ExportBundle(),),
    )


def _describe_aside(path: Path | None) -> str:
    """Name a directory that may be the bundle, put aside by an overwrite that was interrupted."""
    try:
        aside = [] if path is None else list_aside(path.absolute())
    except (OSError, ValueError):
        return ""
    if not aside:
        return ""
    return (
        f" {aside[0].name!r} next to it may be what an interrupted overwrite left; it is not known "
        "to be yours. If it is, rename it."
    )


def _no_default(names: str) -> BundleNotFoundError:
    if in_archive():
        return BundleNotFoundError(
            f"samclip runs from an archive, where its own bundle {DEFAULT_BUNDLE!r} cannot be "
            "read. Install it unpacked (pip does), or give the path of a bundle."
        )
    try:
        output = str(bundle_home() / DEFAULT_BUNDLE)
    except InputError:
        output = DEFAULT_BUNDLE
    return BundleNotFoundError(
        f"the default bundle {DEFAULT_BUNDLE!r} is not there: this samclip was built without it. "
        f"Name another bundle (known names: {names}) or a directory, or export this one from a "
        f"checkpoint, to {output}.",
        steps=(ExportBundle((("checkpoint", None), ("output", output))),),
    )
