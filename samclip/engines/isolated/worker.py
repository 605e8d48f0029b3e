"""The process that runs one graph: it loads what it is sent, and answers until its input ends.

Each request says how many seconds it may take; the process ends a second after that.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn, TypeVar

import msgspec
import numpy as np

from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.engines.child_process import end_after
from samclip.engines.isolated.channel import (
    Array,
    Failure,
    LoadRequest,
    Pipe,
    Placed,
    Ready,
    Reply,
    Request,
    Results,
    RunRequest,
    as_array,
    as_bytes,
    describe,
    frame,
)
from samclip.engines.machine.host import shortage
from samclip.engines.registry import get_backend
from samclip.errors import SamclipError

Found = TypeVar("Found")


def main(seconds: str) -> NoReturn:
    """Serve the parent over standard input and output; libraries that print do it elsewhere.

    `seconds`: how long it may take until the first request.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_after(float(seconds))
    pipe = Pipe(os.dup(0), os.dup(1))
    os.dup2(2, 1)  # what a library prints must not become part of an answer
    with suppress(EOFError, OSError):  # the parent is gone, or is done
        serve(pipe)
    os._exit(0)  # without waiting for the libraries' threads


def serve(pipe: Pipe) -> None:
    """Answer requests until the input ends."""
    engine: Engine | None = None
    while True:
        request: Request = msgspec.msgpack.decode(pipe.header(None), type=Request)
        end_after(request.seconds)
        if isinstance(request, LoadRequest):
            engine, reply = _attempt(partial(_load, pipe, request))
            pipe.send(frame(reply), None)
        else:
            feeds = {d.name: as_array(d, pipe.receive(d.size, None)) for d in request.feeds}
            found, reply = _attempt(partial(_run, engine, feeds, request))
            pipe.send(frame(reply, [as_bytes(array) for array in found or ()]), None)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _attempt(work: Callable[[], tuple[Found, Reply]]) -> tuple[Found | None, Reply]:
    try:
        return work()
    except SamclipError as error:
        return None, Failure(type(error).__name__, str(error))
    except MemoryError as error:
        said = shortage(str(error))
        return None, Failure(type(said).__name__, str(said))


def _load(pipe: Pipe, request: LoadRequest) -> tuple[Engine, Reply]:
    onnx = bytes(pipe.receive(request.onnx, None))
    files = {name: bytes(pipe.receive(size, None)) for name, size in request.files.items()}
    weights = {placed.array.name: _weight(pipe, placed, files) for placed in request.weights}
    source = GraphSource(
        request.name,
        onnx,
        weights,
        files,
        origin=request.origin,
        precision=request.precision,
        attention=request.attention,
        sha256=request.sha256,
    )
    options = EngineOptions(
        threads=request.threads,
        streams=request.streams,
        precision=request.engine_precision,
        fp32_outputs=request.fp32_outputs,
        optimise=request.optimise,
    )
    engine = get_backend(request.backend).load(source, options)
    return engine, Ready(engine.input_names, engine.output_names)


def _weight(pipe: Pipe, placed: Placed, files: dict[str, bytes]) -> Array:
    described = placed.array
    if not placed.file:
        return as_array(described, pipe.receive(described.size, None))
    count = int(np.prod(described.shape, dtype=np.int64))
    flat = np.frombuffer(files[placed.file], described.dtype, count, placed.offset)
    return flat.reshape(described.shape)


def _run(
    engine: Engine | None, feeds: dict[str, Array], request: RunRequest
) -> tuple[list[Array], Reply]:
    if engine is None:
        raise EOFError
    results = engine.run(feeds, request.outputs)
    arrays = {name: np.asarray(results[name].numpy()) for name in request.outputs}
    return list(arrays.values()), Results(describe(arrays))
