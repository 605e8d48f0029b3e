"""The ONNX Runtime engines on small graphs."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tiny_bundle import (
    WEIGHT,
    WEIGHTS_FILE,
    affine_model,
    external_tensor,
    make_model,
    negation_model,
)

from samclip.engines.base import Engine, EngineOptions, GraphSource, Tensor
from samclip.engines.machine.host import release_free_memory
from samclip.engines.onnxruntime import library as ort_library
from samclip.engines.onnxruntime.backend import CPU, CUDA, OnnxRuntimeBackend, OrtTensor
from samclip.errors import BackendUnavailableError, ClosedError, EngineRunError
from samclip.runtime.bundles.weights import parse_weights, serialise_weights, weight_offsets

X = np.arange(8, dtype=np.float32).reshape(2, 4)
ONE_THREAD = EngineOptions(threads=1)


def affine_source(by_file: bool = True) -> GraphSource:
    onnx, data = affine_model()
    files = {WEIGHTS_FILE: data} if by_file else {}
    return GraphSource("affine", onnx, parse_weights(data), files)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = CPU.load(affine_source(), ONE_THREAD)
    yield engine
    engine.close()


def load(onnx: bytes, backend: OnnxRuntimeBackend = CPU) -> Engine:
    return backend.load(GraphSource("graph", onnx), ONE_THREAD)


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


@pytest.mark.parametrize("by_file", [True, False])
def test_weights_may_go_after_loading(by_file: bool) -> None:
    """Nothing reads freed memory, whichever way the weights came in."""
    table = np.arange(4_000_000, dtype=np.float32)  # large enough to be unmapped when freed
    data = serialise_weights({"table": table})
    tensor = external_tensor("table", table, "w", weight_offsets(data)["table"])
    node = helper.make_node("Add", ["x", "table"], ["y"])
    onnx = make_model([node], {"x": [1]}, {"y": [table.size]}, [tensor])
    engine = CPU.load(
        GraphSource("g", onnx, parse_weights(data), {"w": data} if by_file else {}), ONE_THREAD
    )
    del data
    gc.collect()
    got = engine.run({"x": np.ones(1, np.float32)})["y"].numpy()
    np.testing.assert_array_equal(got, table + 1)


def test_weights_by_name_skip_those_of_other_variants() -> None:
    got = CPU.load(affine_source(by_file=False), ONE_THREAD).run({"x": X})
    np.testing.assert_array_equal(got["y"].numpy(), X @ WEIGHT)


def test_old_versions_take_weights_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1.24 there is no way to hand over files: the last version for Python 3.10."""

    class OldOptions(onnxruntime.SessionOptions):
        def __getattribute__(self, name: str) -> Any:
            if name == "add_external_initializers_from_files_in_memory":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(onnxruntime, "SessionOptions", OldOptions)
    got = CPU.load(affine_source(), ONE_THREAD).run({"x": X})
    np.testing.assert_array_equal(got["y"].numpy(), X @ WEIGHT)


def test_external_data_is_never_read_from_the_disk(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx, data = affine_model()
    (tmp_path / WEIGHTS_FILE).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineRunError, match="could not be loaded"):
        load(onnx)


@pytest.mark.parametrize("location", ["../w", "/etc/hostname", "a/../../w"])
def test_external_data_elsewhere_is_refused(location: str) -> None:
    with pytest.raises(EngineRunError, match="could not be loaded"):
        load(affine_model(location)[0])


@pytest.mark.parametrize(
    "x", [X[::-1], X.T.copy().T, np.repeat(X, 2, axis=0)[::2], np.zeros((0, 4), np.float32)]
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
    class Other:
        shape = X.shape

        def numpy(self) -> NDArray[np.generic]:
            return X

    np.testing.assert_array_equal(engine.run({"x": Other()})["y"].numpy(), X @ WEIGHT)


def test_outputs_outlive_their_engine() -> None:
    engine = CPU.load(affine_source(), ONE_THREAD)
    results = [engine.run({"x": X})["y"] for _ in range(20)]
    engine.close()
    del engine
    gc.collect()
    for result in results:
        np.testing.assert_array_equal(result.numpy(), X @ WEIGHT)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "has the inputs x; asked with none"),
        ({"x": X, "w": X}, "has the inputs x; asked with x, w"),
        ({"X": X}, "asked with X"),
        ({"x": X.astype(np.float64)}, "'x' is float64, expected float32"),
        ({"x": X.astype(np.float16)}, "'x' is float16, expected float32"),
        ({"x": X.astype(np.int64)}, r"astype\('float32'\)"),
        ({"x": X.astype(">f4")}, "expected float32"),
        ({"x": X.astype(object)}, "'x' is object"),
        ({"x": X[:, :3]}, "index: 1 Got: 3 Expected: 4"),
        ({"x": X[0]}, "Invalid rank for input: x Got: 1 Expected: 2"),
        ({"x": X[None]}, "Invalid rank"),
    ],
)
def test_wrong_feeds(engine: Engine, feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineRunError, match=message):
        engine.run(feeds)


def test_tensor_of_the_wrong_type(engine: Engine) -> None:
    value = onnxruntime.OrtValue.ortvalue_from_numpy(X.astype(np.float64))
    with pytest.raises(EngineRunError, match="expected float32"):
        engine.run({"x": OrtTensor(value)})


def test_unknown_outputs(engine: Engine) -> None:
    with pytest.raises(EngineRunError, match="has the outputs y, z; asked with q"):
        engine.run({"x": X}, ["q"])


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
def test_broken_graphs(cut: int) -> None:
    onnx = negation_model()
    with pytest.raises(EngineRunError, match="the graph 'graph' could not be loaded by onnxr"):
        load(onnx[:cut])
    with pytest.raises(EngineRunError, match="could not be loaded"):
        load(b"\xff" * 100)


def test_unknown_operator() -> None:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    with pytest.raises(EngineRunError, match="NoSuchOperator"):
        load(make_model([node], {"x": [1]}, {"y": [1]}))


def test_messages_name_no_internals(capfd: pytest.CaptureFixture[str]) -> None:
    """A failure inside a kernel: no source file, code or address; nothing on the terminal."""
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    engine = load(make_model(nodes, {"x": ["n", 4]}, {"y": None}))
    with pytest.raises(EngineRunError, match=r"the graph 'graph' failed: .*MatMul") as caught:
        engine.run({"x": np.ones((3, 4), np.float32)})
    for internal in ("ONNXRuntimeError", ".h", ".cc", "0x", "onnxruntime_src"):
        assert internal not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_close(engine: Engine) -> None:
    engine.close()
    engine.close()
    for _ in range(3):
        with pytest.raises(ClosedError, match="Load the model again"):
            engine.run({"x": X})


def test_close_during_runs() -> None:
    """Runs under way end well, later ones raise ClosedError, nothing crashes."""
    for _ in range(20):
        engine, failures, started = CPU.load(affine_source(), ONE_THREAD), [], threading.Barrier(5)
        threads = [
            threading.Thread(target=run_until_closed, args=(engine, started, failures))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        started.wait()
        engine.close()
        for thread in threads:
            thread.join()
        assert failures == []


def run_until_closed(engine: Engine, started: threading.Barrier, failures: list[object]) -> None:
    started.wait()
    try:
        while True:
            if not np.array_equal(engine.run({"x": X})["y"].numpy(), X @ WEIGHT):
                failures.append("wrong result")
    except ClosedError:
        return
    except Exception as error:
        failures.append(error)


@pytest.mark.parametrize(
    ("count", "calls"),
    [(2, 50), (8, 50), *(pytest.param(n, 1000, marks=pytest.mark.slow) for n in (2, 8, 32))],
)
def test_many_threads_get_what_one_gets(count: int, calls: int) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    data = serialise_weights({"w": weight})
    tensor = external_tensor("w", weight, "w", weight_offsets(data)["w"])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"]),
    ]
    onnx = make_model(nodes, {"x": ["n", 64]}, {"y": ["n", 64]}, [tensor])
    source = GraphSource("g", onnx, parse_weights(data), {"w": data})
    engine = CPU.load(source, EngineOptions(threads=2))
    feeds = np.random.default_rng(1).standard_normal((count, 50, 64)).astype(np.float32)
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


def test_an_engine_cannot_be_pickled(engine: Engine) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(engine)


@pytest.mark.parametrize("threads", [0, -1])
def test_thread_counts(threads: int) -> None:
    with pytest.raises(EngineRunError, match="threads must be at least 1"):
        CPU.load(affine_source(), EngineOptions(threads=threads))


def test_options_reach_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = onnxruntime.InferenceSession

    def record(*args: Any, **kwargs: Any) -> Any:
        seen.append((args[1], kwargs["providers"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    monkeypatch.setattr("samclip.engines.onnxruntime.backend.usable_cores", lambda: 5)
    CPU.load(affine_source(), EngineOptions(threads=3))
    CPU.load(affine_source(), EngineOptions())
    assert [options.intra_op_num_threads for options, _ in seen] == [3, 5]
    assert not any(options.enable_mem_pattern for options, _ in seen)
    assert [providers for _, providers in seen] == [["CPUExecutionProvider"]] * 2


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


def test_close_gives_memory_back() -> None:
    rng = np.random.default_rng(0)  # ONNX Runtime keeps equal weights once
    weights = {f"w{i}": rng.random((512, 2048), np.float32) for i in range(16)}  # 4 MiB each
    data = serialise_weights(weights)
    places = weight_offsets(data)
    tensors = [external_tensor(name, w, "w", places[name]) for name, w in weights.items()]
    nodes = [
        node
        for i in range(16)
        for node in (
            helper.make_node("MatMul", ["x", f"w{i}"], [f"h{i}"]),
            helper.make_node("Add", [f"s{i - 1}" if i else "h0", f"h{i}"], [f"s{i}"]),
        )
    ]
    onnx = make_model(nodes, {"x": ["n", 512]}, {"s15": ["n", 2048]}, tensors)
    source = GraphSource("g", onnx, parse_weights(data), {"w": data})
    release_free_memory()  # else the weights go where other tests' memory was
    before = resident()
    engine = CPU.load(source, ONE_THREAD)
    engine.run({"x": np.ones((1, 512), np.float32)})
    assert resident() - before >= 60e6  # bytes: the weights as ONNX Runtime packs them
    engine.close()
    gc.collect()
    assert resident() - before <= 20e6


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class FallenBack:
    """An ONNX Runtime that lists CUDA and then runs on the CPU, as it does without a GPU."""

    __version__ = "1.99"
    SessionOptions = onnxruntime.SessionOptions
    OrtValue = onnxruntime.OrtValue

    @staticmethod
    def get_available_providers() -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    @staticmethod
    def InferenceSession(onnx: bytes, options: Any, **_: Any) -> Any:  # noqa: N802
        return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def fallen_back(monkeypatch: pytest.MonkeyPatch) -> type[FallenBack]:
    monkeypatch.setattr(ort_library, "import_library", lambda: FallenBack)
    monkeypatch.setattr(ort_library, "find_driver", lambda: "/dev/nvidiactl")
    return FallenBack


def test_silent_fall_back_to_the_cpu_is_an_error(fallen_back: type[FallenBack]) -> None:
    assert CUDA.probe().available
    with pytest.raises(BackendUnavailableError, match=r"could not start CUDAExecutionProvider on "):
        load(negation_model(), CUDA)


def test_a_provider_that_raises_is_an_unavailable_backend(
    fallen_back: type[FallenBack], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")

    monkeypatch.setattr(fallen_back, "InferenceSession", staticmethod(fail))
    with pytest.raises(BackendUnavailableError, match="use backend='onnxruntime'"):
        load(negation_model(), CUDA)


@pytest.mark.gpu
def test_cuda_keeps_outputs_on_the_gpu() -> None:
    engine = CUDA.load(affine_source(), EngineOptions())
    first = engine.run({"x": X})
    assert isinstance(first["y"], OrtTensor)
    assert first["y"].is_on("cuda")
    np.testing.assert_allclose(first["y"].numpy(), X @ WEIGHT, rtol=1e-6)
    again = load(negation_model(), CUDA).run({"x": load(negation_model(), CUDA).run({"x": X})["y"]})
    np.testing.assert_array_equal(again["y"].numpy(), X)
    on_cpu = load(negation_model()).run({"x": again["y"]})
    np.testing.assert_array_equal(on_cpu["y"].numpy(), -X)


def test_is_initializer_needs_the_whole_name() -> None:
    names = ["w", "w.long", "n" * 130, "ü"]
    tensors = [TensorProto(name=name, data_type=1, dims=[0]) for name in names]
    onnx = make_model([helper.make_node("Neg", ["x"], ["y"])], {"x": [1]}, {"y": [1]}, tensors)
    assert all(ort_library.is_initializer(onnx, name) for name in names)
    assert not any(ort_library.is_initializer(onnx, name) for name in ("x", "y", "w.lon", "n", ""))
