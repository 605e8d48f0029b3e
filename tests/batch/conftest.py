"""A folder of small images with bad ones among them, and a bundle that answers in milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from colour_files import COLOURS, write_colour
from coloured_bundle import write_coloured_bundle


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """red.png, green.png, blue.png; of bad ones cut.png and text.jpg."""
    folder = tmp_path / "photos"
    for name in COLOURS:
        write_colour(folder / f"{name}.png", name)
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:60])
    (folder / "text.jpg").write_text("not an image")
    return folder


@pytest.fixture(scope="session")
def coloured_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle on disk that every process can load."""
    return write_coloured_bundle(tmp_path_factory.mktemp("coloured") / "bundle")
