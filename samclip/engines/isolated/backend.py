"""A backend whose graphs are built and run in separate processes, each within a time limit.

A thread cannot be ended, a process can: at the limit it is killed, with all that a graph made it
do, and the call raises EngineTimeoutError. The next call starts another one. Each graph has its
process, which is sent the verified bytes and holds them like any engine; answers are bit for bit
those of the same backend without a limit. Calls of one graph wait for each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import (
    REMEDY,
    ArrayTensor,
    Backend,
    EngineOptions,
    GraphKey,
    GraphSource,
    Guard,
    GuardedEngine,
    Probe,
    Tensor,
    Traits,
)
from samclip.engines.child_process import start_child, starting
from samclip.engines.isolated.channel import (
    Array,
    Described,
    Failure,
    LoadRequest,
    Pipe,
    Placed,
    Ready,
    Reply,
    Results,
    RunRequest,
    as_array,
    as_bytes,
    damaged,
    describe,
    frame,
)
from samclip.errors import (
    BackendUnavailableError,
    DeviceMemoryError,
    EngineRunError,
    EngineTimeoutError,
    SamclipError,
    kind_named,
)

START = starting("samclip.engines.isolated.worker")
PASSED_ON = (EngineRunError, BackendUnavailableError, DeviceMemoryError)


@dataclass(frozen=True)
class IsolatedBackend:
    """`inner` in processes; each loading of a graph and each run may take `timeout` seconds."""

    inner: Backend
    timeout: float

    def __post_init__(self) -> None:
        if not self.inner.traits.on_host:
            raise BackendUnavailableError(
                f"the backend {self.inner.name!r} cannot be given a timeout, because its results "
                f"stay on a GPU. {REMEDY}use backend='onnxruntime' or 'openvino' with timeout=, or "
                "no timeout."
            )
        if not sys.executable:
            raise BackendUnavailableError(
                "this Python does not know its own executable, so it cannot start the processes "
                f"that a timeout needs. {REMEDY}load the bundle without a timeout."
            )

    @property
    def name(self) -> str:
        """That of the backend inside."""
        return self.inner.name

    @property
    def traits(self) -> Traits:
        """Those of the backend inside, which loads and runs one graph after the other here."""
        return replace(self.inner.traits, parallel_loads=False, gains_by_streams=False)

    def probe(self) -> Probe:
        """Return whether the backend inside works here."""
        return self.inner.probe()

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        """Return what the backend inside says."""
        return self.inner.ready(graphs, options)

    def load(self, source: GraphSource, options: EngineOptions) -> IsolatedEngine:
        """Load a graph in a process; raises EngineTimeoutError, and what the backend raises."""
        return IsolatedEngine(self, source, options)


class IsolatedEngine(GuardedEngine):
    """One graph in a process, which is started again after it was ended or has crashed."""

    def __init__(
        self, backend: IsolatedBackend, source: GraphSource, options: EngineOptions
    ) -> None:
        self._backend, self._source, self._options = backend, source, options
        self._turn = threading.Lock()
        self._open = True
        self._worker: Worker | None = None
        worker, ready = self._start()
        self._guard = Guard(source.name, ready.inputs, ready.outputs)
        self._worker = worker
        source.release()

    def run(
        self,
        feeds: Mapping[str, NDArray[np.generic] | Tensor],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Compute `outputs` (None: all).

        Raises EngineTimeoutError when this takes longer than the limit, EngineRunError for inputs
        that do not fit or when the process fails, ClosedError after `close()`.
        """
        self._guard.check_open(self if self._open else None)
        names = self._guard.check_names(feeds, outputs)
        arrays = {
            name: feed if isinstance(feed, np.ndarray) else feed.numpy()
            for name, feed in feeds.items()
        }
        with self._turn:
            self._guard.check_open(self if self._open else None)
            if self._worker is None:
                self._worker, _ = self._start()
            worker = self._worker
            try:
                return worker.run(arrays, names)
            finally:
                if worker.ended:
                    self._worker = None

    def close(self) -> None:
        """End the process once the runs in flight have ended; again: do nothing."""
        self._open = False
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def _start(self) -> tuple[Worker, Ready]:
        worker = Worker(self._source.name, self._backend.timeout)
        return worker, worker.load(self._backend.name, self._source.whole(), self._options)


class Worker:
    """A process that runs one graph; it is ended by whatever goes wrong."""

    def __init__(self, graph: str, timeout: float) -> None:
        self._graph, self._timeout = graph, timeout
        self._deadline = time.monotonic() + timeout
        try:
            self._process = start_child(START, str(timeout), subprocess.PIPE, subprocess.PIPE)
        except OSError as error:
            raise EngineRunError(
                f"the process that is to run the graph {graph!r} cannot be started: "
                f"{error.strerror or error}. Allow more processes, or load without a timeout."
            ) from error
        self._end = weakref.finalize(self, _end, self._process, os.getpid())
        reads, writes = (
            cast("IO[bytes]", end) for end in (self._process.stdout, self._process.stdin)
        )
        self._pipe = Pipe(reads.fileno(), writes.fileno())

    @property
    def ended(self) -> bool:
        """Whether the process was ended."""
        return not self._end.alive

    def end(self) -> None:
        """End the process, whatever it does; again: do nothing."""
        self._end()

    def load(self, backend: str, source: GraphSource, options: EngineOptions) -> Ready:
        """Have it load a graph; the time counts from the start of the process."""
        placed, apart = _place_weights(source)
        request = LoadRequest(
            backend=backend,
            seconds=self._timeout,
            name=source.name,
            onnx=len(source.onnx),
            files={name: len(data) for name, data in source.files.items()},
            sha256=dict(source.sha256),
            weights=placed,
            origin=source.origin,
            precision=source.precision,
            attention=source.attention,
            threads=options.threads,
            streams=options.streams,
            engine_precision=options.precision,
            fp32_outputs=options.fp32_outputs,
            optimise=options.optimise,
        )
        pieces = frame(request, [source.onnx, *source.files.values(), *map(as_bytes, apart)])
        reply, _ = self._ask(pieces, "be loaded")
        if not isinstance(reply, Ready):
            self.end()
            raise damaged(self._graph, ValueError(type(reply).__name__))
        return reply

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Tensor]:
        """Have it run the graph."""
        self._deadline = time.monotonic() + self._timeout
        request = RunRequest(self._timeout, describe(feeds), tuple(outputs))
        pieces = frame(request, [as_bytes(array) for array in feeds.values()])
        _, arrays = self._ask(pieces, "run", tuple(outputs))
        return {name: ArrayTensor(array) for name, array in arrays.items()}

    def _ask(
        self, pieces: list[memoryview], doing: str, outputs: tuple[str, ...] = ()
    ) -> tuple[Reply, dict[str, Array]]:
        """Send a request and return the reply; the process is ended unless it gives one."""
        try:
            self._pipe.send(pieces, self._deadline)
            reply, arrays = self._receive(outputs)
        except EngineTimeoutError as error:
            self.end()
            raise EngineTimeoutError(
                f"the graph {self._graph!r} took longer than {self._timeout:g} s to {doing}, and "
                "its process was ended; the next call starts it again. Give more time "
                "(timeout=), or do not trust this bundle."
            ) from error
        except (OSError, EOFError) as error:
            self.end()
            raise self._crashed() from error
        except (ValueError, msgspec.MsgspecError) as error:
            self.end()
            raise damaged(self._graph, error) from error
        except BaseException:  # Ctrl-C: the rest of the reply would be taken for the next one
            self.end()
            raise
        if isinstance(reply, Failure):
            raise _passed_on(reply)
        return reply, arrays

    def _receive(self, outputs: tuple[str, ...]) -> tuple[Reply, dict[str, Array]]:
        encoded = self._pipe.header(self._deadline)
        reply: Reply = msgspec.msgpack.decode(encoded, type=Reply)
        if not isinstance(reply, Results):
            return reply, {}
        if tuple(described.name for described in reply.arrays) != outputs:
            raise ValueError("other results than those that were asked for")
        return reply, {described.name: self._array(described) for described in reply.arrays}

    def _array(self, described: Described) -> Array:
        return as_array(described, self._pipe.receive(described.size, self._deadline))

    def _crashed(self) -> EngineRunError:
        status = self._process.returncode
        how = f"by signal {-status}" if status is not None and status < 0 else f"with {status}"
        return EngineRunError(
            f"the process that runs the graph {self._graph!r} ended {how}: the graph crashed its "
            "engine, or memory was short. The next call starts it again; do not trust this "
            "bundle, or free memory."
        )


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a process and take its status, so that nothing of it is left."""
    if os.getpid() != owner:  # a fork of the owner
        return
    process.kill()
    process.wait()
    for end in (process.stdin, process.stdout):
        if end is not None:
            try:
                end.close()
            except OSError:
                continue


def _place_weights(source: GraphSource) -> tuple[tuple[Placed, ...], list[Array]]:
    """Return the places of weights in the files of a source, and the weights that lie in none."""
    bases = {
        name: (np.frombuffer(data, np.uint8).ctypes.data, len(data))
        for name, data in source.files.items()
        if data
    }
    placed, apart = [], []
    for name, weight in source.weights.items():
        described = Described(name, weight.dtype.name, tuple(weight.shape))
        start = weight.ctypes.data
        inside = (
            (file, start - base)
            for file, (base, size) in bases.items()
            if base <= start and start + weight.nbytes <= base + size
        )
        file, offset = next(inside, ("", 0)) if weight.flags.c_contiguous else ("", 0)
        placed.append(Placed(described, file, offset))
        if not file:
            apart.append(weight)
    return tuple(placed), apart


def _passed_on(failure: Failure) -> SamclipError:
    """Return the error that an engine raised in its process."""
    return (kind_named(failure.kind, *PASSED_ON) or EngineRunError)(failure.message)
