"""The special features of ONNX Runtime's engines; `test_contract.py` has the common ones."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
from library_faults import failing
from numpy.typing import NDArray
from onnx import TensorProto, helper
from own_process import resident, run_alone
from tiny_bundle import (
    WEIGHT,
    WEIGHTS_FILE,
    affine_model,
    external_tensor,
    make_model,
    negation_model,
)

from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.engines.machine.host import release_free_memory
from samclip.engines.onnxruntime import library as ort_library
from samclip.engines.onnxruntime.backend import (
    BF16_PRODUCTS,
    CPU,
    CUDA,
    OnnxRuntimeBackend,
    OrtTensor,
    to_ort_value,
)
from samclip.errors import BackendUnavailableError, EngineRunError
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


def test_weights_that_came_by_name_may_go_after_loading() -> None:
    """Nothing reads freed memory."""
    table = np.arange(4_000_000, dtype=np.float32)  # large enough to be unmapped when freed
    data = serialise_weights({"table": table})
    tensor = external_tensor("table", table, "w", weight_offsets(data)["table"])
    node = helper.make_node("Add", ["x", "table"], ["y"])
    onnx = make_model([node], {"x": [1]}, {"y": [table.size]}, [tensor])
    engine = CPU.load(GraphSource("g", onnx, parse_weights(data)), ONE_THREAD)
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


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:, :3], "index: 1 Got: 3 Expected: 4"),
        (X[0], "Invalid rank for input: x Got: 1 Expected: 2"),
        (X[None], "Invalid rank"),
    ],
)
def test_wrong_shapes_are_explained(engine: Engine, x: NDArray[np.float32], message: str) -> None:
    with pytest.raises(EngineRunError, match=message):
        engine.run({"x": x})


def test_tensor_of_the_wrong_type(engine: Engine) -> None:
    value = onnxruntime.OrtValue.ortvalue_from_numpy(X.astype(np.float64))
    with pytest.raises(EngineRunError, match="expected float32"):
        engine.run({"x": OrtTensor(value)})


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


@pytest.mark.parametrize(("cores", "spins"), [(2, "0"), (3, "1")])
def test_threads_leave_the_cores_to_others(
    cores: int, spins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the sessions of other graphs after a run; of two cores also to other programs."""
    seen = []
    original = onnxruntime.InferenceSession

    def record(*args: Any, **kwargs: Any) -> Any:
        seen.append(args[1])
        return original(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    monkeypatch.setattr("samclip.engines.onnxruntime.backend.usable_cores", lambda: cores)
    CPU.load(affine_source(), EngineOptions()).close()
    (options,) = seen
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    try:
        found = options.get_session_config_entry("session.intra_op.allow_spinning")
    except RuntimeError:  # not set: ONNX Runtime's default
        found = "1"
    assert found == spins


def test_bf16_reaches_the_session_unless_outputs_must_be_fp32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    original = onnxruntime.InferenceSession

    def record(onnx: bytes, options: Any, **given: Any) -> Any:
        with contextlib.suppress(RuntimeError):  # it has no such entry
            seen.append(options.get_session_config_entry(BF16_PRODUCTS))
        return original(onnx, options, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    CPU.load(affine_source(), EngineOptions())
    CPU.load(affine_source(), EngineOptions(precision="bf16", fp32_outputs=("y",)))
    assert seen == []
    CPU.load(affine_source(), EngineOptions(precision="bf16"))
    assert seen == ["1"]


GROWTH = """
import json, runpy, sys
print(json.dumps(runpy.run_path(sys.argv[1])["measure_growth"]()))
"""


def test_close_gives_memory_back() -> None:
    """In a process of its own, for here the weights may go where other tests' memory was."""
    loaded, closed = run_alone(GROWTH, __file__)
    assert loaded >= 60e6  # bytes: the weights as ONNX Runtime packs them
    assert closed <= 20e6


def measure_growth() -> tuple[int, int]:
    """Return by how many bytes the process grew with a loaded engine, and after it was closed."""
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
    release_free_memory()
    before = resident()
    engine = CPU.load(source, ONE_THREAD)
    engine.run({"x": np.ones((1, 512), np.float32)})
    loaded = resident() - before
    engine.close()
    gc.collect()
    return loaded, resident() - before


UNOPTIMISED = """
import json, runpy, sys
print(json.dumps(runpy.run_path(sys.argv[1])["measure_small_weights"]()))
"""


def test_an_engine_that_is_not_optimised_leaves_small_weights_small() -> None:
    optimised, as_written, difference = run_alone(UNOPTIMISED, __file__)
    assert optimised >= 60e6  # bytes: INT8 weights, expanded to FP32
    assert as_written <= 40e6
    assert difference <= 1e-6  # relative: the same products, by other kernels


def measure_small_weights() -> tuple[int, int, float]:
    """Return by how much the process grows with 16 MiB of INT8 weights, optimised and not.

    And how far the answers differ, relative to the largest.
    """
    rng = np.random.default_rng(0)
    weights = [rng.integers(-127, 128, (512, 2048), np.int8) for _ in range(16)]
    nodes = [
        node
        for i in range(16)
        for node in (
            helper.make_node("Cast", [f"w{i}"], [f"f{i}"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", f"f{i}"], [f"h{i}"]),
            helper.make_node("Add", [f"s{i - 1}" if i else "h0", f"h{i}"], [f"s{i}"]),
        )
    ]
    data = serialise_weights({f"w{i}": w for i, w in enumerate(weights)})
    places = weight_offsets(data)
    tensors = [external_tensor(f"w{i}", w, "w", places[f"w{i}"]) for i, w in enumerate(weights)]
    onnx = make_model(nodes, {"x": ["n", 512]}, {"s15": ["n", 2048]}, tensors)
    source = GraphSource("g", onnx, parse_weights(data), {"w": data})
    x = rng.random((4, 512), np.float32)
    grown, answers = [], []
    for optimise in (True, False):
        release_free_memory()
        before = resident()
        engine = CPU.load(source, EngineOptions(threads=1, optimise=optimise))
        grown.append(resident() - before)
        answers.append(engine.run({"x": x})["s15"].numpy())
        engine.close()
        gc.collect()
    difference = np.abs(answers[0] - answers[1]).max() / np.abs(answers[0]).max()
    return grown[0], grown[1], float(difference)


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
    error = RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
    fail = failing("onnxruntime", error)
    monkeypatch.setattr(fallen_back, "InferenceSession", staticmethod(fail))
    with pytest.raises(BackendUnavailableError, match="use backend='onnxruntime'"):
        load(negation_model(), CUDA)


class OnCuda:
    """An `OrtValue` on a GPU, whose number it does not tell."""

    device_name = staticmethod(lambda: "cuda")
    data_type = staticmethod(lambda: "tensor(float)")
    numpy = staticmethod(lambda: X)


@pytest.mark.parametrize(("index", "stays"), [(0, False), (1, True)])
def test_a_tensor_of_another_gpu_comes_over_the_host(index: int, stays: bool) -> None:
    tensor = OrtTensor(OnCuda(), index=1)
    assert tensor.is_on("cuda", index) == stays
    assert not tensor.is_on("cpu")
    given = to_ort_value(onnxruntime, "x", tensor, "tensor(float)", "cuda", index)
    assert (given is tensor.value) == stays
    np.testing.assert_array_equal(given.numpy(), X)


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
