"""The contract of every engine: ONNX Runtime's, OpenVINO's, and TensorRT's on its stand-in.

Each backend's test file has its special features. TensorRT runs plans: its stand-in computes
the graph that a plan was "built" from, so tests about reading graphs are for the others alone.
"""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_tensorrt import MAGIC
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from own_process import run_alone
from tensorrt_bench import CUDA_PACKAGES, Bench, cast_model, tensorrt_bench
from tiny_bundle import (
    WEIGHT,
    WEIGHTS_FILE,
    affine_model,
    external_tensor,
    make_model,
    negation_model,
)

from samclip.engines.base import Backend, Engine, EngineOptions, GraphSource, Tensor
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.openvino.backend import OPENVINO
from samclip.engines.tensorrt.backend import TENSORRT
from samclip.errors import ClosedError, EngineRunError
from samclip.runtime.bundles.weights import parse_weights, serialise_weights, weight_offsets

X = np.arange(8, dtype=np.float32).reshape(2, 4)
READERS = ("onnxruntime", "openvino")  # backends that read the graph itself
MOST = 64  # the size that plans of the stand-in allow dynamic axes


class Subject:
    """A backend under test; engines that it loads are closed after the test."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.engines: list[Engine] = []

    def load(self, source: GraphSource, **options: Any) -> Engine:
        self.engines.append(self.backend.load(source, EngineOptions(**{"threads": 1, **options})))
        return self.engines[-1]

    def close(self) -> None:
        while self.engines:
            self.engines.pop().close()


class PlanSubject(Subject):
    """TensorRT on its stand-in: a plan of each graph is stored before it is loaded."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(TENSORRT)
        self.bench = bench

    def load(self, source: GraphSource, **options: Any) -> Engine:
        model = onnx.load_model_from_string(source.onnx)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(source.weights[tensor.name], tensor.name))
        self.bench.module.bounds = dict(map(bounds, model.graph.input))
        self.bench.store(source, plan=MAGIC + model.SerializeToString())
        return super().load(source, **options)


def bounds(value: onnx.ValueInfoProto) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """The least, best and most shape of an input whose named axes have 0 to `MOST` rows."""
    dims = value.type.tensor_type.shape.dim
    sizes = [(0, 2, MOST) if d.dim_param else (d.dim_value,) * 3 for d in dims]
    return value.name, tuple(zip(*sizes, strict=True)) or ((), (), ())


def make_subject(name: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Subject]:
    """The backend of this name; "tensorrt" comes with the package that drives CUDA."""
    if name in CUDA_PACKAGES:
        with tensorrt_bench(name, monkeypatch, cache) as bench:
            subject: Subject = PlanSubject(bench)
            yield subject
            subject.close()
        return
    if name == "openvino":
        pytest.importorskip("openvino")
    subject = Subject({"onnxruntime": CPU, "openvino": OPENVINO}[name])
    yield subject
    subject.close()


@pytest.fixture(params=[*READERS, *CUDA_PACKAGES])
def subject(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Subject]:
    yield from make_subject(request.param, monkeypatch, tmp_path / "cache")


@pytest.fixture(params=READERS)
def reader(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Subject]:
    yield from make_subject(request.param, monkeypatch, tmp_path / "cache")


def affine_source() -> GraphSource:
    onnx_bytes, data = affine_model()
    return GraphSource("affine", onnx_bytes, parse_weights(data), {WEIGHTS_FILE: data})


@pytest.fixture
def engine(subject: Subject) -> Engine:
    return subject.load(affine_source())


def graph(onnx_bytes: bytes) -> GraphSource:
    return GraphSource("graph", onnx_bytes)


def test_names(engine: Engine) -> None:
    for _ in range(2):
        assert engine.input_names == ("x",)
        assert engine.output_names == ("y", "z")
        engine.close()  # they stay known


def test_run(engine: Engine) -> None:
    for _ in range(4):  # TensorRT's: plain, captured, replayed
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


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL])
def test_types_of_outputs(subject: Subject, kind: int) -> None:
    got = subject.load(graph(cast_model(kind))).run({"x": X})["y"].numpy()
    assert got.dtype == helper.tensor_dtype_to_np_dtype(kind)
    np.testing.assert_array_equal(got, X.astype(got.dtype))


@pytest.mark.parametrize(
    "x",
    [
        X[::-1],
        X.T.copy().T,
        np.asfortranarray(X),
        np.repeat(X, 2, axis=0)[::2],
        np.zeros((0, 4), np.float32),
        np.frombuffer(X.tobytes(), np.float32).reshape(2, 4),  # read-only
    ],
)
def test_any_layout_of_inputs(engine: Engine, x: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(engine.run({"x": x})["y"].numpy(), x @ WEIGHT)


def test_scalar_inputs_stay_scalars(subject: Subject) -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    engine = subject.load(graph(make_model([node], {"x": []}, {"y": []})))
    got = engine.run({"x": np.array(2, np.float32)})
    assert got["y"].shape == ()
    assert got["y"].numpy() == -2


def test_nan_and_infinity_pass_through(subject: Subject) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0]], np.float32)
    got = subject.load(graph(negation_model())).run({"x": x})
    np.testing.assert_array_equal(got["y"].numpy(), -x)


def test_outputs_feed_the_next_engine(subject: Subject, engine: Engine) -> None:
    first = subject.load(graph(negation_model())).run({"x": X})
    np.testing.assert_array_equal(engine.run({"x": first["y"]})["z"].numpy(), X @ WEIGHT)


def test_tensors_of_other_backends_are_taken(engine: Engine) -> None:
    class Other:
        shape = X.shape
        dtype = X.dtype

        def numpy(self) -> NDArray[np.generic]:
            return X

    theirs = CPU.load(graph(negation_model()), EngineOptions(threads=1)).run({"x": -X})
    for tensor in (Other(), theirs["y"]):
        np.testing.assert_array_equal(engine.run({"x": tensor})["y"].numpy(), X @ WEIGHT)


def test_outputs_outlive_their_engine_and_later_runs(subject: Subject) -> None:
    engine = subject.load(affine_source())
    tensors = [engine.run({"x": X + i})["y"] for i in range(20)]
    arrays = [tensor.numpy() for tensor in tensors[10:]]
    del tensors[10:]
    subject.close()
    del engine
    gc.collect()
    for i, result in enumerate([*(tensor.numpy() for tensor in tensors), *arrays]):
        np.testing.assert_array_equal(result, (X + i) @ WEIGHT)


def test_outputs_do_not_change_with_their_input(engine: Engine) -> None:
    x = X.copy()
    result = engine.run({"x": x})["y"]
    x[...] = 0
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
        ({"x": X[:, :3]}, "'affine'"),
        ({"x": X[0]}, "'affine'"),
        ({"x": X[None]}, "'affine'"),
    ],
)
def test_wrong_feeds(engine: Engine, feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineRunError, match=message):
        engine.run(feeds)
    np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), X @ WEIGHT)  # it goes on


def test_tensor_of_the_wrong_type(subject: Subject, engine: Engine) -> None:
    integers = subject.load(graph(cast_model(TensorProto.INT64))).run({"x": X})["y"]
    with pytest.raises(EngineRunError, match=r"'x' is .*int64.*, expected float32"):
        engine.run({"x": integers})


def test_unknown_outputs(engine: Engine) -> None:
    with pytest.raises(EngineRunError, match="has the outputs y, z; asked with q"):
        engine.run({"x": X}, ["q"])


def test_close(engine: Engine) -> None:
    engine.close()
    engine.close()
    for _ in range(3):
        with pytest.raises(ClosedError, match="Load the model again"):
            engine.run({"x": X})


def test_close_during_runs(subject: Subject) -> None:
    """Runs under way end well, later ones raise ClosedError, nothing crashes."""
    for _ in range(20):
        engine, failures, started = subject.load(affine_source()), [], threading.Barrier(5)
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


@pytest.mark.parametrize("same_shape", [True, False])
@pytest.mark.parametrize(
    ("count", "calls"),
    [(2, 50), (8, 50), *(pytest.param(n, 1000, marks=pytest.mark.slow) for n in (2, 8, 32))],
)
def test_many_threads_get_what_one_gets(
    subject: Subject, count: int, calls: int, same_shape: bool
) -> None:
    """Callers at once, also with different shapes: the mask decoder's batch is dynamic."""
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    data = serialise_weights({"w": weight})
    tensor = external_tensor("w", weight, "w", weight_offsets(data)["w"])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"]),
    ]
    onnx_bytes = make_model(nodes, {"x": ["n", 64]}, {"y": ["n", 64]}, [tensor])
    source = GraphSource("g", onnx_bytes, parse_weights(data), {"w": data})
    engine = subject.load(source, threads=2)
    rng = np.random.default_rng(1)
    rows = [50 if same_shape else 20 + number for number in range(count)]
    feeds = [rng.standard_normal((n, 64)).astype(np.float32) for n in rows]
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
def test_a_forked_child_is_asked_to_load_again(engine: Engine) -> None:
    child = os.fork()
    if child == 0:
        try:
            engine.run({"x": X})
        except EngineRunError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert engine.run({"x": X})["y"].shape == (2, 3)  # the parent's still works


class TimeLimitError(Exception):
    """What a caller's own time limit raises, from a signal handler."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_a_callers_time_limit_passes_through(reader: Subject) -> None:
    """At any moment of a run it reaches the caller as it is; the engine answers afterwards."""
    engine = reader.load(affine_source())
    rng = random.Random(0)

    def ring(*_: object) -> None:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(100):
            with pytest.raises(TimeLimitError):
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 2e-3))
                for _ in range(100_000):
                    engine.run({"x": X})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), X @ WEIGHT)


def test_a_stack_that_is_too_deep_passes_through(engine: Engine) -> None:
    """The error of too many calls is Python's, not one about the shapes of inputs."""

    def deeper() -> None:
        engine.run({"x": X})
        deeper()

    with pytest.raises(RecursionError):
        deeper()
    np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), X @ WEIGHT)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_a_signal_handler_may_run_the_engine(reader: Subject) -> None:
    """In the middle of a run of its own thread, whose answer it does not change."""
    engine = reader.load(affine_source())
    inner: list[NDArray[np.generic]] = []
    before = signal.signal(
        signal.SIGALRM, lambda *_: inner.append(engine.run({"x": -X})["y"].numpy())
    )
    try:
        for number in range(300):  # once in each run: a handler must not interrupt itself for ever
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + 7 * number % 100))
            np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), X @ WEIGHT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert inner
    for found in inner:
        np.testing.assert_array_equal(found, -X @ WEIGHT)


def test_an_engine_cannot_be_pickled(engine: Engine) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(engine)


@pytest.mark.parametrize("threads", [0, -1])
def test_thread_counts(subject: Subject, threads: int) -> None:
    with pytest.raises(EngineRunError, match="threads must be at least 1"):
        subject.load(affine_source(), threads=threads)


def test_weights_may_go_after_loading(reader: Subject) -> None:
    """Nothing reads freed memory or a removed file."""
    table = np.arange(4_000_000, dtype=np.float32)  # large enough to be unmapped when freed
    data = serialise_weights({"table": table})
    tensor = external_tensor("table", table, "w", weight_offsets(data)["table"])
    node = helper.make_node("Add", ["x", "table"], ["y"])
    onnx_bytes = make_model([node], {"x": [1]}, {"y": [table.size]}, [tensor])
    engine = reader.load(GraphSource("g", onnx_bytes, parse_weights(data), {"w": data}))
    del data
    gc.collect()
    got = engine.run({"x": np.ones(1, np.float32)})["y"].numpy()
    np.testing.assert_array_equal(got, table + 1)


def test_weights_come_from_verified_bytes_alone(
    reader: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder's file of that name is not read, nor is the bundle's own."""
    onnx_bytes, data = affine_model()
    other = data.replace(WEIGHT.tobytes(), (WEIGHT + 1).tobytes())
    (tmp_path / WEIGHTS_FILE).write_bytes(other)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineRunError, match="could not be loaded"):
        reader.load(graph(onnx_bytes))
    got = reader.load(affine_source()).run({"x": X})["y"]
    np.testing.assert_array_equal(got.numpy(), X @ WEIGHT)


@pytest.mark.parametrize("location", ["../w", "/etc/hostname", "a/../../w"])
def test_external_data_elsewhere_is_refused(reader: Subject, location: str) -> None:
    with pytest.raises(EngineRunError, match="could not be loaded"):
        reader.load(graph(affine_model(location)[0]))


@pytest.mark.parametrize(
    "onnx_bytes", [b"", b"\xff" * 100, *(negation_model()[:n] for n in (1, 50, -1))]
)
def test_broken_graphs(reader: Subject, onnx_bytes: bytes) -> None:
    message = f"the graph 'graph' could not be loaded by {reader.backend.name}"
    with pytest.raises(EngineRunError, match=message):
        reader.load(graph(onnx_bytes))


def test_unknown_operator(reader: Subject) -> None:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    with pytest.raises(EngineRunError, match="NoSuchOperator"):
        reader.load(graph(make_model([node], {"x": [1]}, {"y": [1]})))


def test_messages_name_no_internals(reader: Subject, capfd: pytest.CaptureFixture[str]) -> None:
    """A failure inside a kernel: no source file, code or address; nothing on the terminal."""
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    source = graph(make_model(nodes, {"x": ["n", 4]}, {"y": None}))
    is_onnxruntime = reader.backend is CPU
    engine = reader.load(source, threads=1 if is_onnxruntime else 2)  # with 1 OpenVINO says nothing
    with pytest.raises(EngineRunError, match=r"the graph 'graph' failed: .*MatMul") as caught:
        engine.run({"x": np.ones((3, 4), np.float32)})
    ours = ("ONNXRuntimeError", ".h", ".cc", "onnxruntime_src")
    theirs = ("Exception from", ".cpp", ".hpp", "src/")
    for internal in ("0x", *(ours if is_onnxruntime else theirs)):
        assert internal not in str(caught.value)
    assert capfd.readouterr() == ("", "")


MANY_SHAPES = """
import sys
import numpy as np
from own_process import resident
from tiny_bundle import negation_model
from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.openvino.backend import OPENVINO

backend = {backend.name: backend for backend in (CPU, OPENVINO)}[sys.argv[1]]
source = GraphSource("graph", negation_model(), {}, {})
engine = backend.load(source, EngineOptions(threads=1))
rng = np.random.default_rng(0)
seen = []
for count in (100, 300):
    for rows in rng.integers(1, 20_000, count):
        engine.run({"x": np.ones((rows, 4), np.float32)})
    seen.append(resident())
print(seen[1] - seen[0])
"""


def test_many_shapes_keep_memory_bounded(reader: Subject) -> None:
    """Dynamic shapes, as the mask decoder has: after a warm-up the process stays within 20 MB."""
    assert run_alone(MANY_SHAPES, reader.backend.name) <= 20e6  # bytes
