"""The CUDA driver as TensorRT engines need it: memory, copies, streams and captured graphs.

`CudaDevice` is the whole interface. A device uses the GPU's primary context, which torch and
TensorRT use too: it is made current for the length of a call, and the caller's context is restored
afterwards. Nothing here is called in a forked child: CUDA does not work there.

Graphs are captured, and streams are ordered, with the driver's own C functions, because pycuda has
none for that: `CudaGraphs` is used only where there is a driver, with the primary context current.
"""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.errors import BackendUnavailableError, DeviceMemoryError, EngineRunError

INVALID_VALUE = 1  # CUDA_ERROR_INVALID_VALUE
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
UNKNOWN = 999  # CUDA_ERROR_UNKNOWN
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream of other libraries

HostArray = NDArray[np.uint8]

LIBRARIES = {"Windows": "nvcuda.dll"}
DEFAULT_LIBRARY = "libcuda.so.1"
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads do not spoil it
NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
ON_DEVICE = 2  # CU_MEMORYTYPE_DEVICE
HANDLE = ctypes.c_void_p
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (HANDLE, ctypes.c_int),
    "cuStreamEndCapture": (HANDLE, ctypes.POINTER(HANDLE)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(HANDLE), HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (HANDLE, HANDLE),
    "cuGraphExecDestroy": (HANDLE,),
    "cuGraphDestroy": (HANDLE,),
    "cuCtxSynchronize": (),
    "cuStreamSynchronize": (HANDLE,),
    "cuMemcpy2DAsync_v2": (ctypes.c_void_p, HANDLE),
    "cuMemcpy2DUnaligned_v2": (ctypes.c_void_p,),
    "cuEventCreate": (ctypes.POINTER(HANDLE), ctypes.c_uint),
    "cuEventRecord": (HANDLE, HANDLE),
    "cuStreamWaitEvent": (HANDLE, HANDLE, ctypes.c_uint),
    "cuEventDestroy_v2": (HANDLE,),
}


@dataclass(frozen=True)
class Rows:
    """`count` rows of `size` bytes each; a row begins `pitch` bytes after the one before."""

    count: int
    size: int
    pitch: int


class _End(ctypes.Structure):
    """One end of a `CUDA_MEMCPY2D`."""

    _fields_ = (
        ("x", ctypes.c_size_t),
        ("y", ctypes.c_size_t),
        ("kind", ctypes.c_int),
        ("host", ctypes.c_void_p),
        ("device", ctypes.c_uint64),
        ("array", ctypes.c_void_p),
        ("pitch", ctypes.c_size_t),
    )


class Copy2D(ctypes.Structure):
    """The driver's `CUDA_MEMCPY2D`."""

    _fields_ = (
        ("source", _End),
        ("target", _End),
        ("width", ctypes.c_size_t),
        ("height", ctypes.c_size_t),
    )


class CudaDevice(Protocol):
    """One GPU; addresses, streams and graphs are plain numbers.

    All but `active` and the properties are called inside `with active():`. They
    raise DeviceMemoryError when memory is short and EngineRunError for any other failure. Copies
    are asynchronous: host arrays come from `allocate_host` and stay as they are until
    `synchronize(stream)`.
    """

    @property
    def index(self) -> int:
        """The GPU's number."""
        ...

    @property
    def capability(self) -> str:
        """The compute capability: "8.7"."""
        ...

    @property
    def is_integrated(self) -> bool:
        """Whether its memory is the host's, as on a Jetson: `allocate_host` then serves both."""
        ...

    def active(self) -> AbstractContextManager[None]:
        """Make the primary context this thread's current one; restore the former one at the end."""
        ...

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU; return their address."""
        ...

    def free(self, address: int) -> None:
        """Free memory that `allocate` returned."""
        ...

    def allocate_host(self, size: int) -> HostArray:
        """Allocate `size` bytes of pinned host memory: uint8, one axis."""
        ...

    def host_address(self, array: HostArray) -> int:
        """Return where an integrated GPU sees an array of `allocate_host`.

        The host neither reads nor writes it while work that uses it is under way.
        """
        ...

    def free_host(self, array: HostArray) -> None:
        """Free memory that `allocate_host` returned; the array must not be used afterwards."""
        ...

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default one."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream of `create_stream`."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait for all work of a stream; failures of that work are raised here."""
        ...

    def wait_for_all(self) -> None:
        """Wait for all work in the context, that of other libraries too."""
        ...

    def order(self, stream: int, after: int) -> None:
        """Let the next work of `stream` wait for what `after` has been given so far."""
        ...

    def to_device(self, address: int, array: HostArray, stream: int) -> None:
        """Copy all of a pinned array to the GPU."""
        ...

    def to_host(self, array: HostArray, address: int, stream: int) -> None:
        """Fill a pinned array from the GPU."""
        ...

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy `size` bytes within the GPU."""
        ...

    def copy_rows(self, target: int, pitch: int, source: int, rows: Rows, stream: int) -> None:
        """Copy `rows` at `source` within the GPU; at `target` they begin `pitch` bytes apart."""
        ...

    def begin_capture(self, stream: int) -> None:
        """Record this thread's work on `stream` from now on instead of doing it."""
        ...

    def end_capture(self, stream: int) -> int:
        """Stop recording and return the graph; raises when the work cannot be captured."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Do the recorded work."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph of `end_capture`."""
        ...

    def free_memory(self) -> tuple[int, int]:
        """Return the free and the total memory of the GPU in bytes."""
        ...


def cuda_error(call: str, code: int, text: str) -> EngineRunError:
    """Return the error of a driver call that failed with `code`."""
    if code == OUT_OF_MEMORY:
        return DeviceMemoryError(
            f"the GPU has too little free memory ({call}). Close other models and scenes or other "
            "programs on it, send fewer prompts at once, or choose a smaller bundle or precision."
        )
    return EngineRunError(
        f"CUDA failed: {call}: {text} (code {code}). After an error in a kernel no further call "
        "works in this process: start it again, and if that does not help update the driver."
    )


def no_device(index: int, count: int) -> BackendUnavailableError:
    """Return the error for a GPU that is not there."""
    have = f"there {'is' if count == 1 else 'are'} {count}, counted from 0" if count else "none"
    return BackendUnavailableError(
        f"there is no GPU {index}: {have}. To do: choose device= below {count}, or check "
        "CUDA_VISIBLE_DEVICES and that the container was started with its GPU."
    )


class CudaGraphs:
    """Graphs, and the order of streams; `library` is the loaded driver, None: load it."""

    def __init__(self, library: Any = None) -> None:
        name = LIBRARIES.get(platform.system(), DEFAULT_LIBRARY)
        self._library = ctypes.CDLL(name) if library is None else library
        for function, types in SIGNATURES.items():
            getattr(self._library, function).argtypes = types

    def begin_capture(self, stream: int) -> None:
        """Record this thread's work on `stream` from now on instead of doing it."""
        self._call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Stop recording and return the graph; raises when the work cannot be captured."""
        recorded, ready = HANDLE(), HANDLE()
        self._call("cuStreamEndCapture", stream, ctypes.byref(recorded))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), recorded, 0)
        finally:
            self._call("cuGraphDestroy", recorded)
        return ready.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Do the recorded work."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph of `end_capture`."""
        self._call("cuGraphExecDestroy", graph)

    def wait_for_all(self) -> None:
        """Wait for all work in the context, that of other libraries too."""
        self._call("cuCtxSynchronize")

    def order(self, stream: int, after: int) -> None:
        """Let the next work of `stream` wait for what `after` has been given so far."""
        event = HANDLE()
        self._call("cuEventCreate", ctypes.byref(event), NO_TIMING)
        try:
            self._call("cuEventRecord", event, after)
            self._call("cuStreamWaitEvent", stream, event, 0)
        finally:
            self._call("cuEventDestroy_v2", event)  # the driver keeps what is recorded

    def copy_rows(self, target: int, pitch: int, source: int, rows: Rows, stream: int) -> None:
        """Copy `rows` at `source` within the GPU; at `target` they begin `pitch` bytes apart.

        The driver may refuse pitches that are not its own, but for a call that takes all and that
        has no stream (CUDA Driver API, `cuMemcpy2D`): that one is made then, and waited for.
        """
        copy = Copy2D(
            source=_End(kind=ON_DEVICE, device=source, pitch=rows.pitch),
            target=_End(kind=ON_DEVICE, device=target, pitch=pitch),
            width=rows.size,
            height=rows.count,
        )
        code = self._code("cuMemcpy2DAsync_v2", ctypes.byref(copy), stream)
        if code == INVALID_VALUE:
            self._call("cuStreamSynchronize", stream)
            self._call("cuMemcpy2DUnaligned_v2", ctypes.byref(copy))
            self.wait_for_all()
        elif code:
            raise _unknown("cuMemcpy2DAsync_v2", code)

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._code(name, *arguments)
        if code:
            raise _unknown(name, code)

    def _code(self, name: str, *arguments: Any) -> int:
        return int(getattr(self._library, name)(*arguments))


def _unknown(name: str, code: int) -> EngineRunError:
    return cuda_error(name, code, "see cudaError_enum in cuda.h")
