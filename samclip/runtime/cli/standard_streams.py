"""The standard streams, which whoever starts a command may have closed."""

from __future__ import annotations

import os
import sys
from typing import Any

from typer.core import TyperGroup

from samclip.runtime.cli.consoles import err, say
from samclip.runtime.cli.failures import FAILURE

STANDARD = range(3)  # stdin, stdout, stderr


class StreamsGroup(TyperGroup):
    """A group of commands that looks at its streams before anything else, `--help` included."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as every group does; ends with exit code 1 where stdout is closed."""
        check_streams()
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


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
