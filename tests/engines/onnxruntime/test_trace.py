"""ONNX Runtime's traces: one written by hand is parsed, and that of a real session adds up."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import WEIGHTS_FILE, affine_model

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.onnxruntime.trace import read_trace
from samclip.engines.profile import NodeTime, Profiled
from samclip.errors import ClosedError, EngineRunError
from samclip.runtime.bundles.weights import parse_weights


def session_event(name: str, ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": name, "ts": ts, "dur": dur, "ph": "X", "args": {}}


def node_event(name: str, ts: int, dur: int, **given: Any) -> dict[str, Any]:
    arguments = {"op_name": "Conv", "provider": "CPUExecutionProvider", "node_index": "7"}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur,
            "args": arguments | given}  # fmt: skip


RUNS = [
    session_event("session_initialization", 0, 90),
    node_event("conv", 110, 30, input_type_shape=[{"float": [1, 3, 8, 8]}, {"float": [4]}],
               output_type_shape=[{"float": [1, 4, 8, 8]}]),
    node_event("softmax_token_3", 145, 5, op_name="Softmax", output_type_shape=[{"float": []}]),
    session_event("SequentialExecutor::Execute", 104, 50),
    session_event("model_run", 100, 60),
    # Nodes are written when they end: of the second run, they come in another order.
    node_event("softmax_token_3", 240, 6, op_name="Softmax"),
    node_event("conv", 210, 20),
    session_event("model_run", 200, 80),
]  # fmt: skip


def test_nodes_of_each_run_are_in_the_order_in_which_they_began() -> None:
    first, second = read_trace(json.dumps(RUNS).encode())
    assert first.seconds == pytest.approx(60e-6)
    assert first.between == pytest.approx(25e-6)
    assert first.nodes[0] == NodeTime(
        "conv", "Conv", pytest.approx(30e-6), "CPUExecutionProvider", "1x3x8x8, 4 -> 1x4x8x8"
    )
    assert first.nodes[1].shapes == "scalar"
    assert [(node.name, node.operator) for node in second.nodes] == [
        ("conv", "Conv"), ("softmax_token_3", "Softmax")
    ]  # fmt: skip
    assert second.between == pytest.approx(54e-6)


def test_on_a_gpu_the_times_of_kernels_count() -> None:
    """Made by the rules of ONNX Runtime's source: no such trace has been recorded yet."""
    gpu = {"provider": "CUDAExecutionProvider"}
    kernels = [
        {"cat": "Kernel", "name": "gemm", "ts": ts, "dur": dur,
         "args": {"op_name": "Conv", "parent_name": "conv_kernel_time"}}
        for ts, dur in ((130, 400), (560, 100), (2000, 9))
    ]  # fmt: skip
    events = [
        node_event("conv", 110, 5, **gpu), node_event("shape", 120, 2, op_name="Shape"),
        node_event("view", 125, 1, op_name="Reshape", **gpu), *kernels,
        session_event("model_run", 100, 900),
    ]  # fmt: skip
    (run,) = read_trace(json.dumps(events).encode())
    assert [node.seconds for node in run.nodes] == pytest.approx([500e-6, 2e-6, 0])
    launches = [event for event in events if event not in kernels]
    with pytest.raises(EngineRunError, match="--enable_cuda_profiling"):
        read_trace(json.dumps(launches).encode())


@pytest.mark.parametrize("data", [b"", b'{"traceEvents": []}', b'[{"name": "model_run"}]', b"[3]"])
def test_what_is_no_trace_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting value|not a list|an event lacks"):
        read_trace(data)


def affine_source() -> GraphSource:
    onnx, data = affine_model()
    return GraphSource("affine", onnx, parse_weights(data), {WEIGHTS_FILE: data})


def test_a_session_profiles_until_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = CPU.load(affine_source(), EngineOptions(threads=1, profile=True))
    assert isinstance(engine, Profiled)
    assert [path.name[:15] for path in tmp_path.iterdir()] == ["samclip-profile"]
    with closing(engine):
        for rows in (2, 5, 2):
            engine.run({"x": np.ones((rows, 4), np.float32)})
        runs = engine.end_profile()
        assert [[node.operator for node in run.nodes] for run in runs] == [["MatMul", "Neg"]] * 3
        assert runs[1].nodes[0].shapes == "5x4 -> 5x3"  # what is stored has no shape there
        # Of whole microseconds: each of the two may be cut by one.
        assert all(run.between >= -2e-6 for run in runs)
        assert list(tmp_path.iterdir()) == []
        assert engine.run({"x": np.ones((1, 4), np.float32)}).keys() == {"y", "z"}
        with pytest.raises(EngineRunError, match="profile was ended"):
            engine.end_profile()
    with pytest.raises(ClosedError):
        engine.end_profile()


def test_a_profile_that_nobody_asks_for_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    CPU.load(affine_source(), EngineOptions(threads=1, profile=True)).close()
    assert list(tmp_path.iterdir()) == []


def test_a_session_without_a_profile_says_how_to_get_one() -> None:
    with (
        closing(CPU.load(affine_source(), EngineOptions(threads=1))) as engine,
        pytest.raises(EngineRunError, match=r"Load it with EngineOptions\(profile=True\)"),
    ):
        engine.end_profile()
