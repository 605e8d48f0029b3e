"""Commands that are asked to stop: by Ctrl-C, by SIGTERM, or because their terminal was closed."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from samclip.runtime.cli.consoles import err, say
from samclip.runtime.cli.early_stops import REASONS, stop_code, stop_line

TOLD = "was_told"  # attribute of the interrupts of which a line was printed


class StopAskedError(KeyboardInterrupt):
    """A signal asked the process to stop; it passes what a Ctrl-C passes."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def heeded_stops() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise within the block, so that what it began is cleaned up.

    A signal that is ignored, as under nohup, or that somebody else handles stays so; the second of
    a kind ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Python itself heeds Ctrl-C.
    names = (name for name in REASONS if name != "SIGINT" and hasattr(signal, name))
    numbers = [signal.Signals[name] for name in names]
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def stop_behind(error: BaseException) -> KeyboardInterrupt | None:
    """Find the interrupt from which an error was made, None for none.

    Extension modules that are interrupted while they are imported make an ImportError of it.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause


def tell_stop(error: KeyboardInterrupt) -> int:
    """Say in a line what stopped a command, and give its exit code."""
    number = error.number if isinstance(error, StopAskedError) else signal.SIGINT
    say(err, stop_line(number))
    vars(error)[TOLD] = True
    return stop_code(number)


class StoppableTyper(typer.Typer):
    """An app that says in a line what stopped it also before a command begins, while it is read."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the command line."""
        try:
            return super().__call__(*args, **options)
        except KeyboardInterrupt as error:
            sys.exit(tell_stop(error))
        except SystemExit as ended:  # typer's own for Ctrl-C, raised from that, says nothing
            cause = None if ended.__context__ is None else ended.__context__.__cause__
            if isinstance(cause, KeyboardInterrupt) and TOLD not in vars(cause):
                sys.exit(tell_stop(cause))
            raise


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)
    raise StopAskedError(number)
