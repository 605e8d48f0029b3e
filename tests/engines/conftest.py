"""The machine that TensorRT's engines run on without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorrt_bench import CUDA_PACKAGES, Bench, tensorrt_bench


@pytest.fixture(params=CUDA_PACKAGES)
def bench(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Bench]:
    """The machine, its CUDA driven by each of the packages for it."""
    with tensorrt_bench(request.param, monkeypatch, tmp_path) as bench:
        yield bench
