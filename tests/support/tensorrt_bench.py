"""A machine on which TensorRT's engines run without a GPU: its stand-in, and plans to load."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_cuda_packages import fake_cuda_python, fake_pycuda
from fake_gpu import FakeGpu, FakeLibcuda
from fake_tensorrt import MAGIC, FakeRtx, FakeTensorRt
from onnx import TensorProto, helper
from tiny_bundle import negation_model

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.cuda import bindings
from samclip.engines.cuda.bindings import CudaPythonDevice, PycudaDevice
from samclip.engines.plans.library import KINDS, DriverState, Library, PlanGpu
from samclip.engines.plans.match import PlanHost, system_name
from samclip.engines.plans.sidecar import BuildOptions, BuiltFor, PlanFile, Sidecar, identify
from samclip.engines.plans.store import StoredPlan, plan_folder, write_plan
from samclip.engines.tensorrt import backend as tensorrt
from samclip.engines.tensorrt import start
from samclip.engines.tensorrt.backend import TENSORRT, TENSORRT_RTX
from samclip.engines.tensorrt.engine import TrtEngine

CUDA_PACKAGES = ("cuda-python", "pycuda")
BOUNDS = {"x": ((0, 4), (2, 4), (16, 4))}
NEGATION = GraphSource("graph", negation_model(), origin="a-bundle")


FAKE_GPU = PlanGpu("fake", "8.6", "13.0", 2**30)


@dataclass
class Bench:
    """The stand-ins, and the means to run plans on them."""

    gpu: FakeGpu
    module: FakeTensorRt
    package: str
    host_gpu: PlanGpu = FAKE_GPU

    def store(
        self, source: GraphSource = NEGATION, plan: bytes | None = None, **changes: Any
    ) -> StoredPlan:
        """Write a plan of `source`; `changes` are fields of its sidecar."""
        sidecar = Sidecar(
            plan=PlanFile(size=0, sha256="0" * 64),
            graph=identify(source),
            library="tensorrt-rtx" if isinstance(self.module, FakeRtx) else "tensorrt",
            library_version=self.module.__version__,
            target=BuiltFor(capabilities=("8.6",), system=system_name()),
            options=BuildOptions(),
            tensors=(),
            samclip="0",
            built="2026-01-01T00:00:00+00:00",
            seconds=1.0,
        )
        sidecar = msgspec.structs.replace(sidecar, **changes)
        return write_plan(plan_folder(), plan or MAGIC + source.onnx, sidecar)

    def load(self, source: GraphSource = NEGATION, **options: Any) -> TrtEngine:
        backend = TENSORRT_RTX if isinstance(self.module, FakeRtx) else TENSORRT
        return backend.load(source, EngineOptions(**options))

    def start(self, source: GraphSource = NEGATION, **options: Any) -> TrtEngine:
        self.store(source)
        return self.load(source, **options)

    def check_clean(self) -> None:
        """Assert that engines and results, all closed or gone, have given everything back."""
        gc.collect()
        retained = self.gpu.retained
        self.gpu.retained = 0  # the context is kept
        assert self.gpu.is_clean
        assert self.module.alive == set()
        assert self.gpu.stack() == []
        self.gpu.retained = retained


@contextmanager
def tensorrt_bench(package: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Bench]:
    """Put the stand-ins in place, CUDA driven by `package`; afterwards nothing may be left."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(cache))
    gpu = FakeGpu()
    bench = Bench(gpu, FakeTensorRt(gpu, BOUNDS), package)
    driver = fake_cuda_python(gpu) if package == "cuda-python" else fake_pycuda(gpu)

    def open_device(index: int) -> Any:
        device = CudaPythonDevice if package == "cuda-python" else PycudaDevice
        return device(driver, index, FakeLibcuda(gpu))

    def open_for_running(name: Any, device: int) -> tuple[Library, PlanHost]:
        state = DriverState(bench.host_gpu, "580", "")
        library = Library(KINDS[name], bench.module, bench.module.__version__, state, ())
        return library, PlanHost(name, library.version, "8.6")

    monkeypatch.setattr(start, "open_device", open_device)
    monkeypatch.setattr(tensorrt, "open_for_running", open_for_running)
    monkeypatch.setattr(bindings, "_contexts", {})
    yield bench
    bench.check_clean()


def cast_model(out: int) -> bytes:
    """y = x, of any shape Nx4, converted to another type."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", out, ["n", 4])
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=out)], "g", [x], [y])
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
