"""The stand-in for the GPU raises where CUDA would be undefined: else it would prove nothing."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_cuda_packages import fake_cuda_python, fake_pycuda
from fake_gpu import Broken, FakeGpu, FakeLibcuda
from fake_tensorrt import MAGIC, FakeTensorRt, ILogger
from tiny_bundle import negation_model
from tree import ROOT

from samclip.engines.cuda import device as device_module
from samclip.engines.cuda.bindings import CudaPythonDevice, PycudaDevice
from samclip.engines.cuda.driver import Copy2D, CudaDevice, Rows
from samclip.engines.cuda.memory import BlockPool, size_class
from samclip.errors import BackendUnavailableError, DeviceMemoryError


class Quiet(ILogger):
    def log(self, severity: Any, message: str) -> None:
        return None


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def device(gpu: FakeGpu) -> Iterator[CudaPythonDevice]:
    device = CudaPythonDevice(fake_cuda_python(gpu), 0, FakeLibcuda(gpu))
    with device.active():
        yield device


def test_memory_and_copies(gpu: FakeGpu, device: CudaPythonDevice) -> None:
    stream, address, host = device.create_stream(), device.allocate(64), device.allocate_host(64)
    host[:] = 7
    device.to_device(address, host, stream)
    assert not (gpu.view(address, 64) == 7).any()  # nothing happens before synchronize
    device.synchronize(stream)
    assert (gpu.view(address, 64) == 7).all()
    with pytest.raises(Broken, match="pinned"):
        device.to_device(address, np.zeros(64, np.uint8), stream)
    with pytest.raises(Broken, match="not in allocated memory"):
        device.on_device(address, address + 32, 64, stream)
        device.synchronize(stream)
    device.free(address)
    with pytest.raises(Broken, match="freed twice"):
        device.free(address)
    device.to_host(host, address, stream)
    with pytest.raises(Broken, match="not in allocated memory"):
        device.synchronize(stream)


def test_calls_need_a_context(gpu: FakeGpu, device: CudaPythonDevice) -> None:
    gpu.pop()
    with pytest.raises(Broken, match="no current context"):
        device.allocate(1)
    gpu.push()


def test_short_memory_is_typed_and_other_gpus_are_not_there(
    gpu: FakeGpu, device: CudaPythonDevice
) -> None:
    with pytest.raises(DeviceMemoryError, match="cuMemAlloc"):
        device.allocate(gpu.memory + 1)
    with pytest.raises(BackendUnavailableError, match=r"no GPU 1: there is 1, counted from 0"):
        CudaPythonDevice(fake_cuda_python(gpu), 1, FakeLibcuda(gpu))
    assert device.capability == "8.6"


def test_contexts_of_tensorrt(gpu: FakeGpu, device: CudaPythonDevice) -> None:
    module = FakeTensorRt(gpu)
    runtime = module.Runtime(Quiet())
    engine = runtime.deserialize_cuda_engine(MAGIC + negation_model())
    assert engine is not None
    context = engine.create_execution_context()
    assert context is not None
    stream = device.create_stream()
    with pytest.raises(Broken, match="no shape was set"):
        context.execute_async_v3(stream)
    context.set_input_shape("x", (1, 4))
    with pytest.raises(Broken, match="no address was set"):
        context.execute_async_v3(stream)
    addresses = [device.allocate(64) for _ in range(2)]
    for name, address in zip("xy", addresses, strict=True):
        context.set_tensor_address(name, address)
    device.begin_capture(stream)
    with pytest.raises(Broken, match="before a run of the same shapes"):
        context.execute_async_v3(stream)
    device.destroy_graph(device.end_capture(stream))
    context.execute_async_v3(stream)
    device.synchronize(stream)
    device.begin_capture(stream)
    context.execute_async_v3(stream)
    graph = device.end_capture(stream)
    device.launch(graph, stream)
    device.synchronize(stream)
    context.set_input_shape("x", (2, 4))
    device.launch(graph, stream)
    with pytest.raises(Broken, match="after its context changed"):
        device.synchronize(stream)
    with context.busy, pytest.raises(Broken, match="two threads"):
        context.execute_async_v3(stream)
    gpu.graphs.clear()  # what they recorded holds the context
    gpu.streams.clear()
    del context
    gc.collect()
    del engine
    gc.collect()
    assert module.alive == {id(runtime)}


@pytest.mark.parametrize("package", [fake_cuda_python, fake_pycuda])
def test_memory_that_host_and_gpu_share(package: Any, gpu: FakeGpu) -> None:
    gpu.integrated = True
    kind = CudaPythonDevice if package is fake_cuda_python else PycudaDevice
    device: CudaDevice = kind(package(gpu), 0, FakeLibcuda(gpu))
    assert device.is_integrated
    runtime = FakeTensorRt(gpu).Runtime(Quiet())
    with device.active():
        stream = device.create_stream()
        x, y = device.allocate_host(16), device.allocate_host(16)
        engine = runtime.deserialize_cuda_engine(MAGIC + negation_model())
        assert engine is not None
        context = engine.create_execution_context()
        assert context is not None
        context.set_input_shape("x", (1, 4))
        with pytest.raises(Broken, match="not in allocated memory"):  # the host's own address
            gpu.view(x.ctypes.data, 16)
        for name, array in (("x", x), ("y", y)):
            context.set_tensor_address(name, device.host_address(array))
        values = x.view(np.float32)
        values[:] = 1
        context.execute_async_v3(stream)
        assert not (y.view(np.float32) == -1).any()  # nothing is there before synchronize
        device.synchronize(stream)
        assert (y.view(np.float32) == -1).all()
        context.execute_async_v3(stream)
        values[0] = 7
        with pytest.raises(Broken, match="the host wrote into 'x' while a run was enqueued"):
            device.synchronize(stream)
        device.begin_capture(stream)
        context.execute_async_v3(stream)
        graph = device.end_capture(stream)
        values[:] = 3  # between capture and launch it may
        device.launch(graph, stream)
        device.synchronize(stream)
        assert (y.view(np.float32) == -3).all()
        device.launch(graph, stream)
        values[:] = 4
        with pytest.raises(Broken, match="the host wrote into 'x'"):
            device.synchronize(stream)
        context.execute_async_v3(stream)
        del values
        device.free_host(x)
        with pytest.raises(Broken, match="not in allocated memory"):
            device.synchronize(stream)
        device.destroy_graph(graph)
        device.destroy_stream(stream)
        device.free_host(y)
        del context
        gc.collect()
        del engine
        gc.collect()
    gpu.integrated = False
    with device.active(), pytest.raises(Broken, match="not allocated as mapped"):
        device.host_address(device.allocate_host(16))


def test_blocks_given_back_while_the_pool_is_at_work_are_not_lost() -> None:
    """A finalizer runs inside the pool's own lock, and after it was closed."""
    pool: BlockPool[int]
    freed: list[int] = []
    late: list[Any] = []

    def allocate(size: int) -> int:
        while late:
            pool.give(late.pop())
        return size

    pool = BlockPool(allocate, freed.append)
    late.append(pool.take(1))
    second = pool.take(5000)
    assert pool.take(1).memory == 512  # the one that was given back meanwhile
    pool.close()
    pool.give(second)
    assert freed == [second.size]
    assert pool.made == 1


@pytest.mark.parametrize("size", [0, 1, 511, 513, 5000, 10**6, 2**20, 2**31 + 1])
def test_size_classes(size: int) -> None:
    wasted = size_class(size) - size
    assert 0 <= wasted <= max(512, size // 4)
    assert size_class(size_class(size)) == size_class(size)
    assert size_class(size) % 512 == 0


def test_rows_are_copied_whatever_their_pitch(gpu: FakeGpu, device: CudaPythonDevice) -> None:
    places = [getattr(Copy2D, name) for name in ("source", "target", "width", "height")]
    assert [place.offset for place in places] == [0, 56, 112, 120]  # as cuda.h has them
    ends = ("x", "y", "kind", "host", "device", "array", "pitch")
    fields = [getattr(type(Copy2D().source), name).offset for name in ends]
    assert fields == [0, 8, 16, 24, 32, 40, 48]
    stream = device.create_stream()
    source, target = device.allocate(7 * 5), device.allocate(9 * 5)
    gpu.view(source, 35)[:] = np.arange(35)
    for takes_any_pitch in (True, False):
        gpu.takes_any_pitch = takes_any_pitch
        gpu.view(target, 45)[:] = 99
        device.copy_rows(target, 9, source, Rows(count=5, size=6, pitch=7), stream)
        device.synchronize(stream)
        expected = np.full((5, 9), 99)
        expected[:, :6] = np.arange(35).reshape(5, 7)[:, :6]
        np.testing.assert_array_equal(gpu.view(target, 45).reshape(5, 9), expected)
    with pytest.raises(Broken, match="rows that are not on the device, or overlap"):
        device.copy_rows(target, 9, source, Rows(count=5, size=8, pitch=7), stream)


@pytest.mark.parametrize(
    ("version", "warns"), [("12.8.0", True), ("12.9.2", False), ("13.0.0", False)]
)
def test_bindings_that_keep_pythons_lock_are_warned_of(
    version: str,
    warns: bool,
    gpu: FakeGpu,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the package asks for is what does not warn."""
    monkeypatch.setattr(device_module, "missing_for_cuda", lambda: None)
    monkeypatch.setattr(device_module, "cuda_package", lambda: "cuda-python")
    monkeypatch.setattr(device_module, "_import", lambda _: fake_cuda_python(gpu))
    monkeypatch.setattr(
        device_module,
        "CudaPythonDevice",
        lambda driver, index: CudaPythonDevice(driver, index, FakeLibcuda(gpu)),
    )
    monkeypatch.setattr(device_module, "version", lambda _: version)
    with caplog.at_level(logging.WARNING, "samclip"):
        device_module.open_device()
    said = f"cuda-bindings {version} holds Python's lock"
    assert [record.getMessage().startswith(said) for record in caplog.records] == [True] * warns
    floors = re.findall(r'"cuda-python>=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(floors) == {".".join(map(str, device_module.FREE_LOCK))}
