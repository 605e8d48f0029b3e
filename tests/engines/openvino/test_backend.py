"""The special features of OpenVINO's engine; `test_contract.py` has the common ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper
from tiny_bundle import (
    WEIGHT,
    WEIGHTS_FILE,
    affine_model,
    make_model,
    negation_model,
)

from samclip.engines.base import ArrayTensor, Engine, EngineOptions, GraphSource
from samclip.engines.openvino import library as ov_library
from samclip.engines.openvino import library as reading
from samclip.engines.openvino.backend import OPENVINO
from samclip.errors import BackendUnavailableError, EngineRunError
from samclip.runtime.bundles.weights import parse_weights

openvino = pytest.importorskip("openvino")

X = np.arange(8, dtype=np.float32).reshape(2, 4)
ONE_THREAD = EngineOptions(threads=1)


def affine_source(location: str = WEIGHTS_FILE) -> GraphSource:
    onnx, data = affine_model(location)
    return GraphSource("affine", onnx, parse_weights(data), {location: data})


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = OPENVINO.load(affine_source(), ONE_THREAD)
    yield engine
    engine.close()


def load(onnx: bytes) -> Engine:
    return OPENVINO.load(GraphSource("graph", onnx), ONE_THREAD)


@pytest.mark.parametrize("free", [10**9, 0])
def test_nothing_is_left_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """Neither in memory nor, where that has no room, in the system's folder."""
    places = [tmp_path / "memory", tmp_path / "disk"]
    for place in places:
        place.mkdir()
    used = []
    original = tempfile.TemporaryDirectory

    def record(**options: Any) -> Any:
        used.append(original(**options))
        return used[-1]

    monkeypatch.setattr(reading, "IN_MEMORY", places[0])
    monkeypatch.setattr(reading.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))
    monkeypatch.setattr(tempfile, "tempdir", str(places[1]))
    monkeypatch.setattr(tempfile, "TemporaryDirectory", record)
    OPENVINO.load(affine_source("folder/weights.bin"), ONE_THREAD)
    onnx = affine_model()[0].replace(b"MatMul", b"MatMut")
    with pytest.raises(EngineRunError, match="MatMut"):
        OPENVINO.load(GraphSource("g", onnx, {}, affine_source().files), ONE_THREAD)
    assert {Path(folder.name).parent for folder in used} == {places[0 if free else 1]}
    assert [list(place.iterdir()) for place in places] == [[], []]


@pytest.mark.parametrize(
    "location", ["../w", "/etc/hostname", "a/../../w", "*/_ORT_MEM_ADDR_/*", "graph.onnx"]
)
def test_external_data_elsewhere_is_refused(location: str) -> None:
    """The starred one would have OpenVINO read this process's memory at any address."""
    with pytest.raises(EngineRunError, match="comes with the files none"):
        load(affine_model(location)[0])
    if "*" not in location:
        with pytest.raises(EngineRunError, match="Export the bundle again"):
            OPENVINO.load(affine_source(location), ONE_THREAD)


def test_weights_may_come_in_their_file_alone() -> None:
    onnx, data = affine_model()
    got = OPENVINO.load(GraphSource("g", onnx, {}, {WEIGHTS_FILE: data}), ONE_THREAD).run({"x": X})
    np.testing.assert_array_equal(got["y"].numpy(), X @ WEIGHT)


def test_no_room_for_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EngineRunError, match=r"No space left on device\. Free some room"):
        OPENVINO.load(affine_source(), ONE_THREAD)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:, :3], r"shape=\[\?,4\]\) and the tensor \(shape=\(2.3\)\) are incompatible"),
        (X[0], "incompatible"),
        (X[None], "incompatible"),
    ],
)
def test_wrong_shapes_are_explained(engine: Engine, x: NDArray[np.float32], message: str) -> None:
    with pytest.raises(EngineRunError, match=message):
        engine.run({"x": x})


def test_tensor_of_the_wrong_type(engine: Engine) -> None:
    with pytest.raises(EngineRunError, match="is float64, expected float32"):
        engine.run({"x": ArrayTensor(X.astype(np.float64))})


def test_failures_that_one_thread_hides() -> None:
    """The same failure, of which OpenVINO says nothing when it has one thread."""
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    engine = load(make_model(nodes, {"x": ["n", 4]}, {"y": None}))
    with pytest.raises(EngineRunError, match="the graph 'graph' failed: its outputs y are empty"):
        engine.run({"x": np.ones((3, 4), np.float32)})
    assert engine.run({"x": np.ones((4, 4), np.float32)})["y"].shape == (4, 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_whose_run_failed_is_not_used_again(threads: int) -> None:
    """It would refuse what is right, give what it gave before, or crash."""
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    source = GraphSource("graph", make_model(nodes, {"x": ["n", 4]}, {"y": None}))
    engine = OPENVINO.load(source, EngineOptions(threads=threads))
    for number in range(1, 4):
        used = engine._computing.model
        x = np.eye(4, dtype=np.float32) * number
        np.testing.assert_array_equal(engine.run({"x": x})["y"].numpy(), x @ x)
        for _ in range(2):
            with pytest.raises(EngineRunError, match="the graph 'graph' failed"):
                engine.run({"x": np.ones((3, 4), np.float32)})
        assert engine._computing.model is not used


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.usefixtures("engine")
def test_forked_child_cannot_load() -> None:
    """It would wait forever for threads that stayed in the parent."""
    child = os.fork()
    if child == 0:
        try:
            load(negation_model())
        except BackendUnavailableError as error:
            os._exit(7 if "'spawn'" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_settings_reach_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """FP32 is pinned: of itself OpenVINO takes BF16 where the processor has it."""
    monkeypatch.setattr("samclip.engines.openvino.backend.usable_cores", lambda: 2)
    for options, threads in ((EngineOptions(threads=1), 1), (EngineOptions(), 2)):
        compiled = OPENVINO.load(affine_source(), options)._computing.model
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("NUM_STREAMS") == 1
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
        assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
        assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_probe_imports_nothing() -> None:
    code = (
        "import sys\nfrom samclip.engines.openvino.backend import OPENVINO\n"
        "assert OPENVINO.probe().available\nsys.exit('openvino' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov_library.importlib.util, "find_spec", lambda _: None)
    assert OPENVINO.probe().detail == "openvino is not installed"
    with pytest.raises(BackendUnavailableError, match=r"pip install 'samclip\[openvino\]'"):
        load(negation_model())


@pytest.mark.parametrize("number", ["2024.6.0", "2023.3.0-13775"])
def test_too_old(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov_library, "version", lambda _: number)
    with pytest.raises(BackendUnavailableError, match=f"openvino {number} is too old: 2025.0 is"):
        load(negation_model())


def test_broken_installations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared library is missing; only the folder is left by `pip uninstall`."""

    def fail(_: str) -> None:
        raise ImportError("libtbb.so.12")

    monkeypatch.setattr(ov_library.importlib, "import_module", fail)
    with pytest.raises(BackendUnavailableError, match=r"libtbb.so.12. To do: pip uninstall -y op"):
        load(negation_model())
    empty = types.ModuleType("openvino")
    monkeypatch.setattr(ov_library.importlib, "import_module", lambda _: empty)
    with pytest.raises(BackendUnavailableError, match="files are incomplete"):
        load(negation_model())
