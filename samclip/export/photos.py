"""The small public-domain photos that every export is verified on, unless the user gives others."""

from __future__ import annotations

from pathlib import Path

from samclip.errors import ExportError
from samclip.runtime.assets import packaged_photos
from samclip.runtime.cli.images import SUFFIXES

PHOTOS = packaged_photos()


def photo_paths(folder: Path | None = None) -> list[Path]:
    """List the images of `folder` in name order; None means the photos that ship with samclip.

    Raises ExportError when there is no such folder.
    """
    folder = folder or PHOTOS
    if not folder.is_dir():
        raise ExportError(f"there is no folder {folder} of photos; give an existing one")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
