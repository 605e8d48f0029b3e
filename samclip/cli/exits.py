"""Ends of commands: one line on stderr and an exit code for errors, stops and broken streams.

A command stops for Ctrl-C, for SIGTERM, or because its terminal was closed. Its standard streams
may have been closed by whatever started it, or lead to a full disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import typer

from samclip.cli.advice import with_commands
from samclip.cli.given_paths import working_folder_exists
from samclip.cli.stop_signals import REASONS, end_process, handle_signals, stop_code, stop_line
from samclip.cli.terminal import err, ignore_useless_sizes, in_one_line, say, show_logs
from samclip.errors import (
    BundleNotFoundError,
    CheckpointError,
    EngineError,
    ExportError,
    InputError,
    SamclipError,
)

FAILURE = 1
BAD_INPUT = 2
LONG = (ExportError, EngineError, CheckpointError)  # their messages may have several lines
STOP_SECONDS = 0.5  # from a signal to the end of a process that is in the middle of a graph
PRINTERS = {"rich.console", "samclip.cli.terminal"}  # modules that write to stdout
STANDARD_STREAMS = range(3)  # stdin, stdout, stderr
DEBUG = "--debug"
LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)  # of -v, given never, once, twice


class CommandApp(typer.Typer):
    """An app that checks its streams before it does anything, and reports what ends it early.

    Also for its help, and for Ctrl-C while the command line is still being read. All its commands
    take -h for --help, and a defect shows Python's own traceback, fit for a report.
    """

    def __init__(self, **options: Any) -> None:
        """Make an app; `options` are those of typer."""
        usual: dict[str, Any] = {
            "context_settings": {"help_option_names": ["-h", "--help"]},
            "pretty_exceptions_enable": False,
        }
        super().__init__(**usual | options)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the command line; ends with SystemExit as every typer app does."""
        check_streams()
        ignore_useless_sizes()
        with report_stdout_errors():
            try:
                return super().__call__(*args, **options)
            except KeyboardInterrupt as stop:
                exit_stopped(stop)
            except SystemExit as ended:  # typer raises it from an Exit, and that from an interrupt
                cause = None if ended.__context__ is None else ended.__context__.__cause__
                if isinstance(cause, KeyboardInterrupt):
                    exit_stopped(cause)
                raise


@contextmanager
def report_errors(debug: bool, verbose: int = 0) -> Iterator[None]:
    """Turn the errors of samclip and of the system into a message and typer.Exit.

    Warnings of samclip are shown on stderr, each once. SIGTERM and SIGHUP raise within the block,
    as Ctrl-C does, so that what the block began is cleaned up; the app reports them. `verbose`: 1
    shows messages of level INFO too, 2 those of DEBUG. With `debug`, errors pass through with their
    traceback. Anything else is a defect of samclip and passes through as well.
    """
    try:
        with raise_on_signal(), show_logs(LEVELS[min(verbose, len(LEVELS) - 1)]):
            yield
    except (SamclipError, OSError) as error:
        stop = find_interrupt(error)
        if stop is not None:
            raise stop from None
        if debug or isinstance(error, BrokenPipeError) or _comes_from_printing(error):
            raise
        report(error)
        raise typer.Exit(exit_code(error)) from error


def exit_code(error: Exception) -> int:
    """Return 2 when the caller's input is at fault, 1 when something failed."""
    return BAD_INPUT if isinstance(error, (InputError, BundleNotFoundError)) else FAILURE


def report(error: Exception, about: str = "") -> None:
    """Print one error on stderr; `about` names the image at fault.

    On one line, so that no file's name can pass for another line. Where a message has several
    lines, those after the first are indented. Nothing is printed where stderr cannot be written to.
    """
    prefix = f"error: {in_one_line(about)}: " if about else "error: "
    text = describe(error)
    text = text.replace("\n", "\n  ") if isinstance(error, LONG) else in_one_line(text)
    with contextlib.suppress(OSError):  # the exit code tells of it
        say(err, prefix + text, style="red")


def describe(error: Exception) -> str:
    """Return the message of `error` and the commands that help; of an OSError file and reason."""
    if isinstance(error, OSError) and error.strerror:
        if isinstance(error, FileNotFoundError) and not working_folder_exists():
            return f"{error.strerror}: the working folder was deleted. Go to another one."
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    steps = error.steps if isinstance(error, SamclipError) else ()
    return with_commands(str(error) or type(error).__name__, steps)


class StopAskedError(KeyboardInterrupt):
    """A signal asked the process to stop; it passes every handler that a Ctrl-C passes."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise StopAskedError for SIGTERM and SIGHUP within the block, as Python does for Ctrl-C.

    A signal that is ignored, as under nohup, or that has another handler keeps it. The second
    signal of a kind ends the process at once. Other threads than the main one get no signals.
    """

    def raise_stop(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        raise StopAskedError(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handle_signals([number for number in REASONS if number != signal.SIGINT], raise_stop):
        yield


@contextmanager
def heed_stops(seconds: float = STOP_SECONDS) -> Iterator[None]:
    """End the process `seconds` after a signal that asks it to stop, if the block still runs then.

    Python acts on a signal between two instructions. A long call of a library, or a wait for other
    threads, would hold it up. What is lost is what a kill would lose: files are whole or absent.
    For the main thread; in others it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    over = threading.Event()

    def watch() -> None:
        numbers = os.read(reader, 1)
        while numbers and numbers[0] not in REASONS:
            numbers = os.read(reader, 1)
        if numbers and not over.wait(seconds):
            end_process(numbers[0])

    watcher = threading.Thread(target=watch, name="samclip-stop", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        os.close(writer)  # ends the watcher's read
        watcher.join()
        os.close(reader)


def find_interrupt(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interrupt that an error was raised from, None when there was none.

    An extension module that is interrupted during its import raises an ImportError from it.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause


def exit_stopped(stop: KeyboardInterrupt) -> NoReturn:
    """Print the line about what stopped a command, and raise SystemExit with its exit code."""
    number = stop.number if isinstance(stop, StopAskedError) else signal.SIGINT
    say(err, stop_line(number))
    sys.exit(stop_code(number))


def check_streams() -> None:
    """Fill closed streams; raise SystemExit with a message where stdout is one of them.

    Python ignores every print to a closed stream: the answer would be lost, with exit code 0.
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
    """Open the null device in place of each closed standard stream.

    The system gives the number of a closed stream to the next file that is opened: what a library
    prints would end up in a picture or a bundle.
    """
    for number in STANDARD_STREAMS:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


def _comes_from_printing(error: Exception) -> bool:
    """Whether an error of the system was raised while an answer was printed."""
    traceback = error.__traceback__
    if not isinstance(error, OSError) or error.filename is not None or traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_globals.get("__name__") in PRINTERS


@contextmanager
def report_stdout_errors() -> Iterator[None]:
    """Turn an error of stdout, as on a full disk, into one line on stderr and exit code 1.

    This covers what is printed outside `report_errors`: help texts, and what is still in Python's
    buffer, which would be lost without a message when the process ends. With `--debug` the error
    passes through.
    """
    ended: SystemExit | None = None
    try:
        try:
            yield
        except SystemExit as raised:
            ended = raised
        sys.stdout.flush()
    except OSError as error:
        _discard_stdout()
        reported = ended is not None and ended.code  # the command has failed, and has said why
        if error.filename is not None or (DEBUG in sys.argv and not reported):
            raise
        if not reported:
            _report_stdout_error(error)
            ended = SystemExit(FAILURE)
    if ended is not None:
        raise ended


def _discard_stdout() -> None:
    """Lead stdout to the null device, so that flushing its buffer at the end cannot fail."""
    with contextlib.suppress(OSError, ValueError):  # not a file but a stand-in for one
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _report_stdout_error(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        return  # the reader has read enough, as `head` does
    with contextlib.suppress(OSError):  # stderr leads to the same full disk
        say(
            err,
            f"error: stdout cannot be written to: {error.strerror}. Redirect it to a disk with "
            f"room, or to {os.devnull}.",
            style="red",
        )
