"""Errors as a person meets them: one message on stderr, an exit code, and no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from samclip.errors import BundleNotFoundError, InputError, SamclipError
from samclip.runtime.cli.consoles import err, in_one_line, say
from samclip.runtime.cli.stops import heeded_stops, stop_behind, tell_stop

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
    """Return the message of `error`, which for an OSError names the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Turn the errors of samclip and of the system into a message and an exit code.

    So are Ctrl-C, SIGTERM and SIGHUP, when what the block began has been cleaned up. With `debug`
    errors pass through with their traceback. Anything else is a defect of samclip and passes
    through as well.
    """
    try:
        with heeded_stops():
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
