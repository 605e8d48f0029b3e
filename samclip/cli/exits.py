"""Errors as a person meets them: one message on stderr, an exit code, and no traceback.

Commands that are asked to stop: by Ctrl-C, by SIGTERM, or because their terminal was closed.

The standard streams, which whoever starts a command may have closed, or led to a full disk.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from samclip.cli.advice import with_commands
from samclip.cli.early_stops import REASONS, stop_code, stop_line
from samclip.cli.terminal import err, in_one_line, say
from samclip.errors import BundleNotFoundError, InputError, SamclipError

TOLD = "was_told"  # attribute of the interrupts of which a line was printed


class StopAskedError(KeyboardInterrupt):
    """A signal asked the process to stop; it passes what a Ctrl-C passes."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def handle_stops() -> Iterator[None]:
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


FAILURE = 1
BAD_INPUT = 2


def exit_code(error: Exception) -> int:
    """Return 2 when the caller's input is at fault, 1 when something failed."""
    return BAD_INPUT if isinstance(error, (InputError, BundleNotFoundError)) else FAILURE


def report(error: Exception, about: str = "") -> None:
    """Print one error on stderr; `about` names the image at fault."""
    prefix = f"error: {in_one_line(about)}: " if about else "error: "
    say(err, prefix + describe(error), style="red")


def describe(error: Exception) -> str:
    """Return the message of `error` and the commands that help; of an OSError file and reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    steps = error.steps if isinstance(error, SamclipError) else ()
    return with_commands(str(error) or type(error).__name__, steps)


@contextmanager
def report_errors(debug: bool) -> Iterator[None]:
    """Turn the errors of samclip and of the system into a message and an exit code.

    So are Ctrl-C, SIGTERM and SIGHUP, when what the block began has been cleaned up. With `debug`
    errors pass through with their traceback. Anything else is a defect of samclip and passes
    through as well.
    """
    try:
        with handle_stops():
            yield
    except KeyboardInterrupt as error:
        raise typer.Exit(tell_stop(error)) from error
    except (SamclipError, OSError) as error:
        stop = stop_behind(error)
        if stop is not None:
            raise typer.Exit(tell_stop(stop)) from error
        if debug or isinstance(error, BrokenPipeError):
            raise
        report(error)
        raise typer.Exit(exit_code(error)) from error


STANDARD = range(3)  # stdin, stdout, stderr
DEBUG = "--debug"


class StreamsGroup(TyperGroup):
    """A group of commands that looks at its streams before anything else, `--help` included."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as every group does; ends with exit code 1 where stdout is closed or full."""
        check_streams()
        with report_stdout_errors():
            return super().main(*args, **options)


def check_streams() -> None:
    """Do as `fill_closed_streams`; ends with SystemExit where stdout is closed.

    Python lets every print into a closed stream pass in silence: the answer would be lost, with
    exit code 0.
    """
    fill_closed_streams()
    if sys.stdout is None:
        say(
            err,
            "error: stdout is closed, so no answer can be given. Redirect it: to a file, or to "
            f"{os.devnull}.",
            style="red",
        )
        sys.exit(FAILURE)


def fill_closed_streams() -> None:
    """Put the null device where a standard stream is closed.

    The system gives the number of a closed stream to the next file that is opened: what a library
    prints would end up in a picture or a bundle.
    """
    for number in STANDARD:
        if _is_closed(number):
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


@contextmanager
def report_stdout_errors() -> Iterator[None]:
    """Turn stdout's error, as on a full disk, into one line on stderr and exit code 1.

    For what is printed before and after a command: its help, and what is still in Python's buffer,
    which would fail without a word when the process ends. With `--debug` the error passes through.
    """
    ended: SystemExit | None = None
    try:
        try:
            yield
        except SystemExit as raised:
            ended = raised
        sys.stdout.flush()
    except OSError as error:
        _let_go_of_stdout()
        failed = ended is not None and ended.code  # which has been said
        if error.filename is not None or (DEBUG in sys.argv and not failed):
            raise
        if not failed:
            _say_unwritable(error)
            ended = SystemExit(FAILURE)
    if ended is not None:
        raise ended


def _let_go_of_stdout() -> None:
    """Lead stdout to the null device, so that what is left in its buffer fails no more."""
    with contextlib.suppress(OSError, ValueError):  # no file: whoever put it there sees to it
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _say_unwritable(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        return  # the reader has enough, as `head` has
    with contextlib.suppress(OSError):  # stderr leads to the same place
        say(
            err,
            f"error: stdout cannot be written to: {error.strerror}. Redirect it to a disk with "
            f"room, or to {os.devnull}.",
            style="red",
        )


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
