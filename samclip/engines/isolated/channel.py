"""Messages between a model and the process that runs one of its graphs, over two pipes.

A message is a header in MessagePack behind its length, then the bytes that the header announces.
The process runs what a stranger wrote, so nothing that it sends is trusted: headers and arrays are
bounded, and nothing is unpickled.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import EnginePrecision
from samclip.engines.graphs.checks import MAX_TENSOR_BYTES
from samclip.errors import EngineRunError, EngineTimeoutError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 2**24
CHUNK = 2**20
DTYPES = ("float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool")
Array = NDArray[np.generic]


class Described(msgspec.Struct, frozen=True):
    """An array that follows a header."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes; ValueError for what is not an array."""
        known = self.dtype in DTYPES and all(side >= 0 for side in self.shape)
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize if known else -1
        if not 0 <= size <= MAX_TENSOR_BYTES:
            raise ValueError(f"{self.name!r} is {self.dtype} {self.shape}")
        return size


class Placed(msgspec.Struct, frozen=True):
    """A weight: an array at a place of a file that follows, or, with `file` "", by itself."""

    array: Described
    file: str
    offset: int


class LoadRequest(msgspec.Struct, frozen=True, tag=True):
    """Load a graph; its bytes follow, then its files, then weights that are in none."""

    backend: str
    seconds: float
    name: str
    onnx: int
    files: dict[str, int]
    sha256: dict[str, str]
    weights: tuple[Placed, ...]
    origin: str
    precision: str
    attention: str | None
    threads: int | None
    streams: int
    engine_precision: EnginePrecision
    fp32_outputs: tuple[str, ...]
    optimise: bool


class RunRequest(msgspec.Struct, frozen=True, tag=True):
    """Run the graph on the arrays that follow."""

    seconds: float
    feeds: tuple[Described, ...]
    outputs: tuple[str, ...]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The graph is loaded."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Results(msgspec.Struct, frozen=True, tag=True):
    """The results follow."""

    arrays: tuple[Described, ...]


class Failure(msgspec.Struct, frozen=True, tag=True):
    """An error of samclip: its class by name, and its message."""

    kind: str
    message: str


Request = LoadRequest | RunRequest
Reply = Ready | Results | Failure


def describe(arrays: Mapping[str, Array]) -> tuple[Described, ...]:
    """Return the descriptions of arrays."""
    return tuple(
        Described(name, array.dtype.name, tuple(array.shape)) for name, array in arrays.items()
    )


def as_bytes(array: Array) -> memoryview:
    """Return the bytes of an array, without copying where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def as_array(described: Described, data: bytearray) -> Array:
    """Return the array that was received as bytes."""
    return np.frombuffer(data, described.dtype).reshape(described.shape)


def frame(header: Request | Reply, parts: Sequence[bytes | memoryview] = ()) -> list[memoryview]:
    """Return the pieces of a message, in order."""
    encoded = msgspec.msgpack.encode(header)
    length = len(encoded).to_bytes(LENGTH_BYTES, "little")
    return [memoryview(piece) for piece in (length + encoded, *parts)]


class Pipe:
    """Two ends of pipes, read and written until a deadline (`time.monotonic`), None for ever."""

    def __init__(self, reads: int, writes: int) -> None:
        self.reads, self.writes = reads, writes
        for end in (reads, writes):
            os.set_blocking(end, False)

    def send(self, pieces: Sequence[memoryview], deadline: float | None) -> None:
        """Write a message; raises EngineTimeoutError, and OSError when the other end is gone."""
        for piece in pieces:
            sent = 0
            while sent < len(piece):
                _wait(self.writes, select.POLLOUT, deadline)
                try:
                    sent += os.write(self.writes, piece[sent : sent + CHUNK])
                except BlockingIOError:
                    continue

    def receive(self, size: int, deadline: float | None) -> bytearray:
        """Read `size` bytes; raises EngineTimeoutError, EOFError when the other end is gone."""
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            _wait(self.reads, select.POLLIN, deadline)
            try:
                count = os.readv(self.reads, [view[got:]])
            except BlockingIOError:
                continue
            if not count:
                raise EOFError
            got += count
        return data

    def header(self, deadline: float | None) -> bytearray:
        """Read the header of the next message; raises ValueError for one that is too long."""
        length = int.from_bytes(self.receive(LENGTH_BYTES, deadline), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length:,} bytes")
        return self.receive(length, deadline)


def _wait(end: int, event: int, deadline: float | None) -> None:
    """Wait until an end is ready, or closed; raises EngineTimeoutError at the deadline."""
    waiting = select.poll()
    waiting.register(end, event)
    if deadline is None:
        waiting.poll()
        return
    left = deadline - time.monotonic()
    if left <= 0 or not waiting.poll(left * 1000):
        raise EngineTimeoutError("its time is over")


def damaged(graph: str, error: Exception) -> EngineRunError:
    """Return the error of a process that answers what it should not."""
    return EngineRunError(
        f"the process that runs the graph {graph!r} answered with {str(error)[:200]}, which is not "
        "a result. Do not trust this bundle."
    )
