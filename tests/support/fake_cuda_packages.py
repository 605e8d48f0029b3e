"""pycuda and cuda-python in front of `FakeGpu`, as far as samclip calls them."""

from __future__ import annotations

import enum
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_gpu import Broken, CudaCallError, FakeGpu, status
from numpy.typing import NDArray


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


def fake_cuda_python(gpu: FakeGpu) -> Any:
    """The module `cuda.bindings.driver`: functions return a code and values."""
    attributes = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=lambda: gpu.capability[0],
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=lambda: gpu.capability[1],
        CU_DEVICE_ATTRIBUTE_INTEGRATED=lambda: int(gpu.integrated),
    )

    def retain(_: int) -> str:
        gpu.retained += 1
        return "primary"

    def result(work: Any) -> tuple[Any, ...]:
        code, value = status(work)
        values = () if value is None else value if isinstance(value, tuple) else (value,)
        return (CUresult(code), *values)

    def pop() -> str:
        gpu.pop()
        return "primary"

    def memory() -> tuple[int, int]:
        gpu.need_context()
        return gpu.memory - gpu.used, gpu.memory

    calls = {
        "cuInit": lambda flags: None,
        "cuDeviceGetCount": lambda: gpu.count,
        "cuDeviceGet": lambda index: index,
        "cuDevicePrimaryCtxRetain": retain,
        "cuDeviceGetAttribute": lambda attribute, device: attribute(),
        "cuCtxPushCurrent": lambda context: gpu.push(),
        "cuCtxPopCurrent": pop,
        "cuMemAlloc": gpu.allocate,
        "cuMemFree": gpu.free,
        "cuMemHostAlloc": lambda size, flags: gpu.allocate_host(size, flags).ctypes.data,
        "cuMemHostGetDevicePointer": lambda address, flags: gpu.device_pointer(address),
        "cuMemFreeHost": gpu.free_host,
        "cuStreamCreate": gpu.create_stream,
        "cuStreamDestroy": gpu.destroy_stream,
        "cuStreamSynchronize": gpu.synchronize,
        "cuMemcpyHtoDAsync": gpu.to_device,
        "cuMemcpyDtoHAsync": gpu.to_host,
        "cuMemcpyDtoDAsync": gpu.on_device,
        "cuMemGetInfo": memory,
    }
    functions = {
        name: lambda *a, work=work: result(lambda: work(*a)) for name, work in calls.items()
    }
    return SimpleNamespace(CUdevice_attribute=attributes, **functions)


class Error(Exception):
    """pycuda's base of errors."""


class ShortMemoryError(Error):
    """pycuda's out of memory."""


def fake_pycuda(gpu: FakeGpu) -> Any:
    """The module `pycuda.driver`: objects that belong to the context pushed."""

    def checked(work: Any) -> Any:
        try:
            return work()
        except CudaCallError as failure:
            raise (ShortMemoryError if failure.code == 2 else Error)(str(failure)) from failure

    class Context:
        def __init__(self) -> None:
            gpu.retained += 1

        def push(self) -> None:
            gpu.push()

        @staticmethod
        def pop() -> None:
            gpu.pop()

    class Device:
        count = staticmethod(lambda: gpu.count)

        def __init__(self, index: int) -> None:
            self.index = index

        def get_attribute(self, attribute: Any) -> int:
            return int(attribute())

        def compute_capability(self) -> tuple[int, int]:
            return gpu.capability

        def retain_primary_context(self) -> Context:
            return Context()

    class Allocation:
        def __init__(self, size: int) -> None:
            self.address = checked(lambda: gpu.allocate(size))

        def __int__(self) -> int:
            return int(self.address)

        def free(self) -> None:
            gpu.free(self.address)

    class Stream:
        def __init__(self, flags: int) -> None:
            self.handle = checked(lambda: gpu.create_stream(flags))
            self.thread = threading.get_ident()

        def synchronize(self) -> None:
            checked(lambda: gpu.synchronize(self.handle))

        def __del__(self) -> None:
            gpu.destroy_stream(self.handle)

    def pagelocked_empty(
        size: int, dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> NDArray[np.uint8]:
        array = checked(lambda: gpu.allocate_host(size, mem_flags))

        class Owner:
            __array_interface__ = array.__array_interface__

            def free(self) -> None:
                gpu.free_host(array.ctypes.data)

            def get_device_pointer(self) -> int:
                return gpu.device_pointer(array.ctypes.data)

        made: NDArray[np.uint8] = np.asarray(Owner())
        if not hasattr(made.base, "free"):
            raise Broken("the stand-in is wrong: numpy keeps no owner")
        return made

    def handle(stream: Stream) -> int:
        return int(stream.handle)

    return SimpleNamespace(
        Error=Error,
        MemoryError=ShortMemoryError,
        Context=Context,
        Device=Device,
        Stream=Stream,
        device_attribute=SimpleNamespace(INTEGRATED=lambda: int(gpu.integrated)),
        init=lambda: None,
        mem_alloc=Allocation,
        mem_get_info=lambda: (gpu.memory - gpu.used, gpu.memory),
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=lambda target, array, stream: gpu.to_device(
            target, array.ctypes.data, array.nbytes, handle(stream)
        ),
        memcpy_dtoh_async=lambda array, source, stream: gpu.to_host(
            array.ctypes.data, source, array.nbytes, handle(stream)
        ),
        memcpy_dtod_async=lambda target, source, size, stream: gpu.on_device(
            target, source, size, handle(stream)
        ),
    )
