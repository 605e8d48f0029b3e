"""Bundles of which an overwrite was interrupted, put back under their name."""

from __future__ import annotations

from pathlib import Path

from samclip.disk.directory_swap import recover
from samclip.errors import BundleError
from samclip.runtime.bundles.manifest_file import read_checked


def recover_bundle(path: Path) -> bool:
    """Put back the bundle that an interrupted overwrite left aside, if `path` is gone.

    Only a whole one, that a process of this user moved there: see `directory_swap.recover`. Return
    whether it did. Raises OSError when the disk fails.
    """
    return recover(path, _is_whole)


def _is_whole(path: Path) -> bool:
    """Whether a directory is a bundle: its manifest is valid, and its files are those listed."""
    try:
        read_checked(path)
    except BundleError:
        return False
    return True
