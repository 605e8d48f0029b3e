"""The CUDA driver through cuda-python, and through pycuda: two implementations of `CudaDevice`.

The primary context of a GPU is retained once and kept until the process ends. Libraries inside
TensorRT keep modules and handles in it without a separate reference: the driver would reset
the context with the last one, and the next model would find those handles invalid. pycuda's objects
belong to the context object that was pushed when they were made, work in another thread only while
that same object is pushed there, and are freed explicitly under `active()`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from samclip.engines.cuda.driver import (
    NON_BLOCKING,
    OUT_OF_MEMORY,
    UNKNOWN,
    CudaGraphs,
    HostArray,
    cuda_error,
    no_device,
)

PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context
MAPPED = 2  # CU_MEMHOSTALLOC_DEVICEMAP: the GPU sees it, too

# By the driver's module and the GPU's number: the module, which must live as long, and the context.
_contexts: dict[tuple[int, int], tuple[Any, Any]] = {}
_taking = threading.Lock()


def primary_context(driver: Any, index: int, retain: Callable[[], Any]) -> Any:
    """Return the primary context of a GPU; the first call for it calls `retain`."""
    key = id(driver), index
    with _taking:
        if key not in _contexts:
            _contexts[key] = driver, retain()
        return _contexts[key][1]


class CudaPythonDevice(CudaGraphs):
    """`CudaDevice` on `driver`, the module `cuda.bindings.driver`."""

    def __init__(self, driver: Any, index: int, library: Any = None) -> None:
        self._driver = driver
        self._call_driver("cuInit", 0)
        count = int(self._call_driver("cuDeviceGetCount"))
        if not 0 <= index < count:
            raise no_device(index, count)
        super().__init__(library)
        self._index = index
        self._device = self._call_driver("cuDeviceGet", index)
        self._is_integrated = bool(self._attribute("INTEGRATED"))
        self._context = primary_context(
            driver, index, lambda: self._call_driver("cuDevicePrimaryCtxRetain", self._device)
        )

    @property
    def index(self) -> int:
        """The GPU's number."""
        return self._index

    @property
    def capability(self) -> str:
        """The compute capability: "8.7"."""
        major, minor = (
            self._attribute(f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR")
        )
        return f"{major}.{minor}"

    @property
    def is_integrated(self) -> bool:
        """Whether its memory is the host's, as on a Jetson: `allocate_host` then serves both."""
        return self._is_integrated

    def _attribute(self, name: str) -> int:
        kind = getattr(self._driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call_driver("cuDeviceGetAttribute", kind, self._device))

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the primary context this thread's current one; restore the former one at the end."""
        self._call_driver("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call_driver("cuCtxPopCurrent")

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU; return their address."""
        return int(self._call_driver("cuMemAlloc", size))

    def free(self, address: int) -> None:
        """Free memory that `allocate` returned."""
        self._call_driver("cuMemFree", address)

    def allocate_host(self, size: int) -> HostArray:
        """Allocate `size` bytes of pinned host memory: uint8, one axis."""
        flags = PORTABLE | MAPPED if self._is_integrated else PORTABLE
        address = int(self._call_driver("cuMemHostAlloc", size, flags))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def host_address(self, array: HostArray) -> int:
        """Return where an integrated GPU sees an array of `allocate_host`."""
        return int(self._call_driver("cuMemHostGetDevicePointer", array.ctypes.data, 0))

    def free_host(self, array: HostArray) -> None:
        """Free memory that `allocate_host` returned; the array must not be used afterwards."""
        self._call_driver("cuMemFreeHost", array.ctypes.data)

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default one."""
        return int(self._call_driver("cuStreamCreate", NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream of `create_stream`."""
        self._call_driver("cuStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait for all work of a stream; failures of that work are raised here."""
        self._call_driver("cuStreamSynchronize", stream)

    def to_device(self, address: int, array: HostArray, stream: int) -> None:
        """Copy all of a pinned array to the GPU."""
        self._call_driver("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, stream)

    def to_host(self, array: HostArray, address: int, stream: int) -> None:
        """Fill a pinned array from the GPU."""
        self._call_driver("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, stream)

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes within the GPU."""
        self._call_driver("cuMemcpyDtoDAsync", target, source, size, stream)

    def free_memory(self) -> tuple[int, int]:
        """Return the free and the total memory of the GPU in bytes."""
        free, total = self._call_driver("cuMemGetInfo")
        return int(free), int(total)

    def _call_driver(self, name: str, *arguments: Any) -> Any:
        """Call one function; return its one result, a tuple of several, or None."""
        code, *values = getattr(self._driver, name)(*arguments)
        if int(code):
            raise cuda_error(name, int(code), getattr(code, "name", "unknown"))
        return tuple(values) if len(values) > 1 else values[0] if values else None


class PycudaDevice(CudaGraphs):
    """`CudaDevice` on `driver`, the module `pycuda.driver`."""

    def __init__(self, driver: Any, index: int, library: Any = None) -> None:
        self._driver = driver
        self._index = index
        self._do("init", driver.init)
        count = driver.Device.count()
        if not 0 <= index < count:
            raise no_device(index, count)
        super().__init__(library)
        self._device = driver.Device(index)
        integrated = self._device.get_attribute(driver.device_attribute.INTEGRATED)
        self._is_integrated = bool(integrated)
        take = self._device.retain_primary_context
        self._context = primary_context(
            driver, index, lambda: self._do("retain_primary_context", take)
        )
        self._allocations: dict[int, Any] = {}  # by address; freed when it loses them, too
        self._streams: dict[int, Any] = {}

    @property
    def index(self) -> int:
        """The GPU's number."""
        return self._index

    @property
    def capability(self) -> str:
        """The compute capability: "8.7"."""
        return "{}.{}".format(*self._device.compute_capability())

    @property
    def is_integrated(self) -> bool:
        """Whether its memory is the host's, as on a Jetson: `allocate_host` then serves both."""
        return self._is_integrated

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the primary context this thread's current one; restore the former one at the end."""
        self._do("push", self._context.push)
        try:
            yield
        finally:
            self._do("pop", self._driver.Context.pop)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU; return their address."""
        allocation = self._do("mem_alloc", self._driver.mem_alloc, size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Free memory that `allocate` returned."""
        self._do("free", self._allocations.pop(address).free)

    def allocate_host(self, size: int) -> HostArray:
        """Allocate `size` bytes of pinned host memory: uint8, one axis."""
        flags = PORTABLE | MAPPED if self._is_integrated else 0
        make = self._driver.pagelocked_empty
        array: HostArray = self._do("pagelocked_empty", make, size, np.uint8, "C", flags)
        return array

    def host_address(self, array: HostArray) -> int:
        """Return where an integrated GPU sees an array of `allocate_host`."""
        owner: Any = array.base
        return int(self._do("get_device_pointer", owner.get_device_pointer))

    def free_host(self, array: HostArray) -> None:
        """Free memory that `allocate_host` returned; the array must not be used afterwards."""
        owner: Any = array.base
        self._do("free", owner.free)

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default one."""
        stream = self._do("Stream", self._driver.Stream, NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream of `create_stream`: pycuda does so when the last reference goes."""
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        """Wait for all work of a stream; failures of that work are raised here."""
        self._do("synchronize", self._streams[stream].synchronize)

    def to_device(self, address: int, array: HostArray, stream: int) -> None:
        """Copy all of a pinned array to the GPU."""
        copy = self._driver.memcpy_htod_async
        self._do("memcpy_htod_async", copy, address, array, self._streams[stream])

    def to_host(self, array: HostArray, address: int, stream: int) -> None:
        """Fill a pinned array from the GPU."""
        copy = self._driver.memcpy_dtoh_async
        self._do("memcpy_dtoh_async", copy, array, address, self._streams[stream])

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes within the GPU."""
        copy = self._driver.memcpy_dtod_async
        self._do("memcpy_dtod_async", copy, target, source, size, self._streams[stream])

    def free_memory(self) -> tuple[int, int]:
        """Return the free and the total memory of the GPU in bytes."""
        free, total = self._do("mem_get_info", self._driver.mem_get_info)
        return int(free), int(total)

    def _do(self, name: str, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._driver.MemoryError as error:
            raise cuda_error(name, OUT_OF_MEMORY, str(error)) from error
        except self._driver.Error as error:
            raise cuda_error(name, UNKNOWN, str(error)) from error
