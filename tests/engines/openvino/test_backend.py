"""The OpenVINO engine on small graphs."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import tempfile
import threading
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
    external_tensor,
    make_model,
    negation_model,
)

from samclip.engines.base import Engine, EngineOptions, GraphSource, Tensor
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.openvino import library as ov_library
from samclip.engines.openvino import library as reading
from samclip.engines.openvino.backend import OPENVINO, OvTensor
from samclip.errors import BackendUnavailableError, ClosedError, EngineRunError
from samclip.runtime.bundles.weights import parse_weights, serialise_weights, weight_offsets

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


def test_names(engine: Engine) -> None:
    assert engine.input_names == ("x",)
    assert engine.output_names == ("y", "z")


def test_run(engine: Engine) -> None:
    got = engine.run({"x": X})
    assert list(got) == ["y", "z"]
    assert isinstance(got["y"], Tensor)
    assert got["y"].shape == (2, 3)
    np.testing.assert_array_equal(got["y"].numpy(), X @ WEIGHT)  # exact: small integers
    np.testing.assert_array_equal(got["z"].numpy(), -(X @ WEIGHT))


def test_chosen_outputs(engine: Engine) -> None:
    assert list(engine.run({"x": X}, ["z"])) == ["z"]
    assert list(engine.run({"x": X}, ("z", "y"))) == ["z", "y"]
    assert engine.run({"x": X}, []) == {}


def test_weights_may_go_after_loading() -> None:
    """Nothing reads freed memory or a removed file, and no folder is left behind."""
    table = np.arange(4_000_000, dtype=np.float32)  # large enough to be unmapped when freed
    data = serialise_weights({"table": table})
    tensor = external_tensor("table", table, "w", weight_offsets(data)["table"])
    node = helper.make_node("Add", ["x", "table"], ["y"])
    onnx = make_model([node], {"x": [1]}, {"y": [table.size]}, [tensor])
    engine = OPENVINO.load(GraphSource("g", onnx, parse_weights(data), {"w": data}), ONE_THREAD)
    del data
    gc.collect()
    got = engine.run({"x": np.ones(1, np.float32)})["y"].numpy()
    np.testing.assert_array_equal(got, table + 1)


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


def test_weights_come_from_verified_bytes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the current folder's file of that name nor the bundle's own is read."""
    onnx, data = affine_model()
    other = data.replace(WEIGHT.tobytes(), (WEIGHT + 1).tobytes())
    (tmp_path / WEIGHTS_FILE).write_bytes(other)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineRunError, match="could not be loaded by openvino: it keeps weights"):
        load(onnx)
    got = OPENVINO.load(affine_source(), ONE_THREAD).run({"x": X})["y"]
    np.testing.assert_array_equal(got.numpy(), X @ WEIGHT)


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


def test_no_room_for_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EngineRunError, match=r"No space left on device\. Free some room"):
        OPENVINO.load(affine_source(), ONE_THREAD)


@pytest.mark.parametrize(
    "x",
    [
        X[::-1],
        X.T.copy().T,
        np.repeat(X, 2, axis=0)[::2],
        np.zeros((0, 4), np.float32),
        np.frombuffer(X.tobytes(), np.float32).reshape(2, 4),  # read-only
    ],
)
def test_any_layout_of_inputs(engine: Engine, x: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(engine.run({"x": x})["y"].numpy(), x @ WEIGHT)


def test_scalar_inputs_stay_scalars() -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    got = load(make_model([node], {"x": []}, {"y": []})).run({"x": np.array(2, np.float32)})
    assert got["y"].shape == ()
    assert got["y"].numpy() == -2


def test_nan_and_infinity_pass_through() -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0]], np.float32)
    np.testing.assert_array_equal(load(negation_model()).run({"x": x})["y"].numpy(), -x)


def test_outputs_feed_the_next_engine(engine: Engine) -> None:
    first = load(negation_model()).run({"x": X})
    np.testing.assert_array_equal(engine.run({"x": first["y"]})["z"].numpy(), X @ WEIGHT)


def test_tensors_of_other_backends_are_taken(engine: Engine) -> None:
    first = CPU.load(GraphSource("g", negation_model()), ONE_THREAD).run({"x": X})
    np.testing.assert_array_equal(engine.run({"x": first["y"]})["z"].numpy(), X @ WEIGHT)


def test_outputs_outlive_their_engine_and_later_runs() -> None:
    engine = OPENVINO.load(affine_source(), ONE_THREAD)
    tensors = [engine.run({"x": X + i})["y"] for i in range(20)]
    arrays = [tensor.numpy() for tensor in tensors[10:]]
    del tensors[10:]
    engine.close()
    del engine
    gc.collect()
    for i, result in enumerate([*(tensor.numpy() for tensor in tensors), *arrays]):
        np.testing.assert_array_equal(result, (X + i) @ WEIGHT)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "has the inputs x; asked with none"),
        ({"x": X, "w": X}, "has the inputs x; asked with x, w"),
        ({"X": X}, "asked with X"),
        ({"x": X.astype(np.float64)}, "'x' is float64, expected float32"),
        ({"x": X.astype(np.int64)}, r"astype\('float32'\)"),
        ({"x": X.astype(">f4")}, "expected float32"),
        ({"x": X.astype(object)}, "'x' is object"),
        ({"x": X[:, :3]}, r"shape=\[\?,4\]\) and the tensor \(shape=\(2.3\)\) are incompatible"),
        ({"x": X[0]}, "incompatible"),
        ({"x": X[None]}, "incompatible"),
    ],
)
def test_wrong_feeds(engine: Engine, feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineRunError, match=message):
        engine.run(feeds)


def test_tensor_of_the_wrong_type(engine: Engine) -> None:
    with pytest.raises(EngineRunError, match="is float64, expected float32"):
        engine.run({"x": OvTensor(X.astype(np.float64))})


def test_unknown_outputs(engine: Engine) -> None:
    with pytest.raises(EngineRunError, match="has the outputs y, z; asked with q"):
        engine.run({"x": X}, ["q"])


@pytest.mark.parametrize("onnx", [b"", b"\xff" * 100, *(negation_model()[:n] for n in (1, 50, -1))])
def test_broken_graphs(onnx: bytes) -> None:
    with pytest.raises(EngineRunError, match="the graph 'graph' could not be loaded by openvino"):
        load(onnx)


def test_unknown_operator() -> None:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    with pytest.raises(EngineRunError, match="NoSuchOperator"):
        load(make_model([node], {"x": [1]}, {"y": [1]}))


def test_messages_name_no_internals(capfd: pytest.CaptureFixture[str]) -> None:
    """A failure inside a kernel: no source file or address; nothing on the terminal."""
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    onnx = make_model(nodes, {"x": ["n", 4]}, {"y": None})
    engine = OPENVINO.load(GraphSource("graph", onnx), EngineOptions(threads=2))
    with pytest.raises(EngineRunError, match=r"the graph 'graph' failed: .*MatMul") as caught:
        engine.run({"x": np.ones((3, 4), np.float32)})
    for internal in ("Exception from", ".cpp", ".hpp", "0x", "src/"):
        assert internal not in str(caught.value)
    assert capfd.readouterr() == ("", "")


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


def test_close(engine: Engine) -> None:
    engine.close()
    engine.close()
    for _ in range(3):
        with pytest.raises(ClosedError, match="Load the model again"):
            engine.run({"x": X})


def test_close_during_runs() -> None:
    """Runs under way end well, later ones raise ClosedError, nothing crashes."""
    for _ in range(10):
        engine, failures = OPENVINO.load(affine_source(), ONE_THREAD), []
        started = threading.Barrier(5)

        def work(engine: Engine, started: threading.Barrier, failures: list[object]) -> None:
            started.wait()
            try:
                while True:
                    if not np.array_equal(engine.run({"x": X})["y"].numpy(), X @ WEIGHT):
                        failures.append("wrong result")
            except ClosedError:
                return
            except Exception as error:
                failures.append(error)

        threads = [
            threading.Thread(target=work, args=(engine, started, failures)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        started.wait()
        engine.close()
        for thread in threads:
            thread.join()
        assert failures == []


@pytest.mark.parametrize(
    ("count", "calls"), [(2, 50), (8, 50), pytest.param(32, 1000, marks=pytest.mark.slow)]
)
def test_many_threads_get_what_one_gets(count: int, calls: int) -> None:
    """Callers at once, with different shapes: the mask decoder's batch is dynamic."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    data = serialise_weights({"w": weight})
    tensor = external_tensor("w", weight, "w", weight_offsets(data)["w"])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"]),
    ]
    onnx = make_model(nodes, {"x": ["n", 64]}, {"y": ["n", 64]}, [tensor])
    engine = OPENVINO.load(GraphSource("g", onnx, {}, {"w": data}), EngineOptions(threads=2))
    rng = np.random.default_rng(1)
    feeds = [rng.standard_normal((20 + n, 64)).astype(np.float32) for n in range(count)]
    expected = [engine.run({"x": x})["y"].numpy().tobytes() for x in feeds]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(calls):
            if engine.run({"x": feeds[number]})["y"].numpy().tobytes() != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # fork with threads: the point
def test_forked_child_is_told_to_load_again(engine: Engine) -> None:
    child = os.fork()
    if child == 0:
        try:
            engine.run({"x": X})
        except EngineRunError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert engine.run({"x": X})["y"].shape == (2, 3)  # the parent's still works


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


def test_an_engine_cannot_be_pickled(engine: Engine) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(engine)


@pytest.mark.parametrize("threads", [0, -1])
def test_thread_counts(threads: int) -> None:
    with pytest.raises(EngineRunError, match="threads must be at least 1"):
        OPENVINO.load(affine_source(), EngineOptions(threads=threads))


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


def test_many_shapes_keep_memory_bounded() -> None:
    """Dynamic shapes, as the mask decoder has: after a warm-up the process stays within 20 MB."""
    engine = load(negation_model())
    rng = np.random.default_rng(0)

    def run(count: int) -> None:
        for rows in rng.integers(1, 20_000, count):
            engine.run({"x": np.ones((rows, 4), np.float32)})

    run(100)
    before = resident()
    run(300)
    assert resident() - before <= 20e6  # bytes


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
