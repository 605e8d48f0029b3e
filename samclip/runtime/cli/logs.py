"""Warnings of the runtime, shown on stderr in the command's own words and once each."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from samclip.errors import UntrainedHeadWarning
from samclip.runtime.cli.consoles import err, say


class _Once(logging.Handler):
    """Prints each message of level WARNING and above the first time it comes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._seen:
            self._seen.add(message)
            say(err, f"{record.levelname.lower()}: {message}", style="yellow")


@contextmanager
def shown_logs() -> Iterator[None]:
    """Show the log "samclip" while the block runs.

    UntrainedHeadWarning is ignored meanwhile: the command has a panel for it.
    """
    logger = logging.getLogger("samclip")
    handler, propagates = _Once(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UntrainedHeadWarning)
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
