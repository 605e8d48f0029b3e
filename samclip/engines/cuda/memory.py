"""Memory of one engine on a GPU, pinned memory for its copies, and the tensors that live there.

Tensors outlive their engine.

Allocating on a GPU waits for all its work, so returned blocks are kept, by size class, until the
pool is closed or memory is short. Finalizers return blocks at any moment in any thread, even inside
this module: so returning a block only appends to a queue, which every other call empties first.

A block that another library was given comes back while work of that library may still read it. It
is used again, or freed, only after all work of the GPU has been waited for, and only where memory
would have to be allocated else, which waits as well.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from samclip.engines.cuda.driver import CudaDevice, HostArray
from samclip.engines.dlpack import CUDA, Placed
from samclip.engines.process_edges import keep_in_children
from samclip.errors import DeviceMemoryError, EngineRunError

GRAIN = 512  # bytes; TensorRT wants addresses that are multiples of 256
STEPS = 2  # 2**2 size classes per power of two: at most a quarter is wasted

Memory = TypeVar("Memory")

_logger = logging.getLogger("samclip")


@dataclass(eq=False)
class Block(Generic[Memory]):
    """`size` bytes of `memory`: a device address, or a pinned array.

    `is_lent_out`: another library was given it, and may have work under way on it.
    """

    memory: Memory
    size: int
    is_lent_out: bool = False


class BlockPool(Generic[Memory]):
    """Lends blocks, made by `allocate` and freed by `free`; `wait` is for all work of the GPU.

    After `close` it still serves, but keeps nothing: results outlive the engine they come from.
    """

    def __init__(
        self,
        allocate: Callable[[int], Memory],
        free: Callable[[Memory], None],
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._allocate = allocate
        self._free = free
        self._wait = wait
        self._returned: deque[Block[Memory]] = deque()
        self._kept: dict[int, list[Block[Memory]]] = {}
        self._unsettled: dict[int, list[Block[Memory]]] = {}  # which were lent out
        self._lock = threading.Lock()
        self._made = 0  # blocks that exist
        self._closed = False
        self._process = os.getpid()

    @property
    def made(self) -> int:
        """How many blocks exist, lent or kept."""
        return self._made

    def take(self, size: int) -> Block[Memory]:
        """Return a block of at least `size` bytes; raises DeviceMemoryError."""
        try:
            with self._lock:
                return self._take(size_class(size))
        finally:
            self._settle_if_closed()

    def give(self, block: Block[Memory]) -> None:
        """Take a block back; safe in a finalizer. In a forked child do nothing."""
        if os.getpid() != self._process:
            return
        self._returned.append(block)
        self._settle_if_closed()

    def trim(self) -> None:
        """Free the blocks that are kept for later."""
        with self._lock:
            self._sort_returned()
            self._free_kept()

    def close(self) -> None:
        """Free the blocks that are kept, and from now on every block that comes back."""
        self._closed = True
        self.trim()
        self._settle_if_closed()

    def _take(self, wanted: int) -> Block[Memory]:
        self._sort_returned()
        if not self._kept.get(wanted) and self._unsettled.get(wanted):
            self._wait()
            self._settle()
        kept = self._kept.get(wanted)
        if kept:
            return kept.pop()
        try:
            memory = self._allocate(wanted)
        except DeviceMemoryError:
            self._free_kept()
            memory = self._allocate(wanted)
        self._made += 1
        return Block(memory, wanted)

    def _settle_if_closed(self) -> None:
        """Free all blocks that came back; the holder of the lock does so when it releases it."""
        while self._closed and self._lock.acquire(blocking=False):
            try:
                self._sort_returned()
                self._free_kept()
            finally:
                self._lock.release()
            if not self._returned:
                return

    def _sort_returned(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            place = self._unsettled if block.is_lent_out else self._kept
            place.setdefault(block.size, []).append(block)

    def _settle(self) -> None:
        """Keep the blocks that were lent out like others: all work on them has ended."""
        while self._unsettled:
            size, blocks = self._unsettled.popitem()
            for block in blocks:
                block.is_lent_out = False
            self._kept.setdefault(size, []).extend(blocks)

    def _free_kept(self) -> None:
        if self._unsettled:
            with freeing("memory that another library was given"):  # an error ends its work too
                self._wait()
            self._settle()
        while self._kept:
            _, blocks = self._kept.popitem()
            for block in blocks:
                self._made -= 1
                self._free(block.memory)


def size_class(size: int) -> int:
    """Round a size in bytes up to its class; at least GRAIN."""
    step = max(GRAIN, 1 << max(0, size.bit_length() - 1 - STEPS))
    return max(-(-size // step), 1) * step


def size_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the size of an array in bytes."""
    return math.prod(shape) * dtype.itemsize


DeviceBlock = Block[int]
PinnedBlock = Block[HostArray]


class DeviceMemory:
    """Blocks on `device` and in pinned host memory, and streams."""

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self.blocks: BlockPool[int] = BlockPool(self._allocate, self._free, self._wait_for_all)
        self.pinned: BlockPool[HostArray] = BlockPool(
            self._allocate_host, self._free_host, self._wait_for_all
        )
        # Names of outputs that engines read: a GPU reads its own memory faster than mapped memory.
        self.gpu_reads: set[str] = set()
        self._streams: list[int] = []
        self._closed = False
        self._process = os.getpid()
        keep_in_children(self)

    def check_process(self) -> None:
        """Refuse a forked child, in which CUDA does not work; raises EngineRunError."""
        if os.getpid() != self._process:
            raise EngineRunError(
                "the GPU was opened before the process forked. Load the model in the child, or "
                "start processes with the 'spawn' method."
            )

    @contextmanager
    def stream(self) -> Iterator[int]:
        """Lend a stream, inside `device.active()`."""
        stream = self.take_stream()
        try:
            yield stream
        finally:
            self.give_stream(stream)

    def take_stream(self) -> int:
        """Return a stream, inside `device.active()`."""
        try:
            return self._streams.pop()
        except IndexError:
            return self.device.create_stream()

    def give_stream(self, stream: int) -> None:
        """Take a stream back, all of whose work is done."""
        if self._closed:
            self.device.destroy_stream(stream)
        else:
            self._streams.append(stream)

    def tensor(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> CudaTensor:
        """Return a new tensor, undefined yet, whose block comes back when it goes.

        Raises DeviceMemoryError.
        """
        block = self.blocks.take(size_of(shape, dtype))
        tensor = CudaTensor(self, block, shape, dtype)
        finalizer = weakref.finalize(tensor, self.blocks.give, block)
        finalizer.atexit = False  # the driver frees all when the process ends
        return tensor

    def mapped_tensor(self, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> CudaTensor:
        """Return one in pinned memory, which an integrated GPU sees; inside `active()`.

        `name`: the output that it is, see `gpu_reads`. Raises DeviceMemoryError.
        """
        pinned = self.pinned.take(size_of(shape, dtype))
        block = DeviceBlock(self.device.host_address(pinned.memory), pinned.size)
        tensor = CudaTensor(self, block, shape, dtype, pinned=pinned, name=name)
        finalizer = weakref.finalize(tensor, self.pinned.give, pinned)
        finalizer.atexit = False
        return tensor

    def read(self, tensor: CudaTensor) -> NDArray[np.generic]:
        """Copy a tensor to the host, through pinned memory; raises EngineRunError."""
        self.check_process()
        size = tensor.nbytes
        if tensor.mapped is not None:
            data = np.empty(tensor.shape, tensor.dtype)
            data.reshape(-1).view(np.uint8)[:] = tensor.mapped[:size]
            return data
        pinned = self.pinned.take(size)
        try:
            with self.device.active(), self.stream() as stream:
                if size:
                    self.device.to_host(pinned.memory[:size], tensor.address, stream)
                self.device.synchronize(stream)
            data = np.empty(tensor.shape, tensor.dtype)
            data.reshape(-1).view(np.uint8)[:] = pinned.memory[:size]
            return data
        finally:
            self.pinned.give(pinned)

    def close(self) -> None:
        """Free all but the memory of tensors that are left, which is freed with them."""
        self._closed = True
        with self.device.active():
            while self._streams:
                self.device.destroy_stream(self._streams.pop())
        self.pinned.close()
        self.blocks.close()

    def _allocate(self, size: int) -> int:
        with self.device.active():
            return self.device.allocate(size)

    def _allocate_host(self, size: int) -> HostArray:
        with self.device.active():
            return self.device.allocate_host(size)

    def _wait_for_all(self) -> None:
        with self.device.active():
            self.device.wait_for_all()

    def _free(self, address: int) -> None:
        with freeing("device memory"), self.device.active():
            self.device.free(address)

    def _free_host(self, array: HostArray) -> None:
        with freeing("pinned memory"), self.device.active():
            self.device.free_host(array)


class CudaTensor:
    """A C-contiguous array on a GPU, ready to be read: its computation has ended.

    A view starts `offset` bytes into the block of the tensor `whole`, which it keeps alive.
    `pinned`: the same block as the host sees it, None where it is the GPU's alone; `name`: the
    output that it is then.
    """

    is_contiguous = True

    def __init__(
        self,
        memory: DeviceMemory,
        block: DeviceBlock,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        pinned: PinnedBlock | None = None,
        name: str = "",
        offset: int = 0,
        whole: CudaTensor | None = None,
    ) -> None:
        self._memory = memory
        self._block = block
        self._shape = shape
        self._offset = offset
        self._whole = whole
        self.dtype = dtype
        self._pinned = pinned
        self._name = name

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return self._shape

    @property
    def nbytes(self) -> int:
        """The size of the data in bytes."""
        return size_of(self._shape, self.dtype)

    @property
    def address(self) -> int:
        """The data's address on the device; valid while this tensor lives."""
        return self._block.memory + self._offset

    @property
    def mapped(self) -> HostArray | None:
        """Its bytes, and what follows in its block, as the host sees them; None if it does not."""
        return None if self._pinned is None else self._pinned.memory[self._offset :]

    def note_gpu_reads(self) -> None:
        """Note that the GPU reads it: later outputs of its name are put into the GPU's memory."""
        if self._pinned is not None:
            self._memory.gpu_reads.add(self._name)

    def is_on(self, index: int) -> bool:
        """Whether it is on the GPU of this number, and in this process."""
        self._memory.check_process()
        return self._memory.device.index == index

    def make_ready(self, device: CudaDevice, stream: int) -> None:  # noqa: ARG002 - as ForeignTensor has it
        """Note that the GPU reads it; the data may be read on any stream."""
        self.note_gpu_reads()

    def lend(self) -> Placed:
        """Return the data's place, for another library that keeps this tensor alive.

        Its work may outlast the tensor: the memory is used again only after that has ended.
        """
        self._memory.check_process()
        self.note_gpu_reads()
        (self._pinned or self._block).is_lent_out = True
        return Placed((CUDA, self._memory.device.index), self.address, self._shape, self.dtype)

    def part(self, *index: int) -> CudaTensor:
        """Return the sub-array at indices of the leading axes; a view, without a copy."""
        rest = self._shape[len(index) :]
        start = int(np.ravel_multi_index(index, self._shape[: len(index)])) * math.prod(rest)
        offset = self._offset + start * self.dtype.itemsize
        return CudaTensor(
            self._memory,
            self._block,
            rest,
            self.dtype,
            pinned=self._pinned,
            name=self._name,
            offset=offset,
            whole=self,
        )

    def numpy(self) -> NDArray[np.generic]:
        """Bring the data to the host; raises EngineRunError."""
        return self._memory.read(self)


@contextmanager
def freeing(what: str) -> Iterator[None]:
    """Log what cannot be freed: that happens after an error in a kernel, in finalizers too."""
    try:
        yield
    except EngineRunError as error:
        _logger.warning("%s could not be freed: %s", what, error)
