"""Fixtures of the tests of the server: a small model, a server of it, an HTTP client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import served

import samclip
from samclip.runtime.model import Model
from samclip.runtime.scene import Scene
from samclip.server.run import Server


@pytest.fixture(scope="session")
def small_model(lite2_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The model of the small bundle, one thread."""
    cache = tmp_path_factory.mktemp("cache")
    with samclip.load(lite2_bundle, "onnxruntime", threads=1, cache_dir=cache) as model:
        yield model


@pytest.fixture(scope="session")
def small_scene(small_model: Model, photo_path: Path) -> Iterator[Scene]:
    """The photo, encoded by the API: what the server's answers are compared with."""
    with small_model.encode(photo_path) as scene:
        yield scene


@pytest.fixture(scope="module")
def server(small_model: Model) -> Iterator[Server]:
    """A server with the usual limits."""
    with served(small_model) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=server.address, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def scene_id(http: httpx.Client, photo_path: Path) -> str:
    """The photo as a scene of that server."""
    answer = http.post("/v1/scenes", files={"image": photo_path.read_bytes()})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
