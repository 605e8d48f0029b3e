"""Captured CUDA graphs, by the driver's own C functions: pycuda has none of them.

Called only where a driver is, with the primary context current.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Any

from samclip.engines.cuda.driver import cuda_error

LIBRARIES = {"Windows": "nvcuda.dll"}
DEFAULT_LIBRARY = "libcuda.so.1"
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads do not spoil it
HANDLE = ctypes.c_void_p
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (HANDLE, ctypes.c_int),
    "cuStreamEndCapture": (HANDLE, ctypes.POINTER(HANDLE)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(HANDLE), HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (HANDLE, HANDLE),
    "cuGraphExecDestroy": (HANDLE,),
    "cuGraphDestroy": (HANDLE,),
}


class CudaGraphs:
    """Capture, launch and destruction of graphs; `library` is the loaded driver, None: load it."""

    def __init__(self, library: Any = None) -> None:
        name = LIBRARIES.get(platform.system(), DEFAULT_LIBRARY)
        self._library = ctypes.CDLL(name) if library is None else library
        for function, types in SIGNATURES.items():
            getattr(self._library, function).argtypes = types

    def begin_capture(self, stream: int) -> None:
        """Record this thread's work on `stream` from now on instead of doing it."""
        self._call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Stop recording and give the graph; raises when what was recorded cannot be one."""
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
        """Destroy what `end_capture` gave."""
        self._call("cuGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            raise cuda_error(name, code, "see cudaError_enum in cuda.h")
