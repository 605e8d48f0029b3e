"""The progress of a build, in TensorRT's own phases and steps."""

from __future__ import annotations

from typing import Any, Protocol


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
