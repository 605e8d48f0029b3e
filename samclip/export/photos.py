"""The small public-domain photos that every export is verified on, unless the user gives others."""

from __future__ import annotations

from pathlib import Path

PHOTOS = Path(__file__).parent / "assets" / "photos"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def photo_paths(folder: Path | None = None) -> list[Path]:
    """List the images of `folder` in name order; None means the photos that ship with samclip."""
    return sorted(p for p in (folder or PHOTOS).iterdir() if p.suffix.lower() in SUFFIXES)
