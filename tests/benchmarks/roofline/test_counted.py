"""Counts do not depend on the backend that ran the graph, nor on what it keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_bundle import WEIGHT, WEIGHTS_FILE, tiny_files, tiny_manifest

from samclip.benchmarks.latency.contenders import Variant
from samclip.benchmarks.latency.timed import StageClock
from samclip.benchmarks.roofline.counted import (
    Counted,
    CountedBackend,
    GraphWorks,
    Meter,
    count_graph,
)
from samclip.engines.base import Backend, Engine, EngineOptions, GraphSource, Traits
from samclip.engines.registry import get_backend
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.writing import write_bundle
from samclip.runtime.engine_pool import EnginePool

OPTIONS = EngineOptions(threads=1)


@dataclass(frozen=True)
class Releasing:
    """ONNX Runtime, but it lets the graph's bytes go, as OpenVINO does."""

    inner: Backend
    name: str = "onnxruntime"

    @property
    def traits(self) -> Traits:
        return self.inner.traits

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
    return Counted("tiny", Variant(), model, timed)


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


def test_a_meter_adds_up_the_runs_that_answers_took(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle", tiny_manifest(), tiny_files()))
    timed = CountedBackend(get_backend("onnxruntime"), StageClock())
    pool = EnginePool(bundle, timed, OPTIONS)
    model: Any = SimpleNamespace(manifest=bundle.manifest, bundle=bundle)
    counted = Counted("tiny", Variant(), model, timed)
    one, other = (Meter([counted], works) for works in [GraphWorks()] for _ in range(2))

    def run(*rows: int) -> None:
        for count in rows:
            pool.run("encoder", {"x": np.ones((count, 4), np.float32)})

    run(7)  # before anything is asked
    one.begin()
    run(2, 5, 2)
    one.end("box")
    other.begin()
    run(1)
    other.end("box")
    run(9)  # of nobody
    one.begin()
    run(3)
    one.end("point")
    assert one.macs("box") == (2 + 5 + 2) * 4 * 3
    assert one.macs("point") == 3 * 4 * 3
    assert other.macs("box") == 1 * 4 * 3
    assert one.parameters() == other.parameters() == 4 * 3  # however often it ran


def test_bundles_that_a_contender_has_twice_count_once(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", tiny_manifest(), tiny_files())
    models = []
    for _ in range(2):
        opened = Bundle.open(bundle)
        timed = CountedBackend(get_backend("onnxruntime"), StageClock())
        model: Any = SimpleNamespace(manifest=opened.manifest, bundle=opened)
        models.append(Counted("tiny", Variant(), model, timed))
    meter = Meter(models, GraphWorks())
    meter.begin()
    for counted in models:
        pool = EnginePool(counted.model.bundle, counted.backend, OPTIONS)
        pool.run("encoder", {"x": np.ones((2, 4), np.float32)})
    meter.end("box")
    assert meter.macs("box") == 2 * (2 * 4 * 3)
    assert meter.parameters() == 4 * 3
