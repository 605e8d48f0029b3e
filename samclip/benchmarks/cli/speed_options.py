"""The options of the benchmarks of speed and memory: what is measured, on which photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.cli.options import _DATA
from samclip.benchmarks.data.sample import spread
from samclip.errors import InputError
from samclip.runtime.assets import DEFAULT_BUNDLE, packaged_photos
from samclip.runtime.pixels.image import photo_paths

_BUNDLE = "Bundle and engine"
PACKAGED = packaged_photos()

Bundles = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[BUNDLE]...",
        show_default=DEFAULT_BUNDLE,
        help="Bundles by folder or name; the first is what the others are compared with.",
    ),
]
Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        metavar="auto|NAME",
        rich_help_panel=_BUNDLE,
        show_default="auto",
        help="What runs the graphs; may be repeated: each is measured.",
    ),
]
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        metavar="fp32|fp16|bf16|int8|int8_fp16",
        rich_help_panel=_BUNDLE,
        show_default="the bundle's first choice for the backend",
        help="Take the graphs of this precision; may be repeated: each is measured.",
    ),
]
Photos = Annotated[
    Path | None,
    typer.Option(
        "--photos",
        metavar="FOLDER",
        rich_help_panel=_DATA,
        show_default="those that come with samclip",
        help="Photos to measure on, in turn.",
    ),
]


def choose_photos(folder: Path | None, limit: int | None) -> list[Path]:
    """List the photos to measure on, spread evenly over the folder's; raises InputError."""
    if folder is not None and not folder.expanduser().is_dir():
        raise InputError(f"there is no folder {folder} of photos. Give an existing one.")
    found = photo_paths(None if folder is None else folder.expanduser())
    if not found:
        raise InputError(f"the folder {folder} has no photos. Give one with JPEG or PNG files.")
    return list(spread(found, limit))
