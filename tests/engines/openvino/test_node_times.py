"""OpenVINO's times of nodes: means are taken apart into runs, and a real model adds up."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_bundle import WEIGHTS_FILE, affine_model

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.openvino.backend import OPENVINO
from samclip.engines.openvino.node_times import NodeTimes
from samclip.engines.profile import Profiled
from samclip.errors import EngineRunError
from samclip.runtime.bundles.weights import parse_weights

X = {"x": np.ones((2, 4), np.float32)}


def node(name: str, micros: int, status: str = "EXECUTED") -> Any:
    return SimpleNamespace(
        node_name=name, node_type="Convolution", exec_type="brgconv_f32", status=status,
        EXECUTED="EXECUTED", real_time=timedelta(microseconds=micros),
    )  # fmt: skip


def test_the_time_of_a_run_is_what_it_adds_to_the_mean() -> None:
    times = NodeTimes()
    found = [
        [(one.name, one.seconds * 1e6) for one in times.of_run([node("a", mean), skipped])]
        for mean, skipped in ((100, node("b", 0, "NOT_RUN")), (150, node("b", 0, "NOT_RUN")),
                              (110, node("b", 0, "NOT_RUN")))
    ]  # fmt: skip
    # 100, then 2 * 150 - 100, then 3 * 110 - 300
    assert found == [[("a", pytest.approx(micros, abs=1e-6))] for micros in (100, 200, 30)]


def test_rounding_makes_no_negative_time() -> None:
    times = NodeTimes()
    times.of_run([node("a", 5)])
    times.of_run([node("a", 2)])
    assert times.of_run([node("a", 1)])[0].seconds == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_profiles_until_it_is_asked(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a cache: the blob that a profiled model leaves is the one that others load."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    onnx, data = affine_model()
    source = GraphSource("affine", onnx, parse_weights(data), {WEIGHTS_FILE: data}, origin="here")
    with closing(OPENVINO.load(source, EngineOptions(threads=threads, profile=True))) as engine:
        assert isinstance(engine, Profiled)
        for _ in range(3):
            engine.run(X)
        runs = engine.end_profile()
        assert len(runs) == 3
        for place, run in enumerate(runs, 1):
            assert 1 <= len(run.nodes) <= 4
            # Means are cut to whole microseconds, and count as often as there were runs.
            assert run.between > -1e-6 * place * len(run.nodes)
        assert {"MatMul", "FullyConnected"} & {node.operator for node in runs[0].nodes}
        assert {node.shapes for node in runs[0].nodes} == {"2x3"}
        with pytest.raises(EngineRunError, match="keeps no profile"):
            engine.end_profile()
        engine.run(X)
    blobs = list(tmp_path.rglob("*.blob"))
    with closing(OPENVINO.load(source, EngineOptions(threads=threads))) as engine:
        engine.run(X)
        assert list(tmp_path.rglob("*.blob")) == blobs
        with pytest.raises(EngineRunError, match=r"EngineOptions\(profile=True\)"):
            engine.end_profile()
