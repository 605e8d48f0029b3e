"""Memory of one engine on a GPU, pinned memory for its copies, and the tensors that live there.

Tensors outlive their engine: the GPU's context is given back when the last of them is gone.
"""

from __future__ import annotations

import logging
import math
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.cuda.block_pool import Block, BlockPool
from samclip.engines.cuda.driver import CudaDevice, HostArray
from samclip.errors import EngineRunError

_logger = logging.getLogger("samclip")

DeviceBlock = Block[int]
PinnedBlock = Block[HostArray]


class DeviceMemory:
    """Blocks on `device` and in pinned host memory, and streams; owns `device`."""

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self.blocks: BlockPool[int] = BlockPool(self._allocate, self._free, self._end)
        self.pinned: BlockPool[HostArray] = BlockPool(
            self._allocate_host, self._free_host, self._end
        )
        self._streams: list[int] = []
        self._closed = False
        self._process = os.getpid()

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
        """Give a stream, inside `device.active()`."""
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

    def tensor(
        self, block: DeviceBlock, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> CudaTensor:
        """Make a tensor of a block, which comes back when the tensor goes."""
        tensor = CudaTensor(self, block, shape, dtype)
        finalizer = weakref.finalize(tensor, self.blocks.give, block)
        finalizer.atexit = False  # the driver frees all when the process ends
        return tensor

    def read(self, tensor: CudaTensor) -> NDArray[np.generic]:
        """Copy a tensor to the host, through pinned memory; raises EngineRunError."""
        self.check_process()
        size = tensor.nbytes
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
        """Free all but what tensors still hold, which goes with them."""
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

    def _free(self, address: int) -> None:
        with freeing("device memory"), self.device.active():
            self.device.free(address)

    def _free_host(self, array: HostArray) -> None:
        with freeing("pinned memory"), self.device.active():
            self.device.free_host(array)

    def _end(self) -> None:
        """Give the device back once both pools are empty for good."""
        if self._closed and self.blocks.made == 0 and self.pinned.made == 0:
            self.device.close()


class CudaTensor:
    """A C-contiguous array on a GPU, ready to be read: its computation has ended."""

    def __init__(
        self, memory: DeviceMemory, block: DeviceBlock, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._memory = memory
        self._block = block
        self._shape = shape
        self.dtype = dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return self._shape

    @property
    def nbytes(self) -> int:
        """The size of the data in bytes."""
        return math.prod(self._shape) * self.dtype.itemsize

    @property
    def address(self) -> int:
        """Where the data is on the device; valid while this tensor lives."""
        return self._block.memory

    def is_on(self, index: int) -> bool:
        """Whether it is on the GPU of this number, and in this process."""
        self._memory.check_process()
        return self._memory.device.index == index

    def numpy(self) -> NDArray[np.generic]:
        """Bring the data to the host; raises EngineRunError."""
        return self._memory.read(self)


@contextmanager
def freeing(what: str) -> Iterator[None]:
    """Report what cannot be freed: that happens after an error in a kernel, in finalizers too."""
    try:
        yield
    except EngineRunError as error:
        _logger.warning("%s could not be freed: %s", what, error)
