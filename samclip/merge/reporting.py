"""What a run tells a person while it goes on; the trainer knows only the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from samclip.merge.logs import StepRecord

LINE_EVERY = 50  # steps between two lines where stderr is no terminal


class Reporter(Protocol):
    """Told of stages, steps and everything else worth a line."""

    def stage(self, name: str, done: int, total: int) -> AbstractContextManager[None]:
        """Begin a stage that has `done` of its `total` steps behind it; it lasts as the context."""
        ...

    def step(self, record: StepRecord) -> None:
        """Tell of a step of the current stage."""
        ...

    def advance(self, text: str) -> None:
        """Tell of a step of the current stage that has no losses, in a few words."""
        ...

    def note(self, text: str) -> None:
        """Say a line."""
        ...


class Silent:
    """Tells nothing."""

    def stage(self, name: str, done: int, total: int) -> AbstractContextManager[None]:
        """Begin a stage."""
        del name, done, total
        return nullcontext()

    def step(self, record: StepRecord) -> None:
        """Take a step."""

    def advance(self, text: str) -> None:
        """Take a step without losses."""

    def note(self, text: str) -> None:
        """Take a line."""


class ConsoleReporter:
    """A bar with losses, speed and time left; where there is no terminal, a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._total = self._done = 0

    @contextmanager
    def stage(self, name: str, done: int, total: int) -> Iterator[None]:
        """Begin a stage."""
        self._total, self._done = total, done
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        with self._progress:
            self._task = self._progress.add_task(name, total=total, completed=done, told="")
            yield
        self._progress = None

    def step(self, record: StepRecord) -> None:
        """Show a step's losses."""
        terms = "  ".join(f"{name} {value:.4f}" for name, value in record.terms.items())
        self.advance(f"{terms}  {record.seconds:.2f} s/step", f"{record.stage} ")

    def advance(self, text: str, prefix: str = "") -> None:
        """Show a step."""
        self._done += 1
        if self._progress is not None:
            self._progress.update(self._task, advance=1, told=text)
        last = self._done == self._total
        if not self._console.is_terminal and (last or self._done % LINE_EVERY == 0):
            self.note(f"{prefix}{self._done}/{self._total}  {text}")

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
