"""The working memory of graphs on the CPU: one arena for all sessions of a process.

An arena keeps what a graph worked in, because taking it again costs time. With an arena for each
session, a process holds the largest pass of every graph at once; with one arena, that of the
largest graph. It gives its free memory back before a graph is loaded and after one is closed:
ONNX Runtime offers that only at the end of a run, so a graph of one node is run for it.
"""

from __future__ import annotations

import os
import threading
from types import ModuleType
from typing import Any

import numpy as np

from samclip.engines.machine.host import release_free_memory
from samclip.engines.process_edges import never_destroy

SHARED = "session.use_env_allocators"
SHRINKS, CPU = "memory.enable_memory_arena_shrinkage", "cpu:0"
FATAL = 4  # severity of logging: all below is raised as an exception too
DOUBLING = 0  # regions of exactly what is asked for are of little use to the next graph
# The graph y = Identity(x), one float: IR version 8, opset 17.
IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04'
    b"\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)


class _Arena:
    """The arena of a process: `process` registered it, None until one has begun to.

    `session` runs the graph that empties it, and is made when that is first asked for.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: int | None = None
        self.session: Any = None


_arena = _Arena()


def share(library: ModuleType, settings: Any) -> None:
    """Let a session with these settings work in the process's arena.

    In a child of a process that had one, each session has its own: another thread may have held
    the lock of the arena that the child inherited.
    """
    with _arena.lock:
        if _arena.process is None:
            _arena.process = os.getpid()  # before: a child that is forked meanwhile has none
            try:
                _register(library)
            except BaseException:
                _arena.process = None
                raise
        if _arena.process == os.getpid():
            settings.add_session_config_entry(SHARED, "1")


def _register(library: ModuleType) -> None:
    kind, use = library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, library.OrtMemType.DEFAULT
    growth = library.OrtArenaCfg({"arena_extend_strategy": DOUBLING})
    library.create_and_register_allocator(library.OrtMemoryInfo("Cpu", kind, 0, use), growth)


def give_back(library: ModuleType) -> None:
    """Return the arena's free memory to the system; takes up to some 20 ms."""
    if _arena.process == os.getpid():
        options = library.RunOptions()
        options.add_run_config_entry(SHRINKS, CPU)
        _session(library).run(None, {"x": np.zeros(1, np.float32)}, options)
    release_free_memory()


def _session(library: ModuleType) -> Any:
    with _arena.lock:
        if _arena.session is None:
            own = library.SessionOptions()
            own.intra_op_num_threads = 1
            own.log_severity_level = FATAL
            own.add_session_config_entry(SHARED, "1")
            _arena.session = library.InferenceSession(IDENTITY, own)
            never_destroy(_arena.session)
        return _arena.session


def _renew_lock() -> None:
    """In a forked child: another thread may have held the lock."""
    _arena.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
