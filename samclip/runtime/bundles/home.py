"""The folders in which bundles are found by name.

A name means the bundle in the user's bundle home, else the one that came with the package.
"""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import platformdirs

from samclip.disk.directory_swap import recover
from samclip.engines.steps import ExportBundle
from samclip.errors import BundleNotFoundError, did_you_mean
from samclip.runtime.assets import DEFAULT_BUNDLE, in_archive, packaged_bundles
from samclip.runtime.bundles.manifest import MANIFEST_NAME

HOME_VARIABLE = "SAMCLIP_HOME"
MAX_NAMES_SHOWN = 20


def bundle_home() -> Path:
    """Return the directory of the user's bundles, which need not exist.

    It is `$SAMCLIP_HOME`, or `bundles` in the user's data directory.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return platformdirs.user_data_path("samclip") / "bundles"


def list_bundles() -> dict[str, Path]:
    """Return the bundles that can be found by name, sorted: the directories with a manifest."""
    found: dict[str, Path] = {}
    for folder in _folders()[::-1]:  # a name in an earlier folder replaces one in a later folder
        for path in folder.iterdir() if folder.is_dir() else ():
            if (path / MANIFEST_NAME).is_file() and not path.name.startswith("."):
                found[path.name] = path
    return dict(sorted(found.items()))


def find_bundle(name_or_path: str | PathLike[str] | None = None) -> Path:
    """Find a bundle's directory: an existing path, else by name; None means the default bundle.

    Raises BundleNotFoundError, which lists the known names.
    """
    text = DEFAULT_BUNDLE if name_or_path is None else os.fspath(name_or_path)
    # Without an argument the name alone counts: a folder in the working directory may share it.
    path = None if name_or_path is None else _expand(text)
    if path is not None and _is_directory(path):
        return path
    is_name = text not in {"", ".", ".."} and not {"/", os.sep, "\0"}.intersection(text)
    for folder in _folders() if is_name else ():
        if _is_directory(folder / text):
            return folder / text
    raise _not_found(text)


def _folders() -> tuple[Path, Path]:
    """Return the folders in which a name is looked up; the first that has it wins."""
    return bundle_home(), packaged_bundles()


def _expand(text: str) -> Path | None:
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError:  # no such ~user: the error message shows the text
        return None


def _is_directory(path: Path) -> bool:
    """Whether `path` is a directory, once an interrupted overwrite is undone."""
    try:
        recover(path.absolute())
        return path.is_dir()
    except (OSError, ValueError):  # the name is too long, or holds a NUL
        return False


def _not_found(text: str) -> BundleNotFoundError:
    if os.path.isfile(text):  # noqa: PTH113 - False for a name too long or with a NUL
        return BundleNotFoundError(
            f"{text!r} is a file. A bundle is a directory with a {MANIFEST_NAME}: give that."
        )
    known = list_bundles()
    names = ", ".join([*known][:MAX_NAMES_SHOWN]) or "none yet"
    if text == DEFAULT_BUNDLE:
        return _no_default(names)
    return BundleNotFoundError(
        f"there is no bundle {text[:200]!r}{did_you_mean(text, known)}: neither a directory nor a "
        f"known name, of which there are: {names}. Export one, or give the path of a directory, "
        f"or put one into {bundle_home()}.",
        steps=(ExportBundle(),),
    )


def _no_default(names: str) -> BundleNotFoundError:
    if in_archive():
        return BundleNotFoundError(
            f"samclip runs from an archive, where its own bundle {DEFAULT_BUNDLE!r} cannot be "
            "read. Install it unpacked (pip does), or give the path of a bundle."
        )
    return BundleNotFoundError(
        f"the default bundle {DEFAULT_BUNDLE!r} is not there: this samclip was built without it. "
        f"Name another bundle (known names: {names}) or a directory, or export this one from a "
        f"checkpoint, to {bundle_home() / DEFAULT_BUNDLE}.",
        steps=(
            ExportBundle((("checkpoint", None), ("output", str(bundle_home() / DEFAULT_BUNDLE)))),
        ),
    )
