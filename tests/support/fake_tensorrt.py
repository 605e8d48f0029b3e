"""TensorRT's runtime in front of `FakeGpu`: plans are ONNX graphs, ONNX Runtime computes them.

What TensorRT leaves undefined raises `Broken`: a context used by two threads at once or without
shapes and addresses, memory that is too small, a captured graph whose context changed since, an
engine or context that outlives what it needs.
"""

from __future__ import annotations

import enum
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from fake_gpu import Broken, FakeGpu
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidProtobuf
from recorded_tensorrt import RTX, recorded_api

MAGIC = b"FAKEPLAN"
STRIPPED = b"STRIPPED"  # behind it: a plan that lacks the weights which `needs` names
TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(bfloat16)": ("BF16", None),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(bool)": ("BOOL", np.bool_),
}
Bounds = Mapping[str, tuple[tuple[int, ...], ...]]


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class FakeTensorRt:
    """The module. `bounds`: least, best and most shape of each dynamic input; `activations`:
    bytes that an execution context takes on the GPU; `seconds`: that a run takes at least;
    `needs`: the weights that a stripped plan lacks; `in_memory`: whether refitting takes them so,
    as from 10.13 on."""

    __name__ = "fake_tensorrt"
    __version__ = "10.3.0"
    ILogger = ILogger
    TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
    TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
    TensorFormat = enum.Enum("TensorFormat", ["LINEAR", "CHW32"])

    def __init__(
        self, gpu: FakeGpu, bounds: Bounds | None = None, activations: int = 0, seconds: float = 0
    ) -> None:
        self.gpu = gpu
        self.bounds = bounds or {}
        self.activations = activations
        self.seconds = seconds
        self.given: list[bytes] = []  # the plans that were deserialised
        self.alive: set[object] = set()
        self.fail_next_run = False
        self.needs: tuple[str, ...] = ()
        self.in_memory = False
        self.pieces: list[int] = []  # that the plans were read in

    def Runtime(self, logger: ILogger) -> FakeRuntime:  # noqa: N802
        return FakeRuntime(self, logger)

    def Refitter(self, engine: FakeEngine, logger: ILogger) -> FakeRefitter:  # noqa: N802
        self.gpu.need_context()
        return FakeRefitter(engine)

    def OnnxParserRefitter(self, refitter: FakeRefitter, logger: ILogger) -> Any:  # noqa: N802
        return (InMemoryParser if self.in_memory else FileParser)(refitter)


SeekPosition = enum.Enum("SeekPosition", ["SET", "CUR", "END"])


class StreamReader:
    """The base of readers, which must be initialised by name."""

    is_ready = False

    def __init__(self) -> None:
        self.is_ready = True


class NewerTensorRt(FakeTensorRt):
    """A TensorRT that reads plans from streams."""

    __version__ = "11.4.0.106"
    IStreamReaderV2 = StreamReader


class FakeRtx(FakeTensorRt):
    """TensorRT for RTX: kernels are compiled on the GPU, for each shape of the inputs.

    `environment`: what a cache of kernels must be of; `compiled`: how often the kernels of a shape
    were compiled; `slow`: how many runs took others because these were not ready; `graphs`: how
    many graphs it captured by itself; `has_graphs`: False before 1.2.
    """

    __version__ = "1.7.1.116"
    IStreamReaderV2 = StreamReader
    DynamicShapesKernelSpecializationStrategy = enum.Enum(
        "DynamicShapesKernelSpecializationStrategy", ["LAZY", "EAGER", "NONE"]
    )
    CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])

    def __init__(self, gpu: FakeGpu, bounds: Bounds | None = None) -> None:
        super().__init__(gpu, bounds)
        self.environment = "RTX 1.7.1 on sm86, driver 580"
        self.compiled = self.slow = self.graphs = 0
        self.has_graphs = True


class FakeRuntimeCache:
    def __init__(self, module: FakeRtx) -> None:
        self._module = module
        self._kernels: set[str] = set()

    def serialize(self) -> memoryview:
        self._module.gpu.need_context()
        content = [self._module.environment, *sorted(self._kernels)]
        return memoryview("\n".join(content).encode())

    def deserialize(self, data: bytes) -> bool:
        self._module.gpu.need_context()
        environment, *kernels = data.decode().split("\n")
        if environment != self._module.environment:
            return False
        self._kernels |= set(kernels)
        return True


class FakeRuntimeConfig:
    """Its names are those of the recorded API; an engine's settings do not outlive it."""

    NAMES = frozenset(recorded_api(RTX)["IRuntimeConfig"])

    def __init__(self, engine: FakeEngine) -> None:
        module: Any = engine.module
        self._module, self._engine, self._cache = module, id(engine), FakeRuntimeCache(module)
        self.dynamic_shapes_kernel_specialization_strategy = (
            module.DynamicShapesKernelSpecializationStrategy.LAZY
        )
        if module.has_graphs:
            self.cuda_graph_strategy = module.CudaGraphStrategy.DISABLED

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self.NAMES:
            raise AttributeError(name)
        object.__setattr__(self, name, value)

    def __del__(self) -> None:
        if self._engine not in self._module.alive:
            raise Broken("settings outlive their engine")

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache(self._module)

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self._cache = cache
        return True


class FakeRuntime:
    engine_host_code_allowed = False

    def __init__(self, module: FakeTensorRt, logger: ILogger) -> None:
        self.module, self.logger = module, logger
        module.alive.add(id(self))

    def deserialize_cuda_engine(self, plan: Any) -> FakeEngine | None:
        self.module.gpu.need_context()
        if not isinstance(plan, bytes):
            plan = self._read(plan)
        self.module.given.append(plan)
        if not plan.startswith(MAGIC):
            self.logger.log(Severity.ERROR, "Serialization assertion magicTag failed")
            return None
        try:
            return FakeEngine(self, plan.removeprefix(MAGIC))
        except InvalidProtobuf:
            self.logger.log(Severity.ERROR, "Serialization assertion: stream is too short")
            return None

    def _read(self, reader: Any) -> bytes:
        """Look at the header first, then ask for all that is left until there is no more."""
        if not isinstance(reader, getattr(self.module, "IStreamReaderV2", ())):
            raise TypeError("incompatible function arguments")
        if not reader.is_ready:
            raise Broken("a reader whose base was not initialised")
        header, parts = reader.read(len(MAGIC), 0), []
        if not reader.seek(0, SeekPosition.SET):
            raise Broken("a reader that cannot go back")
        while part := reader.read(2**40, 0):
            parts.append(part)
        self.module.pieces.append(len(parts))
        return b"".join(parts) if header == MAGIC else header

    def __del__(self) -> None:
        self.module.alive.discard(id(self))


class FakeEngine:
    def __init__(self, runtime: FakeRuntime, onnx: bytes) -> None:
        self.module, self.logger = runtime.module, runtime.logger
        self.lacking = set(self.module.needs) if onnx.startswith(STRIPPED) else set()
        self.is_whole, onnx = not onnx.startswith(STRIPPED), onnx.removeprefix(STRIPPED)
        self.runtime = id(runtime)  # no reference: the holder of the engine must hold that too
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(onnx, options)
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self.nodes = {**self.inputs, **self.outputs}
        self.names = list(self.nodes)
        self.num_io_tensors = len(self.names)
        self.module.alive.add(id(self))

    def __del__(self) -> None:
        if not hasattr(self, "session"):  # its plan was refused
            return
        if self.runtime not in self.module.alive or self.module.gpu.retained < 1:
            raise Broken("the engine outlives its runtime or its context")
        self.module.alive.discard(id(self))

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.module.TensorIOMode
        return modes.INPUT if name in self.inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=TYPES[self.nodes[name].type][0])

    def get_tensor_location(self, name: str) -> Any:
        return self.module.TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return self.module.TensorFormat.LINEAR

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.nodes[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return list(self.module.bounds[name])

    def dtype(self, name: str) -> Any:
        return np.dtype(TYPES[self.nodes[name].type][1])

    def create_runtime_config(self) -> FakeRuntimeConfig:
        if not isinstance(self.module, FakeRtx):
            raise AttributeError("create_runtime_config")
        self.module.gpu.need_context()
        return FakeRuntimeConfig(self)

    def create_execution_context(
        self, *, runtime_config: FakeRuntimeConfig | None = None
    ) -> FakeContext | None:
        gpu = self.module.gpu
        gpu.need_context()
        if not self.is_whole:
            raise Broken("a stripped engine runs without its weights")
        if gpu.used + self.module.activations > gpu.memory:
            self.logger.log(
                Severity.ERROR, "Requested amount of GPU memory could not be allocated."
            )
            self.logger.log(Severity.ERROR, "[executionContext.cpp] OutOfMemory: Cuda failure: 2")
            return None
        if isinstance(self.module, FakeRtx):
            return RtxContext(self, runtime_config or FakeRuntimeConfig(self))
        return FakeContext(self)


class FakeRefitter:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def get_missing_weights(self) -> list[str]:
        return sorted(self.engine.lacking)

    def refit_cuda_engine(self) -> bool:
        self.engine.is_whole = not self.engine.lacking
        return self.engine.is_whole


class InMemoryParser:
    num_errors = 0

    def __init__(self, refitter: FakeRefitter) -> None:
        self.engine, self.given = refitter.engine, set[str]()

    def load_model_proto(self, onnx: bytes) -> bool:
        return onnxruntime.InferenceSession(onnx) is not None

    def load_initializer(self, name: str, address: int, size: int) -> bool:
        if not (address and size):
            raise Broken("no weight is there")
        self.given.add(name)
        return name in self.engine.module.needs

    def clear_errors(self) -> None: ...

    def refit_model_proto(self) -> bool:
        self.engine.lacking -= self.given
        return True


class FileParser:
    """Knows the weights from a file of their names, next to the path of the graph."""

    num_errors = 1

    def __init__(self, refitter: FakeRefitter) -> None:
        self.engine = refitter.engine

    def refit_from_bytes(self, onnx: bytes, path: str) -> bool:
        files = [file for file in Path(path).parent.iterdir() if file.is_file()]
        for file in files:
            self.engine.lacking -= set(file.read_text().split())
        return bool(files)

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "Failed to open file")


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.module = engine, engine.module
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.version = 0  # of shapes and addresses
        self.computed = -1  # the version of the last run that was no capture and succeeded
        self.busy = threading.Lock()
        size, gpu = self.module.activations, self.module.gpu
        self.activations = gpu.allocate(size) if size else 0

    def __del__(self) -> None:
        if id(self.engine) not in self.module.alive:
            raise Broken("the context outlives its engine")
        if self.activations:
            self.module.gpu.free(self.activations)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self._alone():
            known = self.engine.get_tensor_shape(name)
            fits = all(want in {-1, size} for want, size in zip(known, shape, strict=True))
            if fits and self.shapes.get(name) != shape:
                self.shapes[name] = shape
                self.version += 1
            return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        self._check_shapes()
        sizes = {
            axis: size
            for key, node in self.engine.inputs.items()
            for axis, size in zip(node.shape, self.shapes[key], strict=True)
        }
        return tuple(
            size if isinstance(size, int) else sizes.get(size, -1)
            for size in self.engine.nodes[name].shape
        )

    def set_tensor_address(self, name: str, address: int) -> bool:
        with self._alone():
            if address % 256:
                raise Broken("an address that is not aligned")
            self.addresses[name] = address
            self.version += 1
            return True

    def execute_async_v3(self, stream: int) -> bool:
        with self._alone():
            self._check_shapes()
            if missing := set(self.engine.names) - set(self.addresses):
                raise Broken(f"no address was set for {missing}")
            if self.module.fail_next_run:
                self.module.fail_next_run = False
                self.engine.logger.log(Severity.ERROR, "IExecutionContext::enqueueV3: error 700")
                return False
            version, shapes = self.version, dict(self.shapes)
            if self.module.gpu.is_recording(stream) and self.computed != version:
                raise Broken("captured before a run of the same shapes and addresses succeeded")
            self.module.gpu.submit(stream, lambda: self._compute(version, shapes), self._watch)
            return True

    def _watch(self) -> Callable[[], None]:
        """Keep the inputs in host memory as they are when a run is enqueued, to compare them."""
        gpu, shapes, addresses = self.module.gpu, dict(self.shapes), dict(self.addresses)
        seen = {
            n: self._view(n, s).copy() for n, s in shapes.items() if gpu.is_mapped(addresses[n])
        }

        def compare() -> None:
            for name, before in seen.items():
                if not np.array_equal(self._view(name, shapes[name]), before, equal_nan=True):
                    raise Broken(f"the host wrote into {name!r} while a run was enqueued")

        return compare

    def _compute(self, version: int, shapes: dict[str, tuple[int, ...]]) -> None:
        with self._alone():
            if version != self.version:
                raise Broken("a captured graph is launched after its context changed")
            time.sleep(self.module.seconds)
            feeds = {name: self._view(name, shape) for name, shape in shapes.items()}
            results = self.engine.session.run(None, {k: v.copy() for k, v in feeds.items()})
            for name, result in zip(self.engine.outputs, results, strict=True):
                self._view(name, result.shape)[...] = result
            self.computed = version

    def _view(self, name: str, shape: tuple[int, ...]) -> Any:
        dtype = self.engine.dtype(name)
        size = math.prod(shape) * dtype.itemsize
        return self.module.gpu.view(self.addresses[name], size).view(dtype).reshape(shape)

    def _check_shapes(self) -> None:
        if missing := set(self.engine.inputs) - set(self.shapes):
            raise Broken(f"no shape was set for {missing}")

    def _alone(self) -> Any:
        if not self.busy.acquire(blocking=False):
            raise Broken("one execution context is used by two threads at once")
        return _Release(self.busy)


class RtxContext(FakeContext):
    """A context of TensorRT for RTX, which may capture its own graphs."""

    module: FakeRtx

    def __init__(self, engine: FakeEngine, config: FakeRuntimeConfig) -> None:
        super().__init__(engine)
        self.config = config
        self.met: set[str] = set()  # shapes of earlier runs
        self.captured = -1  # the version that its own graph is of

    def is_stream_capturable(self, stream: int) -> bool:
        return self.module.gpu.can_capture

    def execute_async_v3(self, stream: int) -> bool:
        captures = False
        if self.module.has_graphs:
            strategies = self.module.CudaGraphStrategy
            captures = self.config.cuda_graph_strategy == strategies.WHOLE_GRAPH_CAPTURE
        if captures and self.module.gpu.is_recording(stream):
            raise Broken("a capture within a capture")
        self._take_kernels(repr(sorted(self.shapes.items())))
        if captures and self.captured != self.version:
            self.captured = self.version
            self.module.graphs += 1
        return super().execute_async_v3(stream)

    def _take_kernels(self, shapes: str) -> None:
        kernels, ways = (
            self.config._cache._kernels,
            self.module.DynamicShapesKernelSpecializationStrategy,
        )
        strategy = self.config.dynamic_shapes_kernel_specialization_strategy
        if strategy != ways.EAGER and shapes not in self.met:
            self.module.slow += 1
        elif shapes not in kernels:
            kernels.add(shapes)
            self.module.compiled += 1
        self.met.add(shapes)


class _Release:
    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._lock.release()
