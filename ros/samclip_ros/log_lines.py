"""Lines of the package samclip in a node's log."""

from __future__ import annotations

import logging
from typing import Any


class RosLog(logging.Handler):
    """Log records of the package samclip, as lines of a node's log."""

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on."""
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
