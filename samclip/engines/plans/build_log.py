"""TensorRT's messages, collected for errors, and the progress of its builds.

TensorRT uses the first logger that it gets for the whole process: so there is one logger for each
library, and a build listens to it while it runs.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from samclip.progress import Progress, ProgressStage

_logger = logging.getLogger("samclip")
_loggers: dict[str, Any] = {}
_listeners: list[Said] = []
_lock = threading.Lock()
_INTERNALS = re.compile(
    r"\[[^\[\]]*\.(?:cpp|cc|cu|h|hpp)\b[^\[\]]*\]"  # [file.cpp::function::132]
    r"|\b[\w/]+\.(?:cpp|cc|cu|h|hpp):+\w*:*\d*"
)


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


def clean_line(message: str) -> str:
    """Return a message of TensorRT in one line, without the places in its source files."""
    return " ".join(_INTERNALS.sub(" ", message).split())


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
                    said.errors.append(clean_line(message))
            elif severity == severities.WARNING:
                _logger.debug("%s: %s", module.__name__, message)
                for said in _listeners:
                    said.warnings.append(clean_line(message))

    return Logger()


def make_monitor(module: Any, progress: Progress) -> Any:
    """Make TensorRT's progress monitor, which reports each phase as a stage of `progress`.

    An exception of `progress` must not pass through TensorRT's own code: it ends the build, and is
    kept as `interruption` to be raised afterwards. Call `close` when the build has ended.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        """Turns phases into stages; called from any of TensorRT's threads."""

        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.interruption: BaseException | None = None
            self._phases: dict[str, tuple[ExitStack, ProgressStage]] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:  # noqa: ARG002
            """Begin a phase of so many steps, perhaps inside another one."""
            with self._kept():
                stack = ExitStack()
                self._phases[name] = (stack, stack.enter_context(progress.stage(name, steps)))

        def step_complete(self, name: str, step: int) -> bool:  # noqa: ARG002 - stages count
            """End a step; False ends the build."""
            if name in self._phases:
                with self._kept():
                    self._phases[name][1].advance()
            return self.interruption is None

        def phase_finish(self, name: str) -> None:
            """End a phase, whether all its steps were done or not."""
            phase = self._phases.pop(name, None)
            if phase is not None:
                with self._kept():
                    phase[0].close()

        def close(self) -> None:
            """End the phases that a cancelled build left open."""
            for name in list(self._phases):
                self.phase_finish(name)

        @contextmanager
        def _kept(self) -> Iterator[None]:
            """Keep the first exception of the block instead of raising it."""
            try:
                yield
            except BaseException as error:  # raised again when the build has ended
                self.interruption = self.interruption or error

    return Monitor()
