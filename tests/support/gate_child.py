"""The gate's child process on the stand-ins: a fake GPU, and plans with planted faults.

A plan is a graph, as `fake_tensorrt` has it; in front of the graph may stand the name of a fault.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
from fake_cuda_packages import fake_cuda_python
from fake_gpu import FakeGpu, FakeLibcuda
from fake_tensorrt import MAGIC, FakeContext, FakeEngine, FakeTensorRt, Severity

from samclip.engines.cuda.bindings import CudaPythonDevice
from samclip.engines.plans.gate import child
from samclip.engines.plans.library import KINDS, DriverState, Library, PlanGpu
from samclip.engines.plans.match import PlanHost
from samclip.engines.tensorrt import start

CRASHES, HANGS, REPLAYS, WAVERS, TOGETHER, SHORT = (
    f"[{name:8}]".encode()
    for name in ("crashes", "hangs", "replays", "wavers", "together", "short")
)
FAULTS = (CRASHES, HANGS, REPLAYS, WAVERS, TOGETHER, SHORT)
START = "import sys; sys.path[:] = sys.argv[2:]; import gate_child; gate_child.main(sys.argv[1])"
GPU = PlanGpu("Orin", "8.7", "12.6", 8 * 10**9, 8, True)


class FaultyTensorRt(FakeTensorRt):
    """TensorRT whose plans may have a fault, by what stands in front of their graph."""

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        runtime = super().Runtime(logger)
        inner = runtime.deserialize_cuda_engine

        def deserialize(plan: bytes) -> FakeEngine | None:
            graph = plan.removeprefix(MAGIC)
            self.fault = next((fault for fault in FAULTS if graph.startswith(fault)), b"")
            return inner(MAGIC + graph.removeprefix(self.fault))

        runtime.deserialize_cuda_engine = deserialize
        return runtime


def any_shape(engine: FakeEngine, name: str, profile: int) -> list[tuple[int, ...]]:
    """The bounds of a plan that takes any size of a dynamic axis."""
    shape = engine.get_tensor_shape(name)
    return [tuple(end if size < 0 else size for size in shape) for end in (0, 1, 2**31)]


class FaultyContext(FakeContext):
    """An execution context whose engine's plan has a fault."""

    contexts = 0
    runs = 0

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine)
        FaultyContext.contexts += 1
        self.number = FaultyContext.contexts
        self.is_replay = False

    def execute_async_v3(self, stream: int) -> bool:
        fault = self.module.fault
        if fault == CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == HANGS:
            time.sleep(600)
        if fault == SHORT:
            self.engine.logger.log(Severity.ERROR, "CUDA_ERROR_OUT_OF_MEMORY: out of memory")
            return False
        self.is_replay = self.module.gpu.is_recording(stream)
        return super().execute_async_v3(stream)

    def _compute(self, version: int, shapes: dict[str, tuple[int, ...]]) -> None:
        super()._compute(version, shapes)
        FaultyContext.runs += 1
        fault = self.module.fault
        wrong = (
            (fault == REPLAYS and self.is_replay)
            or (fault == TOGETHER and self.number > 2)
            or (fault == WAVERS and FaultyContext.runs % 2)
        )
        if wrong:
            for name in self.engine.outputs:
                values = self._view(name, self.get_tensor_shape(name))
                values[...] = np.nextafter(values, 9) if fault == WAVERS else -values


def main(folder: str) -> None:
    """Put the stand-ins in place, and do what the child does."""
    import fake_tensorrt

    fake_tensorrt.FakeContext = FaultyContext  # type: ignore[misc]
    FakeEngine.get_tensor_profile_shape = any_shape  # type: ignore[method-assign]
    gpu = FakeGpu(memory=2**31, integrated=True)
    module = FaultyTensorRt(gpu)
    module.seconds = 0.01  # long enough for two threads to meet
    driver = fake_cuda_python(gpu)

    def open_for_running(name: Any, device: int) -> tuple[Library, PlanHost]:
        library = Library(KINDS[name], module, "10.3.0", DriverState(GPU, "540.4", ""), ())
        return library, PlanHost(name, "10.3.0", "8.7")

    child.open_for_running = open_for_running  # type: ignore[assignment]
    start.open_device = lambda index: CudaPythonDevice(driver, index, FakeLibcuda(gpu))  # type: ignore[assignment]
    child.main(folder)
