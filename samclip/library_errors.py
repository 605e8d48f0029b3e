"""Errors that a library raised about its input, and those that only passed through its call."""

from __future__ import annotations

import sys

OWN = {"samclip", "builtins"}
# Raised by the interpreter or the system, whatever the input is.
NEVER = (MemoryError, RecursionError, TimeoutError, InterruptedError, ConnectionError)


def is_library_error(error: BaseException, *libraries: str) -> bool:
    """Whether a call into `libraries`, top-level package names, raised `error` about its input.

    False for what only interrupted the call and must reach the caller as it is: a lack of memory
    or of stack, and what the caller's own code raised, from a signal handler or asynchronously
    into the thread (`PyThreadState_SetAsyncExc`), as time limits do. The error's class must be
    Python's or one of `libraries`. The innermost frame of its traceback must be in samclip, in
    `libraries` or in the standard library; a signal handler's frame is not.
    """
    known = OWN | set(libraries)
    if not isinstance(error, Exception) or isinstance(error, NEVER):
        return False
    if not _is_of(type(error).__module__, known):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is None or _is_of(traceback.tb_frame.f_globals.get("__name__"), known)


def _is_of(module: object, known: set[str]) -> bool:
    root = str(module).partition(".")[0]
    return root in known or (root in sys.stdlib_module_names and root != "__main__")
