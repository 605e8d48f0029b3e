"""Commands asked to stop while their modules are imported, before they have begun anything.

Imports nothing but the standard library's smallest modules: what this is to cover comes later.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# How a person knows them.
REASONS = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP, the terminal was closed"}
STDERR = 2


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Let signals that ask to stop end the process within the block, with a line and their code.

    Python alone would show a traceback of the import at hand; and an exception in the midst of an
    import is turned into others by extension modules. A signal that is ignored, as under nohup, or
    that somebody else handles stays so. For the main thread of a process that has nothing to clean
    up yet.
    """
    numbers = [signal.Signals[name] for name in REASONS if hasattr(signal, name)]
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in numbers}
    ours = {number: handler for number, handler in before.items() if handler in usual}
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def stop_line(number: int) -> str:
    """Say what stopped a command."""
    return f"stopped by {REASONS[signal.Signals(number).name]}"


def stop_code(number: int) -> int:
    """Give the exit code of a command that a signal stopped, as shells have it."""
    return 128 + number


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    with contextlib.suppress(OSError):  # stderr is closed
        os.write(STDERR, f"{stop_line(number)}\n".encode())
    os._exit(stop_code(number))
