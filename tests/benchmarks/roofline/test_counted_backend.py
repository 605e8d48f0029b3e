"""Counts do not depend on the backend that ran the graph, nor on what it keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_bundle import WEIGHT, WEIGHTS_FILE, tiny_files, tiny_manifest

from samclip.benchmarks.latency.clock import StageClock
from samclip.benchmarks.roofline.counted_backend import CountedBackend
from samclip.benchmarks.roofline.measure import Counted, count_graph
from samclip.engines.base import Backend, Engine, EngineOptions, GraphSource
from samclip.engines.registry import get_backend
from samclip.runtime.bundles.bundle import Bundle, write_bundle
from samclip.runtime.engine_pool import EnginePool

OPTIONS = EngineOptions(threads=1)


@dataclass(frozen=True)
class Releasing:
    """ONNX Runtime, but it lets the graph's bytes go, as OpenVINO does."""

    inner: Backend
    name: str = "onnxruntime"

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        engine = self.inner.load(source, options)
        source.release()
        assert not source.weights
        return engine


def write_masked_bundle(target: Path) -> Bundle:
    """The encoder's only weight is a mask, which holds no parameter; its bytes alone tell."""
    files = tiny_files()
    ones = np.ones_like(WEIGHT).tobytes()
    files[WEIGHTS_FILE] = files[WEIGHTS_FILE].replace(WEIGHT.tobytes(), ones)
    return Bundle.open(write_bundle(target, tiny_manifest(), files))


def counted_after_a_run(bundle: Bundle, backend: Any) -> Counted:
    timed = CountedBackend(backend, StageClock())
    pool = EnginePool(bundle, timed, OPTIONS)
    pool.run("encoder", {"x": np.ones((2, 4), np.float32)})
    model: Any = SimpleNamespace(manifest=bundle.manifest)
    return Counted("tiny", model, timed)


@pytest.mark.parametrize("releases", [False, True])
def test_weights_are_counted_though_the_engine_let_them_go(releases: bool, tmp_path: Path) -> None:
    onnxruntime = get_backend("onnxruntime")
    counted = counted_after_a_run(
        write_masked_bundle(tmp_path / "bundle"),
        Releasing(onnxruntime) if releases else onnxruntime,
    )
    work, sizes = count_graph(counted, "encoder")
    assert work.parameters == 0
    assert sizes == {"n": 2}
