"""The files that come inside the package: the default bundle, photos to try it on, a font."""

from __future__ import annotations

from pathlib import Path

DEFAULT_BUNDLE = "samclip-tiny"
ASSETS = Path(__file__).parents[1] / "assets"


def packaged_bundles() -> Path:
    """Return the folder of the bundles that came with this installation; it need not exist."""
    return ASSETS / "bundles"


def packaged_photos() -> Path:
    """Return the folder of the photos that came with this installation."""
    return ASSETS / "photos"


def packaged_clip() -> Path:
    """Return the video that came with this installation: a cup, in two seconds."""
    return ASSETS / "clips" / "coffee.mp4"


def packaged_font() -> Path:
    """Return the font of pictures that came with this installation."""
    return ASSETS / "fonts" / "samclip-captions.ttf"


def is_packaged(path: Path) -> bool:
    """Whether `path` lies in the folder of packaged bundles."""
    return path.resolve().is_relative_to(packaged_bundles().resolve())


def in_archive() -> bool:
    """Whether samclip runs from an archive (zipimport), from which bundles cannot be read."""
    return not Path(__file__).is_file()
