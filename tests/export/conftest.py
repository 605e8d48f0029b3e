"""What tests of exports share: graphs that were traced, and few photos to verify on."""

from __future__ import annotations

from pathlib import Path

import pytest

from samclip.runtime.pixels.image import photo_paths


@pytest.fixture(scope="session", autouse=True)
def every_graph_traced_once(graphs_traced_once: None) -> None:
    """See tests/conftest.py."""


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two of the photos that exports are verified on."""
    folder = tmp_path_factory.mktemp("photos")
    for photo in photo_paths()[1:3]:
        (folder / photo.name).write_bytes(photo.read_bytes())
    return folder
