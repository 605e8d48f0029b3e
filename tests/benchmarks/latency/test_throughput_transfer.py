from __future__ import annotations

import pytest
from fake_cuda_packages import fake_cuda_python
from fake_gpu import FakeGpu, FakeLibcuda
from timed_fakes import contender

from samclip.benchmarks.latency import throughput as transfer
from samclip.benchmarks.latency.throughput import measure_transfers, time_copies
from samclip.engines.base import Traits
from samclip.engines.cuda.bindings import CudaPythonDevice
from samclip.errors import EngineRunError


def open_fake(gpu: FakeGpu) -> CudaPythonDevice:
    return CudaPythonDevice(fake_cuda_python(gpu), 0, FakeLibcuda(gpu))


def test_copies_are_timed_and_everything_is_given_back() -> None:
    gpu = FakeGpu()
    samples = time_copies(open_fake(gpu), (1, 3, 32, 32), repeats=5, warm_up=1)
    assert len(samples) == 5
    assert min(samples) > 0
    gpu.retained = 0  # the context is kept
    assert gpu.is_clean


def test_a_gpu_without_memory_is_an_error_and_the_device_is_closed() -> None:
    gpu = FakeGpu(memory=16)
    with pytest.raises(EngineRunError, match="too little free memory"):
        time_copies(open_fake(gpu), (1, 3, 32, 32), repeats=1)
    gpu.retained = 0  # the context is kept
    assert gpu.is_clean


def test_only_models_on_a_device_have_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "open_device", lambda: open_fake(FakeGpu()))
    (timing,) = measure_transfers([contender()], 4)
    assert (timing.name, len(timing.samples)) == (transfer.TRANSFER, 4)
    on_host = contender()
    on_host.backend.inner.traits = Traits(on_host=True)  # type: ignore[misc]
    assert measure_transfers([on_host], 4) == []
