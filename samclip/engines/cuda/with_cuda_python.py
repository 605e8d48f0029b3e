"""The CUDA driver through cuda-python."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from samclip.engines.cuda.driver import NON_BLOCKING, HostArray, cuda_error, no_device
from samclip.engines.cuda.graphs import CudaGraphs

PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context


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
        self._context = self._call_driver("cuDevicePrimaryCtxRetain", self._device)
        self._closing = threading.Lock()

    @property
    def index(self) -> int:
        """The GPU's number."""
        return self._index

    @property
    def capability(self) -> str:
        """The compute capability: "8.7"."""
        kinds = self._driver.CUdevice_attribute
        major, minor = (
            self._call_driver("cuDeviceGetAttribute", getattr(kinds, name), self._device)
            for name in (
                "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
                "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
            )
        )
        return f"{major}.{minor}"

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the primary context this thread's, and at the end what it was before."""
        self._call_driver("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call_driver("cuCtxPopCurrent")

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU; gives their address."""
        return int(self._call_driver("cuMemAlloc", size))

    def free(self, address: int) -> None:
        """Free what `allocate` gave."""
        self._call_driver("cuMemFree", address)

    def allocate_host(self, size: int) -> HostArray:
        """Allocate `size` bytes of pinned host memory: uint8, one axis."""
        address = int(self._call_driver("cuMemHostAlloc", size, PORTABLE))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_host(self, array: HostArray) -> None:
        """Free what `allocate_host` gave; the array must not be touched afterwards."""
        self._call_driver("cuMemFreeHost", array.ctypes.data)

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default one."""
        return int(self._call_driver("cuStreamCreate", NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        """Destroy what `create_stream` gave."""
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
        """Give the free and the total memory of the GPU in bytes."""
        free, total = self._call_driver("cuMemGetInfo")
        return int(free), int(total)

    def close(self) -> None:
        """Give the primary context back; again: do nothing."""
        with self._closing:
            context, self._context = self._context, None
        if context is not None:
            self._call_driver("cuDevicePrimaryCtxRelease", self._device)

    def _call_driver(self, name: str, *arguments: Any) -> Any:
        """Call one function; gives its one result, a tuple of several, or None."""
        code, *values = getattr(self._driver, name)(*arguments)
        if int(code):
            raise cuda_error(name, int(code), getattr(code, "name", "unknown"))
        return tuple(values) if len(values) > 1 else values[0] if values else None
