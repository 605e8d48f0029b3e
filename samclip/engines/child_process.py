"""Child processes: each runs one module of samclip, and ends when its time is over."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO

MAX_SAID = 600  # characters of what a child wrote
GRACE = 1.0  # seconds after which the timer ends what the parent did not


def starting(module: str) -> str:
    """Return the code that calls `main` of a module with its first argument; see `start_child`."""
    return f"import sys; sys.path[:] = sys.argv[2:]; from {module} import main; main(sys.argv[1])"


def start_child(
    code: str, argument: str, stdin: int, stdout: int | IO[bytes], stderr: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start `code`, which finds its modules where this process does; raises OSError."""
    return subprocess.Popen(
        [sys.executable, "-c", code, argument, *sys.path],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,  # Ctrl-C is for the parent, which ends this process
    )


def describe_end(code: int, said: bytes) -> str:
    """Return how a child ended, by its exit code, and the last of what it wrote to its streams."""
    text = " ".join(said.decode(errors="replace").split())
    ending = f", which said: {text[-MAX_SAID:]}" if text else ""
    if code >= 0:
        return f"exit code {code}{ending}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name}{ending}"
    return f"signal {-code}{ending}"


def end_after(seconds: float) -> None:
    """In a child: let a timer of the kernel end it a second after `seconds`, whatever it does.

    It ends even when nobody is left to end it and a library holds Python's lock; not on Windows.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
