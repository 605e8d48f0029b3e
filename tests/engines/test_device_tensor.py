"""Results in other libraries: on the host in torch and numpy, on a GPU by what a capsule says.

The GPU is a stand-in that raises where CUDA would be undefined; so capsules are read here as a
consumer reads them, by `dlpack.h`'s layouts.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
import torch
from tensorrt_bench import Bench
from tiny_bundle import negation_model

from samclip.engines.base import ArrayTensor, EngineOptions, GraphSource
from samclip.engines.cuda.memory import CudaTensor
from samclip.engines.device_tensor import DeviceTensor, part_of
from samclip.engines.dlpack import CUDA, ExchangeError
from samclip.engines.onnxruntime.backend import CPU
from samclip.errors import EngineRunError

X = np.arange(8, dtype=np.float32).reshape(2, 4)
SOURCE = GraphSource("graph", negation_model())


class Header(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class OldForm(ctypes.Structure):
    """`DLManagedTensor`."""

    _fields_ = (("tensor", Header), ("context", ctypes.c_void_p), ("deleter", DELETER))


class NewForm(ctypes.Structure):
    """`DLManagedTensorVersioned`."""

    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", Header),
    )


class Consumer:
    """Takes a capsule as a library does; `drop` is the end of its array."""

    def __init__(self, array: Any, **options: Any) -> None:
        api = ctypes.pythonapi
        api.PyCapsule_GetName.restype = ctypes.c_char_p
        api.PyCapsule_GetName.argtypes = (ctypes.py_object,)
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
        api.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)
        capsule = array.__dlpack__(**options)
        self.name = api.PyCapsule_GetName(capsule).decode()
        form = NewForm if self.name == "dltensor_versioned" else OldForm
        self._used = b"used_" + self.name.encode()
        self._address = api.PyCapsule_GetPointer(capsule, self.name.encode())
        self.managed = form.from_address(self._address)
        api.PyCapsule_SetName(capsule, self._used)
        self.tensor = self.managed.tensor

    def drop(self) -> None:
        self.managed.deleter(self._address)


@pytest.fixture
def on_host() -> DeviceTensor:
    engine = CPU.load(SOURCE, EngineOptions(threads=1))
    result = DeviceTensor(engine.run({"x": X})["y"])
    engine.close()
    return result


def test_torch_and_numpy_read_the_hosts_memory_itself(on_host: DeviceTensor) -> None:
    assert (on_host.shape, on_host.ndim, on_host.dtype) == ((2, 4), 2, np.float32)
    assert (on_host.device, on_host.__dlpack_device__(), len(on_host)) == ("cpu", (1, 0), 2)
    assert repr(on_host) == "DeviceTensor(2x4 float32, cpu)"
    tensor = torch.from_dlpack(on_host)
    views = [on_host.numpy(), np.asarray(on_host), np.from_dlpack(on_host)]
    views.append(np.asarray(torch.as_tensor(np.asarray(on_host.numpy()).copy())))
    for view in views[:3]:
        assert view.ctypes.data == tensor.data_ptr()
        np.testing.assert_array_equal(view, -X)
        assert not view.flags.writeable
    assert not hasattr(on_host, "__cuda_array_interface__")
    assert on_host.__array_interface__["data"] == (tensor.data_ptr(), True)
    del on_host, views, view
    gc.collect()
    np.testing.assert_array_equal(tensor.numpy(), -X)  # it outlives engine and result


def test_copies_are_made_where_they_are_asked_for(on_host: DeviceTensor) -> None:
    place = on_host.numpy().ctypes.data
    copies = [
        np.array(on_host),
        np.asarray(on_host, np.float64),
        np.from_dlpack(on_host, copy=True),
    ]
    assert all(copy.ctypes.data != place and copy.flags.writeable for copy in copies)
    assert on_host.__array__(copy=False).ctypes.data == place
    with pytest.raises(ExchangeError, match="without a copy"):
        on_host.__array__(np.float64, copy=False)
    with pytest.raises(BufferError, match="has no stream"):
        on_host.__dlpack__(stream=1)
    with pytest.raises(ExchangeError, match=r"device \(2, 0\) was asked for; it is on \(1, 0\)"):
        on_host.__dlpack__(dl_device=(2, 0))


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (1, 9), (2, 0)])
def test_a_capsule_of_the_gpus_memory(bench: Bench, version: tuple[int, int] | None) -> None:
    engine = bench.start()
    found = engine.run({"x": X})["y"]
    assert isinstance(found, CudaTensor)
    result, address = DeviceTensor(found), found.address
    assert (result.device, result.__dlpack_device__()) == ("cuda:0", (CUDA, 0))
    consumer = Consumer(result, stream=1, max_version=version)
    is_new = version is not None and version >= (1, 0)
    assert consumer.name == ("dltensor_versioned" if is_new else "dltensor")
    if is_new:
        assert tuple(consumer.managed.version) == (1, 0)
        assert consumer.managed.flags == 0
    tensor = consumer.tensor
    assert (tensor.device_type, tensor.device_id, tensor.ndim) == (2, 0, 2)
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 32, 1)
    assert (tensor.shape[:2], tensor.strides[:2]) == ([2, 4], [4, 1])
    assert (tensor.data, tensor.byte_offset) == (address, 0)
    engine.close()
    del result, found
    gc.collect()
    values = bench.gpu.view(tensor.data, 32).view(np.float32).reshape(2, 4)
    np.testing.assert_array_equal(values, -X)  # engine and result have gone
    consumer.drop()
    gc.collect()
    assert bench.gpu.blocks == {}


def test_cudas_array_interface(bench: Bench) -> None:
    engine = bench.start()
    found = engine.run({"x": X})["y"]
    result = DeviceTensor(found)
    assert isinstance(found, CudaTensor)
    assert result.__cuda_array_interface__ == {
        "shape": (2, 4),
        "typestr": "<f4",
        "data": (found.address, False),
        "strides": None,
        "version": 3,
        "stream": None,
    }
    assert not hasattr(result, "__array_interface__")
    copied = np.asarray(result)  # by __array__: numpy asks for the host's memory
    np.testing.assert_array_equal(copied, -X)
    np.testing.assert_array_equal(np.from_dlpack(_OnHost(result)), -X)
    engine.close()


class _OnHost:
    """An array whose consumer wants it on the host, as `from_dlpack(x, device="cpu")` does."""

    def __init__(self, array: DeviceTensor) -> None:
        self._array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **options: Any) -> Any:
        options.pop("dl_device", None)
        return self._array.__dlpack__(dl_device=(1, 0), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": 0}, "stream 0 stands for no stream"),
        ({"stream": -2}, "stream -2"),
        ({"stream": 1.0}, "stream is a float"),
        ({"copy": True}, "clone it"),
        ({"dl_device": (2, 1)}, r"device \(2, 1\) was asked for; it is on \(2, 0\)"),
        ({"dl_device": (1, 0), "copy": False}, "cannot be on the host without a copy"),
    ],
)
def test_what_the_gpus_memory_cannot_be(
    bench: Bench, options: dict[str, Any], message: str
) -> None:
    engine = bench.start()
    result = DeviceTensor(engine.run({"x": X})["y"])
    with pytest.raises(BufferError, match=message):
        result.__dlpack__(**options)
    with pytest.raises(ExchangeError, match="without a copy"):
        result.__array__(copy=False)
    for stream in (None, -1, 1, 2, 12345):
        del stream
        Consumer(result).drop()
    engine.close()


def test_memory_is_not_used_again_while_a_consumers_work_may_be_under_way(bench: Bench) -> None:
    engine, gpu = bench.start(), bench.gpu
    lent = engine.run({"x": X})["y"]
    assert isinstance(lent, CudaTensor)
    address = lent.address
    consumer = Consumer(DeviceTensor(lent), stream=1)
    with engine._memory.device.active():
        foreign = gpu.create_stream(1)
        seen: list[Any] = []
        gpu.submit(foreign, lambda: seen.append(gpu.view(address, 32).view(np.float32).copy()))
    del lent
    consumer.drop()  # while its kernel waits to run
    gc.collect()
    kept = [engine.run({"x": X + row})["y"] for row in range(3)]
    assert gpu.waits == 1
    assert any(tensor.address == address for tensor in kept if isinstance(tensor, CudaTensor))
    np.testing.assert_array_equal(seen[0].reshape(2, 4), -X)  # not what came later
    waits = gpu.waits
    del kept
    gc.collect()
    engine.run({"x": X})  # of memory that nobody else was given
    assert gpu.waits == waits
    with engine._memory.device.active():
        gpu.destroy_stream(foreign)
    engine.close()


def test_parts_are_views(bench: Bench) -> None:
    engine = bench.start()
    whole = engine.run({"x": X})["y"]
    part = part_of(whole, 1)
    assert isinstance(part, CudaTensor)
    assert isinstance(whole, CudaTensor)
    assert (part.address, part.shape) == (whole.address + 16, (4,))
    inner = part_of(part, 2)
    consumer = Consumer(DeviceTensor(part_of(whole, 1)))
    assert consumer.tensor.data == part.address
    del whole, part
    gc.collect()
    np.testing.assert_array_equal(inner.numpy(), -6)  # it keeps the whole block
    del inner
    consumer.drop()
    engine.close()
    on_host = ArrayTensor(X)
    assert np.shares_memory(part_of(on_host, 1).numpy(), X)
    np.testing.assert_array_equal(part_of(on_host, 1, 2).numpy(), 6)


def test_a_forked_child_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bench.start()
    result = DeviceTensor(engine.run({"x": X})["y"])
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(EngineRunError, match="forked"):
        result.__dlpack__()
    monkeypatch.undo()
    engine.close()
