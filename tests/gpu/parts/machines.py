"""The machine that runs plans: the real one, or the stand-ins of a dry run.

Engines start through `start_engine` on both, so that a dry run takes the same way.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from parts.affine import AffineTensorRt, Kernel, torch_kernel
from parts.torch_here import need_torch
from samclip.engines.base import Engine, EngineOptions, GraphKey, GraphSource, Probe, Traits
from samclip.engines.cuda.device import describe_cuda_package, open_device
from samclip.engines.cuda.memory import CudaTensor, DeviceMemory
from samclip.engines.plans.library import KINDS, DriverState, Library, PlanGpu, examine_gpu
from samclip.engines.registry import get_backend
from samclip.engines.tensorrt import start
from samclip.errors import BackendUnavailableError, DeviceMemoryError

FAKE_MEMORY = 2**29
FAKE_GPU = PlanGpu("stand-in", "9.0", "13.0", FAKE_MEMORY, processors=132)


class LimitedDevice:
    """A device that refuses memory once `is_short` is set, as a full GPU does."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.is_short = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def allocate(self, size: int) -> int:
        if self.is_short:
            raise DeviceMemoryError(f"a limit was set, and {size} bytes are beyond it.")
        return int(self._device.allocate(size))


@dataclass(frozen=True)
class Machine:
    """`open_device` opens the GPU; `load` starts the engine of a bundle's graph on it.

    `kernel`: computes the affine network. `integrated`: the GPU's memory is the machine's, so that
    taking all of it would stop the machine.
    """

    package: str
    gpu: PlanGpu
    open_device: Callable[[int], Any]
    load: Callable[[str, GraphSource, EngineOptions], Engine]
    kernel: Callable[[], Kernel]

    @property
    def integrated(self) -> bool:
        return self.gpu.integrated

    def used(self, index: int) -> float:
        """Return the MiB of the GPU that are taken, by whomever."""
        device = self.open_device(index)
        with device.active():
            free, total = device.free_memory()
        return float(total - free) / 2**20

    def place(self, array: Any, index: int) -> CudaTensor:
        """Copy an array to the GPU."""
        memory = DeviceMemory(self.open_device(index))
        tensor, pinned = memory.tensor(array.shape, array.dtype), memory.pinned.take(array.nbytes)
        staged = pinned.memory[: array.nbytes]
        staged[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with memory.device.active(), memory.stream() as stream:
            memory.device.to_device(tensor.address, staged, stream)
            memory.device.synchronize(stream)
        memory.pinned.give(pinned)
        return tensor

    def affine(self, index: int, **settings: Any) -> tuple[Engine, AffineTensorRt]:
        """Start an engine of the affine network, as the engine of a plan is started."""
        module = AffineTensorRt(self.kernel())
        kind = KINDS["tensorrt"]
        state = DriverState(self.gpu, None, "")
        library = Library(kind, module, module.__version__, state, (), index)
        options = EngineOptions(device=index, **settings)
        source = GraphSource("affine", b"")
        with self.devices():
            return start.start_engine(library, b"affine", False, source, options), module

    @contextmanager
    def devices(self) -> Iterator[None]:
        """Let engines that start open their GPU through `open_device`."""
        before = start.open_device
        start.open_device = self.open_device
        try:
            yield
        finally:
            start.open_device = before

    @contextmanager
    def limited(self, options: Namespace) -> Iterator[tuple[Machine, list[LimitedDevice]]]:
        """Yield this machine with devices that can be made short of memory, and those opened."""
        opened: list[LimitedDevice] = []

        def open_limited(index: int) -> Any:
            opened.append(LimitedDevice(self.open_device(index)))
            return opened[-1]

        machine = replace(self, open_device=open_limited)
        with machine.devices():
            yield machine, opened


def machine_of(options: Namespace) -> Machine:
    """Return the machine to use; raises BackendUnavailableError without a GPU that answers."""
    if options.dry_run:
        return _stand_in()
    state = examine_gpu(options.device)
    if state.gpu is None:
        raise BackendUnavailableError(state.reason)
    open_device(options.device)  # says what is missing
    return Machine(
        package=describe_cuda_package(),
        gpu=state.gpu,
        open_device=open_device,
        load=lambda name, source, settings: get_backend(name).load(source, settings),
        kernel=lambda: torch_kernel(need_torch(options)[1]),
    )


def with_memory(machine: Machine, integrated: bool) -> Machine:
    """Return a machine whose GPU's memory is its own, or is the machine's."""
    return replace(machine, gpu=msgspec.structs.replace(machine.gpu, integrated=integrated))


@dataclass(frozen=True)
class StandInBackend:
    """A backend of plans on the stand-ins, for models of a dry run."""

    name: str
    machine: Machine

    @property
    def traits(self) -> Traits:
        return get_backend(self.name).traits

    def probe(self) -> Probe:
        return Probe(True, "the stand-in")

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        return Probe(True, "needs no plans")

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        return self.machine.load(self.name, source, options)


def _stand_in() -> Machine:
    """A GPU in host memory that raises where CUDA would be undefined; ONNX Runtime computes."""
    from fake_cuda_packages import fake_cuda_python
    from fake_gpu import FakeGpu, FakeLibcuda
    from fake_tensorrt import MAGIC, FakeTensorRt

    from samclip.engines.cuda.bindings import CudaPythonDevice

    gpu = FakeGpu(memory=FAKE_MEMORY, capability=(9, 0))
    driver, library = fake_cuda_python(gpu), FakeLibcuda(gpu)

    def open_fake(index: int) -> Any:
        return CudaPythonDevice(driver, index, library)

    def load(name: str, source: GraphSource, options: EngineOptions) -> Engine:
        module = FakeTensorRt(gpu, bounds=_bounds(source))
        state = DriverState(FAKE_GPU, None, "")
        library = Library(KINDS[name], module, module.__version__, state, (), options.device)
        plan = MAGIC + with_weights(source)
        if start.open_device is open_device:
            start.open_device = open_fake
        return start.start_engine(library, plan, False, source, options)

    def compute(x: int, y: int, shape: tuple[int, ...], stream: int) -> None:
        size = 4 * int(np.prod(shape))

        def work() -> None:
            gpu.view(y, size).view(np.float32)[:] = gpu.view(x, size).view(np.float32) * 2 + 1

        gpu.submit(stream, work)

    return Machine("the stand-in", FAKE_GPU, open_fake, load, lambda: compute)


def with_weights(source: GraphSource) -> bytes:
    """Return a graph with its weights inside, as the stand-in of TensorRT takes it."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(source.onnx)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(source.weights[tensor.name], tensor.name))
    return bytes(model.SerializeToString())


def _bounds(source: GraphSource) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return bounds of each dynamic input: any size from 1 to 4096."""
    import onnx

    graph = onnx.load_model_from_string(source.onnx).graph
    bounds = {}
    for node in graph.input:
        sizes = [dim.dim_value for dim in node.type.tensor_type.shape.dim]
        if not all(sizes):
            bounds[node.name] = tuple(tuple(size or end for size in sizes) for end in (1, 4, 4096))
    return bounds
