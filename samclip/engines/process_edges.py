"""Native objects and calls where a process forks and where its interpreter ends.

Destructors of native objects wait for threads of their libraries. A forked child has none of these
threads, and may have inherited a lock that one of them held: so it keeps what it inherited, and
never runs a destructor of it.

When the interpreter ends it stops daemon threads where they next ask for Python's lock. Inside a
library of C++ or Rust that ends the whole process with an abort. So the interpreter waits until the
calls of such threads have ended, and they begin no others.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import ReferenceType, WeakSet, ref

EXIT_SECONDS = 60.0  # how long the end of the interpreter waits for calls of daemon threads
LOOK_SECONDS = 0.005  # how often it looks
LOOKED_AT = 2  # references that each new one removes if they are dead: so their number is bounded
FOREVER = 3600.0  # seconds of one sleep of a thread that is not to go on

_logger = logging.getLogger("samclip")
# Not a WeakSet: its callbacks are Python code, in which Ctrl-C and time limits are lost.
_owners: deque[ReferenceType[object]] = deque()
_calls: WeakSet[_Call] = WeakSet()
_stopped = threading.local()


class _State:
    """What the whole process has come to."""

    is_ending = False
    has_foreign_threads = False


class _Call:
    """A token for one call under way; it goes with the call's frame at the latest."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


def keep_in_children(owner: object) -> None:
    """Let no forked child destroy `owner`, nor the native objects that it refers to."""
    _owners.append(ref(owner))
    for _ in range(LOOKED_AT):
        try:
            oldest = _owners.popleft()
        except IndexError:  # another thread looks at it
            return
        if oldest() is not None:
            _owners.append(oldest)


def never_destroy(owner: object) -> None:
    """Keep `owner` for good: not even the end of the interpreter destroys it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


def skip_destructors_in_children() -> None:
    """Let forked children end without the destructors of their libraries' global objects.

    For a library whose global objects wait for a thread that only the parent has. Buffers of C are
    written before; the exit status is kept. Works with glibc, and does nothing elsewhere.
    """
    _State.has_foreign_threads = True


@contextmanager
def call_under_way() -> Iterator[None]:
    """Make the end of the interpreter wait for the block; in a daemon thread, not begin it then."""
    call = _Call()
    try:
        _calls.add(call)
        stop_at_exit()
        yield
    finally:
        _calls.discard(call)


def stop_at_exit() -> None:
    """End this thread quietly if it is a daemon and the interpreter is ending.

    Raises SystemExit, which releases what the thread holds. A thread that catches it and comes back
    stays here.
    """
    if not _State.is_ending or not threading.current_thread().daemon:
        return
    if not getattr(_stopped, "once", False):
        _stopped.once = True
        raise SystemExit
    while True:
        time.sleep(FOREVER)


def _wait_for_calls() -> None:
    """Wait for the calls of other threads; at this point only daemons are left."""
    _State.is_ending = True
    me = threading.get_ident()
    deadline = time.monotonic() + EXIT_SECONDS
    while any(call.thread != me for call in list(_calls)):
        if time.monotonic() > deadline:
            _logger.warning(
                "a daemon thread is still in a call after %.0f s; the interpreter ends without "
                "it. Close the model, or join the thread, before the program ends.",
                EXIT_SECONDS,
            )
            return
        time.sleep(LOOK_SECONDS)


def _let_go() -> None:
    """In a forked child: keep all that was inherited, and forget the calls of other threads."""
    while _owners:
        owner = _owners.popleft()()
        if owner is not None:
            never_destroy(owner)
    _calls.clear()
    if _State.has_foreign_threads:
        _skip_destructors()


def _skip_destructors() -> None:
    """Have the C library flush its files and end the process, before anything older runs."""
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if all(hasattr(library, name) for name in ("on_exit", "_exit", "fcloseall")):
        for last in (library._exit, library.fcloseall):  # the last one that is set runs first
            library.on_exit(ctypes.cast(last, ctypes.c_void_p), None)


atexit.register(_wait_for_calls)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
