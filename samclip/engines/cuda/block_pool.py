"""Blocks of device or pinned memory, kept for their next use.

Allocating on a GPU waits for all its work, so what is given back is kept, by size class, until the
pool is closed or memory is short. Blocks are given back by finalizers, which run at any moment in
any thread, even inside this module: giving back only appends to a queue, which every other call
empties first.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from samclip.errors import DeviceMemoryError

GRAIN = 512  # bytes; TensorRT wants addresses that are multiples of 256
STEPS = 2  # 2**2 size classes per power of two: at most a quarter is wasted

Memory = TypeVar("Memory")


@dataclass(frozen=True, eq=False)
class Block(Generic[Memory]):
    """`size` bytes of `memory`: a device address, or a pinned array."""

    memory: Memory
    size: int


class BlockPool(Generic[Memory]):
    """Gives out blocks that `allocate` makes and `free` ends; `idle` is called once all are freed.

    After `close` it still serves, keeping nothing: results outlive the engine they come from.
    """

    def __init__(
        self,
        allocate: Callable[[int], Memory],
        free: Callable[[Memory], None],
        idle: Callable[[], None],
    ) -> None:
        self._allocate, self._free, self._idle = allocate, free, idle
        self._returned: deque[Block[Memory]] = deque()
        self._kept: dict[int, list[Block[Memory]]] = {}
        self._lock = threading.Lock()
        self._made = 0  # blocks that exist
        self._closed = False
        self._process = os.getpid()

    @property
    def made(self) -> int:
        """How many blocks exist, given out or kept."""
        return self._made

    def take(self, size: int) -> Block[Memory]:
        """Give a block of at least `size` bytes; raises DeviceMemoryError."""
        try:
            with self._lock:
                return self._take(size_class(size))
        finally:
            self._settle_if_closed()

    def give(self, block: Block[Memory]) -> None:
        """Take a block back; safe in a finalizer. In a forked child it is the parent's."""
        if os.getpid() != self._process:
            return
        self._returned.append(block)
        self._settle_if_closed()

    def trim(self) -> None:
        """Free what is kept for later."""
        with self._lock:
            self._sort_returned()
            self._free_kept()

    def close(self) -> None:
        """Free what is kept, and from now on whatever is given back."""
        self._closed = True
        self.trim()
        self._settle_if_closed()

    def _take(self, wanted: int) -> Block[Memory]:
        self._sort_returned()
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
        """Free all that was given back; whoever holds the lock does so when letting go."""
        while self._closed and self._lock.acquire(blocking=False):
            try:
                self._sort_returned()
                self._free_kept()
                is_idle = self._made == 0
            finally:
                self._lock.release()
            if is_idle:
                self._idle()
            if not self._returned:
                return

    def _sort_returned(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._kept.setdefault(block.size, []).append(block)

    def _free_kept(self) -> None:
        while self._kept:
            _, blocks = self._kept.popitem()
            for block in blocks:
                self._made -= 1
                self._free(block.memory)


def size_class(size: int) -> int:
    """Round a size in bytes up to its class; at least GRAIN."""
    step = max(GRAIN, 1 << max(0, size.bit_length() - 1 - STEPS))
    return max(-(-size // step), 1) * step
