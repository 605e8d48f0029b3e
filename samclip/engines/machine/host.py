"""The cores that this process may use, and its memory: returned to the system, or too little."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import platform
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from samclip.engines.process_edges import call_under_way
from samclip.errors import DeviceMemoryError, EngineRunError
from samclip.library_errors import is_library_error

CPU_FOLDER = Path("/sys/devices/system/cpu")
QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
QUOTA_V1 = Path("/sys/fs/cgroup/cpu")

# The messages of C++, ONNX Runtime, oneDNN inside OpenVINO, and OpenCV.
SHORTAGE = re.compile(
    r"bad_alloc|out of memory|insufficient memory"
    r"|failed to allocate|can't alloc|could not create a memory|cannot allocate memory",
    re.IGNORECASE,
)
# The messages of Python, ONNX Runtime and OpenVINO where no thread can be started.
NO_THREADS = re.compile(
    r"can't start new thread|pthread_create failed|resource temporarily unavailable", re.IGNORECASE
)
NO_FILES = re.compile("too many open files", re.IGNORECASE)
HERE = "this machine"
# Pages that count as this process's own; Windows knows no others.
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
THREAD_BYTES = 24 * 2**20  # a stack, and what Python and the C library need to begin a thread
MAX_MESSAGE = 200  # characters of a library's message that are passed on
P = ParamSpec("P")
R = TypeVar("R")


def logical_cores() -> int:
    """Count the logical cores that this process may run on (its affinity)."""
    return len(_affinity())


def usable_cores() -> int:
    """Count the physical cores that this process may use, at most its container's quota.

    A second thread on a core does not speed up matrix products, and threads beyond a quota make
    the others wait.
    """
    quota = _quota()
    physical = len({_siblings(core) for core in _affinity()})
    return max(1, physical if quota is None else min(physical, math.ceil(quota)))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(core: int) -> str:
    """Identify the physical core of a logical one by the list of its threads."""
    listed = _read(CPU_FOLDER / f"cpu{core}" / "topology" / "thread_siblings_list")
    return listed or str(core)


def _quota() -> float | None:
    """Return the number of cores that the container is limited to, None for no limit."""
    limit, _, period = _read(QUOTA_V2).partition(" ")
    if not limit:
        limit, period = (_read(QUOTA_V1 / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if not (limit.isdecimal() and period.isdecimal() and int(limit) and int(period)):
        return None  # "max" in version 2, -1 in version 1
    return int(limit) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # not this system, or not this version of cgroups
        return ""


def release_free_memory() -> None:
    """Return freed memory that the C library keeps to the system; takes a few milliseconds.

    glibc keeps freed blocks below 32 MiB for itself: after loading a graph, or closing it, that
    may be as much as its weights. Elsewhere this does nothing.
    """
    if platform.system() != "Linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent from musl
    if trim is not None:
        trim(ctypes.c_size_t(0))


def require_room_for_thread() -> None:
    """Raise MemoryError where a thread would hardly find the memory to begin.

    `Thread.start` waits forever for a thread that begins and finds none.
    """
    if not can_map(THREAD_BYTES):
        raise MemoryError("no room for a thread")


def can_map(size: int) -> bool:
    """Whether this process may take so many more bytes of address space.

    None of them is touched, and they are given back at once. They are mapped: what the C library
    allocates it may have to clear, which takes half a millisecond for a thread's.
    """
    try:
        mmap.mmap(-1, size, **PRIVATE).close()
    except OSError:
        return False
    return True


def is_shortage(error: BaseException) -> bool:
    """Whether an error of Python or of a library says that memory, threads or files were short."""
    said, kinds = str(error), (SHORTAGE, NO_THREADS, NO_FILES)
    return isinstance(error, MemoryError) or any(kind.search(said) for kind in kinds)


def is_fault(error: BaseException, library: str) -> bool:
    """Whether an error is a lack of memory, or one that `library` raised about its input.

    All others must reach the caller as they are.
    """
    return isinstance(error, MemoryError) or is_library_error(error, library)


def shortage(said: str, where: str = HERE) -> EngineRunError:
    """Return the error of threads, files, or memory `where`, by what the library `said`.

    For memory it is a DeviceMemoryError.
    """
    if NO_THREADS.search(said):
        return EngineRunError(
            "this process may start no more threads. Ask for fewer, with threads=1 and streams=1, "
            "or raise the limit (ulimit -u, or the container's limit of processes)."
        )
    if NO_FILES.search(said):
        return EngineRunError(
            "this process may open no more files. Close some, or raise the limit (ulimit -n)."
        )
    reason = " ".join(said[:MAX_MESSAGE].split()).rstrip(". ") or "an allocation failed"
    return DeviceMemoryError(
        f"{where} has too little free memory: {reason}. "
        "Ask for less at once (fewer prompts or names, a smaller image or bundle), or end other "
        "programs; what is loaded still works."
    )


def as_memory_error(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function raise DeviceMemoryError where Python, numpy or OpenCV ran out of memory.

    For functions at the edge of the API: each call of one is under way until it returns, see
    `process_edges`.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with call_under_way():
                return function(*args, **kwargs)
        except DeviceMemoryError:
            raise
        except MemoryError as error:
            raise shortage(str(error)) from error
        except Exception as error:
            if type(error).__module__ != "cv2" or not is_shortage(error):
                raise
            raise shortage("OpenCV could not allocate an array") from error

    return wrapped
