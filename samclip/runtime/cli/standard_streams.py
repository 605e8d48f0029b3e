"""The standard streams, which whoever starts a command may have closed, or led to a full disk."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup

from samclip.runtime.cli.consoles import err, say
from samclip.runtime.cli.failures import FAILURE

STANDARD = range(3)  # stdin, stdout, stderr
DEBUG = "--debug"


class StreamsGroup(TyperGroup):
    """A group of commands that looks at its streams before anything else, `--help` included."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as every group does; ends with exit code 1 where stdout is closed or full."""
        check_streams()
        with stdout_reported():
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
def stdout_reported() -> Iterator[None]:
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
