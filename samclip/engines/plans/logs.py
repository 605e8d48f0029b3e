"""What TensorRT says while it works: kept, so that an error can carry it.

TensorRT takes the first logger that it is given for the whole process: so there is one for each
library, and a build listens to it while it lasts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_logger = logging.getLogger("samclip")
_loggers: dict[str, Any] = {}
_listeners: list[Said] = []
_lock = threading.Lock()


@dataclass(eq=False)  # each is another listener, whatever it has heard
class Said:
    """The messages of one build, in their order, by severity."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def shared_logger(module: Any) -> Any:
    """Give the library's one logger."""
    with _lock:
        if module.__name__ not in _loggers:
            _loggers[module.__name__] = _make_logger(module)
        return _loggers[module.__name__]


@contextmanager
def listening() -> Iterator[Said]:
    """Collect what TensorRT says during the block."""
    said = Said()
    _listeners.append(said)
    try:
        yield said
    finally:
        _listeners.remove(said)


def _make_logger(module: Any) -> Any:
    severities = module.ILogger.Severity
    serious = (severities.INTERNAL_ERROR, severities.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        """Passes messages to the builds that listen."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Keep errors and warnings; called from any of TensorRT's threads."""
            if severity in serious:
                for said in _listeners:
                    said.errors.append(message)
            elif severity == severities.WARNING:
                _logger.debug("%s: %s", module.__name__, message)
                for said in _listeners:
                    said.warnings.append(message)

    return Logger()
