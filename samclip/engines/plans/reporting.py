"""TensorRT's messages, collected for errors, and the progress of its builds.

TensorRT uses the first logger that it gets for the whole process: so there is one logger for each
library, and a build listens to it while it runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

_logger = logging.getLogger("samclip")
_loggers: dict[str, Any] = {}
_listeners: list[Said] = []
_lock = threading.Lock()


@dataclass(eq=False)  # listeners differ even with the same messages
class Said:
    """The messages of one build, in their order, by severity."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def shared_logger(module: Any) -> Any:
    """Return the library's one logger."""
    with _lock:
        if module.__name__ not in _loggers:
            _loggers[module.__name__] = _make_logger(module)
        return _loggers[module.__name__]


@contextmanager
def listening() -> Iterator[Said]:
    """Collect TensorRT's messages during the block."""
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


class BuildReport(Protocol):
    """Who is told how a build goes; called from any of TensorRT's threads."""

    def message(self, text: str) -> None:
        """Say something: which graph is built, that another build is waited for."""
        ...

    def phase(self, name: str, step: int, steps: int) -> None:
        """Say that `step` of the `steps` of a phase are done; all of them when it ends."""
        ...


class Silent:
    """Says nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def phase(self, name: str, step: int, steps: int) -> None:
        """Do nothing."""


def make_monitor(module: Any, report: BuildReport) -> Any:
    """Make TensorRT's progress monitor; its `interruption` is what a report raised, or None.

    An exception must not pass through TensorRT's own code: it ends the build, and is raised after.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        """Passes phases on."""

        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.interruption: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:  # noqa: ARG002
            """Begin a phase of so many steps, perhaps inside another one."""
            self._steps[name] = steps
            self._tell(name, 0, steps)

        def step_complete(self, name: str, step: int) -> bool:
            """End a step, counted from 0; False ends the build."""
            return self._tell(name, step + 1, self._steps.get(name, step + 1))

        def phase_finish(self, name: str) -> None:
            """End a phase, whether all its steps were done or not."""
            steps = self._steps.pop(name, 1)
            self._tell(name, steps, steps)

        def _tell(self, name: str, step: int, steps: int) -> bool:
            try:
                report.phase(name, min(step, steps), steps)
            except BaseException as error:  # raised again when the build has ended
                self.interruption = self.interruption or error
            return self.interruption is None

    return Monitor()
