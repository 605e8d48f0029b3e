"""A repository of the packaged bundle, and a server of it in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_triton import FRONT, FakeServer, fake_triton

import samclip
from samclip.runtime.scene import Scene
from samclip.triton.graph_models import GraphSettings
from samclip.triton.repository import RepositorySettings, write_repository


@pytest.fixture(scope="package")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged bundle, its graphs run by samclip in Triton's Python back end."""
    folder = tmp_path_factory.mktemp("triton") / "repository"
    graphs = GraphSettings(backend="python", threads=1)
    write_repository("samclip-tiny", folder, RepositorySettings(graphs, FRONT, scenes=2))
    return folder


@pytest.fixture(scope="package")
def server(repository: Path) -> Iterator[FakeServer]:
    """Its models, loaded in this process."""
    with fake_triton(repository) as running:
        yield running


DECODER = "mask_decoder"


@pytest.fixture(scope="package")
def scene(photo_path: Path) -> Iterator[Scene]:
    """The photo, encoded by the API: what the answers are compared with, number by number.

    The server has no models of the graphs that stand in for the mask decoder, so it does without.
    """
    with samclip.load("samclip-tiny", "onnxruntime", threads=1) as model:
        pool = model._pool
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                pool, "decoders", lambda canvas: (pool.bundle.manifest.name_for(DECODER, canvas),)
            )
            with model.encode(photo_path) as encoded:
                yield encoded
