"""A build of a plan on the terminal: its phase, and how far it is."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.markup import escape
from rich.status import Status

from samclip.runtime.cli.consoles import err, say, visible

INTERVAL = 0.1  # seconds between two changes of the line: a build has thousands of steps


class BuildConsole:
    """Shows a build on stderr: messages as lines, phases in one line of a terminal."""

    def __init__(self) -> None:
        self._status = Status("", console=err) if err.is_terminal else None
        self._shown = 0.0
        self._lock = threading.Lock()  # phases come from any of TensorRT's threads

    def __enter__(self) -> BuildConsole:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def message(self, text: str) -> None:
        """Print a line; a warning in yellow."""
        say(err, text, style="yellow" if text.startswith("warning") else None)

    def phase(self, name: str, step: int, steps: int) -> None:
        """Show how far a phase is, ten times a second at most."""
        with self._lock:
            now = time.monotonic()
            if self._status is None or now - self._shown < INTERVAL:
                return
            self._shown = now
            self._status.update(escape(visible(f"{name}: {step} of {steps}")))
