"""A GPU in host memory that holds callers to CUDA's rules: the stand-in for the driver.

Work on a stream is done only when the stream is synchronised, so that code which forgets to wait
reads nothing. Whatever CUDA leaves undefined raises `Broken`: memory that was freed, a copy out of
bounds or from pageable memory, a call without a current context, a graph whose context changed.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.cuda.driver import Copy2D

INVALID_VALUE, OUT_OF_MEMORY, CAPTURE_UNSUPPORTED = 1, 2, 900
DEVICE_MAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP
PAGE = 4096
AS_THE_GPU_SEES_IT = 2**52  # mapped memory has another address there: who mixes them up is found

Watch = Callable[[], Callable[[], None]]
Recorded = tuple[Callable[[], None], "Watch | None"]


class Broken(BaseException):
    """A rule of CUDA was broken: passes through every `except Exception`."""


class CudaCallError(Exception):
    """The driver reports a failure."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Stream:
    handle: int
    work: list[Callable[[], None]] = field(default_factory=list)
    recording: list[Recorded] | None = None
    recorder: int = 0  # the thread that records


@dataclass
class FakeGpu:
    """`memory`: bytes that may be allocated on it; `capability` as in "8.6".

    `integrated`: its memory is the host's, and it sees host memory that was allocated as mapped, at
    another address. The host must not write there between the enqueueing of work that reads it and
    the end of that work.
    """

    memory: int = 2**26
    capability: tuple[int, int] = (8, 6)
    count: int = 1
    can_capture: bool = True
    integrated: bool = False

    def __post_init__(self) -> None:
        self.blocks: dict[int, NDArray[np.uint8]] = {}  # by address
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Recorded]] = {}
        self.retained = 0
        self.calls: list[str] = []
        self.captures = self.launches = self.allocations = self.waits = 0
        self.mapped: set[int] = set()  # addresses of pinned memory that the GPU may see
        self.copies: list[str] = []  # that were enqueued
        self.copied: list[tuple[str, int]] = []  # the same, with their bytes
        self.takes_any_pitch = True  # False: the 2D copy on a stream wants pitches of its own
        self._handles = iter(range(1000, 10**9))
        self._current = threading.local()
        self.lock = threading.RLock()

    @property
    def used(self) -> int:
        return sum(block.nbytes for block in self.blocks.values())

    @property
    def is_clean(self) -> bool:
        return not (self.blocks or self.pinned or self.streams or self.graphs or self.retained)

    def stack(self) -> list[str]:
        if not hasattr(self._current, "stack"):
            self._current.stack = []
        return self._current.stack  # type: ignore[no-any-return]

    def push(self) -> None:
        if not self.retained:
            raise Broken("the primary context was released")
        self.stack().append("primary")

    def pop(self) -> None:
        if not self.stack():
            raise Broken("pop without push")
        self.stack().pop()

    def need_context(self) -> None:
        if "primary" not in self.stack()[-1:]:
            raise Broken("no current context in this thread")

    def release(self) -> None:
        self.retained -= 1
        if self.retained < 0:
            raise Broken("released once too often")
        if not self.retained and (self.blocks or self.pinned or self.streams or self.graphs):
            raise Broken("the context is released before what was made in it")

    def allocate(self, size: int) -> int:
        with self.lock:
            self.need_context()
            recording = [s.recorder for s in self.streams.values() if s.recording is not None]
            if threading.get_ident() in recording:
                raise CudaCallError(CAPTURE_UNSUPPORTED)
            if self.used + size > self.memory:
                raise CudaCallError(OUT_OF_MEMORY)
            block = np.full(size + 256, 0xCD, np.uint8)  # as uninitialised memory
            address = -(-block.ctypes.data // 256) * 256
            self.blocks[address] = block[address - block.ctypes.data :][:size]
            self.allocations += 1
            return address

    def free(self, address: int) -> None:
        with self.lock:
            self.need_context()
            if address not in self.blocks:
                raise Broken(f"freed twice, or never allocated: {address}")
            self.blocks.pop(address)[:] = 0xDD

    def allocate_host(self, size: int, flags: int = 1) -> NDArray[np.uint8]:
        with self.lock:
            self.need_context()
            whole = np.full(size + PAGE, 0xCD, np.uint8)
            array = whole[-whole.ctypes.data % PAGE :][:size]
            self.pinned[array.ctypes.data] = array
            if flags & DEVICE_MAP:
                self.mapped.add(array.ctypes.data)
            return array

    def device_pointer(self, address: int) -> int:
        self.need_context()
        if address not in self.mapped or not self.integrated:
            raise Broken("host memory that was not allocated as mapped, or on another GPU")
        return address + AS_THE_GPU_SEES_IT

    def is_mapped(self, address: int) -> bool:
        return address >= AS_THE_GPU_SEES_IT

    def free_host(self, address: int) -> None:
        with self.lock:
            self.need_context()
            if address not in self.pinned:
                raise Broken("pinned memory freed twice, or never allocated")
            del self.pinned[address]
            self.mapped.discard(address)

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """The bytes at an address, which must lie in one live allocation."""
        if self.is_mapped(address):
            host = address - AS_THE_GPU_SEES_IT
            for start in self.mapped:
                if start <= host and host + size <= start + self.pinned[start].nbytes:
                    return self.pinned[start][host - start :][:size]
        for start, block in self.blocks.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start :][:size]
        raise Broken(f"{size} bytes at {address} are not in allocated memory")

    def pinned_view(self, address: int, size: int) -> NDArray[np.uint8]:
        for start, array in self.pinned.items():
            if start <= address and address + size <= start + array.nbytes:
                return array[address - start :][:size]
        raise Broken("an asynchronous copy needs pinned memory")

    def create_stream(self, flags: int) -> int:
        with self.lock:
            self.need_context()
            if flags != 1:
                raise Broken("a stream that waits for the default one")
            handle = next(self._handles)
            self.streams[handle] = Stream(handle)
            return handle

    def destroy_stream(self, handle: int) -> None:
        with self.lock:
            self.need_context()
            if self.streams.pop(handle).work:
                raise Broken("a stream is destroyed while it has work")

    def submit(self, handle: int, work: Callable[[], None], watch: Watch | None = None) -> None:
        """Enqueue work; `watch` is called then, and what it gives before the work is done."""
        with self.lock:
            self.need_context()
            stream = self._stream(handle)
            if stream.recording is not None:
                stream.recording.append((work, watch))
                return
            if watch is not None:
                stream.work.append(watch())
            stream.work.append(work)

    def synchronize(self, handle: int) -> None:
        self.need_context()
        stream = self._stream(handle)
        if stream.recording is not None:
            raise CudaCallError(CAPTURE_UNSUPPORTED)
        work, stream.work = stream.work, []
        for task in work:
            task()

    def wait_for_all(self) -> None:
        self.need_context()
        for handle, stream in list(self.streams.items()):
            if stream.recording is None:
                self.synchronize(handle)
        self.waits += 1

    def order(self, stream: int, after: int) -> None:
        """What `after` has been given so far is done before the next work of `stream`."""
        before = self._stream(after)
        count = len(before.work)

        def wait() -> None:
            done, before.work = before.work[:count], before.work[count:]
            for task in done:
                task()

        self.submit(stream, wait)

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        pinned = self.pinned_view(source, size)
        self._note("to device", size)
        self.submit(stream, lambda: self._copy(self.view(target, size), pinned))

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        pinned = self.pinned_view(target, size)
        self._note("to host", size)
        self.submit(stream, lambda: self._copy(pinned, self.view(source, size)))

    def on_device(self, target: int, source: int, size: int, stream: int) -> None:
        self._note("on device", size)
        self.submit(stream, lambda: self._copy(self.view(target, size), self.view(source, size)))

    def rows_on_device(self, copy: Copy2D, stream: int, takes_any_pitch: bool) -> None:
        source, target = copy.source, copy.target
        ends = (source.kind, target.kind, source.x, source.y, target.x, target.y)
        if ends != (2, 2, 0, 0, 0, 0) or min(source.pitch, target.pitch) < copy.width:
            raise Broken("rows that are not on the device, or overlap")
        if not takes_any_pitch and (source.pitch % 32 or target.pitch % 32):
            raise CudaCallError(INVALID_VALUE)
        self._note("on device", copy.width * copy.height)
        places = [(source.device + row * source.pitch) for row in range(copy.height)]
        targets = [(target.device + row * target.pitch) for row in range(copy.height)]
        width = copy.width

        def work() -> None:
            for place, to in zip(places, targets, strict=True):
                self._copy(self.view(to, width), self.view(place, width))

        self.submit(stream, work)

    def _note(self, copy: str, size: int) -> None:
        self.copies.append(copy)
        self.copied.append((copy, size))

    def _copy(self, target: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
        target[:] = source

    def begin_capture(self, handle: int, mode: int) -> None:
        self.need_context()
        if mode != 1:
            raise Broken("a capture that calls of other threads can spoil")
        stream = self._stream(handle)
        stream.recording, stream.recorder = [], threading.get_ident()

    def is_recording(self, handle: int) -> bool:
        return self._stream(handle).recording is not None

    def end_capture(self, handle: int) -> list[Recorded]:
        self.need_context()
        stream = self._stream(handle)
        recorded, stream.recording = stream.recording, None
        if recorded is None or not self.can_capture:
            raise CudaCallError(CAPTURE_UNSUPPORTED)
        return recorded

    def add_graph(self, recorded: list[Recorded]) -> int:
        with self.lock:
            handle = next(self._handles)
            self.graphs[handle] = recorded
            self.captures += 1
            return handle

    def launch(self, graph: int, stream: int) -> None:
        if graph not in self.graphs:
            raise Broken("a destroyed graph is launched")
        self.launches += 1
        for task, watch in self.graphs[graph]:
            self.submit(stream, task, watch)

    def destroy_graph(self, graph: int) -> None:
        self.need_context()
        if self.graphs.pop(graph, None) is None:
            raise Broken("a graph is destroyed twice")

    def _stream(self, handle: int) -> Stream:
        if handle not in self.streams:
            raise Broken("a stream that does not exist")
        return self.streams[handle]


def status(work: Callable[[], Any]) -> tuple[int, Any]:
    """Do a call; gives CUDA's result code and the value."""
    try:
        return 0, work()
    except CudaCallError as failure:
        return failure.code, None


class FakeLibcuda:
    """The driver's C functions for graphs and the order of streams, as `ctypes` shows them."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self._recorded: dict[int, list[Recorded]] = {}
        self._events: dict[int, int] = {}  # the stream that each was recorded on
        for name in (
            "cuStreamBeginCapture_v2",
            "cuStreamEndCapture",
            "cuGraphInstantiateWithFlags",
            "cuGraphLaunch",
            "cuGraphExecDestroy",
            "cuGraphDestroy",
            "cuCtxSynchronize",
            "cuStreamSynchronize",
            "cuMemcpy2DAsync_v2",
            "cuMemcpy2DUnaligned_v2",
            "cuEventCreate",
            "cuEventRecord",
            "cuStreamWaitEvent",
            "cuEventDestroy_v2",
        ):
            method = getattr(self, f"_{name}")
            setattr(self, name, lambda *a, method=method: status(lambda: method(*a))[0])
            getattr(self, name).argtypes = None

    def _cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:  # noqa: N802
        self._gpu.begin_capture(stream, mode)

    def _cuStreamEndCapture(self, stream: int, graph: Any) -> None:  # noqa: N802
        recorded = self._gpu.end_capture(stream)
        self._recorded[id(recorded)] = recorded
        graph._obj.value = id(recorded)

    def _cuGraphInstantiateWithFlags(self, ready: Any, graph: Any, flags: int) -> None:  # noqa: N802
        ready._obj.value = self._gpu.add_graph(self._recorded[graph.value])

    def _cuGraphLaunch(self, graph: int, stream: int) -> None:  # noqa: N802
        self._gpu.launch(graph, stream)

    def _cuGraphExecDestroy(self, graph: int) -> None:  # noqa: N802
        self._gpu.destroy_graph(graph)

    def _cuGraphDestroy(self, graph: ctypes.c_void_p) -> None:  # noqa: N802
        if self._recorded.pop(graph.value or 0, None) is None:
            raise Broken("a recorded graph is destroyed twice")

    def _cuCtxSynchronize(self) -> None:  # noqa: N802
        self._gpu.wait_for_all()

    def _cuStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        self._gpu.synchronize(stream)

    def _cuMemcpy2DAsync_v2(self, copy: Any, stream: int) -> None:  # noqa: N802
        self._gpu.rows_on_device(copy._obj, stream, self._gpu.takes_any_pitch)

    def _cuMemcpy2DUnaligned_v2(self, copy: Any) -> None:  # noqa: N802
        own = self._gpu.create_stream(1)  # in place of the default one, which is waited for
        self._gpu.rows_on_device(copy._obj, own, True)
        self._gpu.synchronize(own)
        self._gpu.destroy_stream(own)

    def _cuEventCreate(self, event: Any, flags: int) -> None:  # noqa: N802
        if flags != 2:
            raise Broken("an event that takes the time")
        event._obj.value = next(self._gpu._handles)
        self._events[event._obj.value] = 0

    def _cuEventRecord(self, event: ctypes.c_void_p, stream: int) -> None:  # noqa: N802
        self._events[event.value or 0] = stream

    def _cuStreamWaitEvent(self, stream: int, event: ctypes.c_void_p, flags: int) -> None:  # noqa: N802
        self._gpu.order(stream, self._events[event.value or 0])

    def _cuEventDestroy_v2(self, event: ctypes.c_void_p) -> None:  # noqa: N802
        del self._events[event.value or 0]
