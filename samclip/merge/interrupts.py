"""Ctrl-C and SIGTERM, heeded between steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Remembers that the run was asked to stop; a second Ctrl-C stops it at once.

    `number`: the signal that asked; Ctrl-C's where another process of the run was asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self.number: int = signal.SIGINT

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Within, the first signal is remembered instead of ending the process."""

        def remember(number: int, frame: FrameType | None) -> None:
            del frame
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked, self.number = True, number

        before = {number: signal.signal(number, remember) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
