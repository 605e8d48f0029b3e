"""Signals that ask a command to stop: their handlers, exit codes and messages.

This module must be imported before `exit_on_signal` can guard anything, so it imports only small
modules of the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP, the terminal was closed"}
# Number -> the words in which it is reported; not every system has each signal.
REASONS = {signal.Signals[name]: text for name, text in _NAMES.items() if hasattr(signal, name)}
STDERR = 2


def stop_line(number: int) -> str:
    """Return the message about the signal that stopped a command."""
    return f"stopped by {REASONS[signal.Signals(number)]}"


def stop_code(number: int) -> int:
    """Return the exit code of a command that a signal stopped, as shells count it."""
    return 128 + number


def end_process(number: int) -> NoReturn:
    """Print the line about a signal, and end the process at once. Nothing is cleaned up."""
    with contextlib.suppress(OSError):  # stderr is closed
        os.write(STDERR, f"{stop_line(number)}\n".encode())
    os._exit(stop_code(number))


@contextmanager
def handle_signals(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    """Handle signals by `handler` within the block; only the main thread may use it.

    A signal that is ignored, as under nohup, or that has another handler than Python's own keeps
    its handler.
    """
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in numbers}
    replaced = {number: usually for number, usually in before.items() if usually in usual}
    for number in replaced:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, usually in replaced.items():
            signal.signal(number, usually)


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """End the process at once when a signal asks it to stop within the block.

    One line goes to stderr, and the exit code is that of the signal. The block is for imports:
    Python alone would show a traceback of the import, and an extension module may turn an
    exception during its import into another one. Nothing is cleaned up.
    """

    def exit_now(number: int, frame: FrameType | None) -> None:
        del frame
        end_process(number)

    with handle_signals(REASONS, exit_now):
        yield
