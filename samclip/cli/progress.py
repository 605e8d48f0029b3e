"""Progress on a terminal: spinners and bars; elsewhere a line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from samclip.cli.terminal import in_one_line, say
from samclip.progress import ProgressStage

SECONDS_BETWEEN_LINES = 30.0  # where the console is not a terminal


class ConsoleProgress:
    """A `Progress` that shows stages on `console`.

    A stage of unknown length has a spinner, and at its end a line with its seconds; any other has
    a bar with the time left. Where the console is not a terminal, a stage with steps prints a line
    every `steps_between_lines` steps and after its last one; if that is None, one every 30 seconds
    with the time left.
    """

    def __init__(self, console: Console, steps_between_lines: int | None = None) -> None:
        self._console = console
        self._steps_between_lines = steps_between_lines
        self._bars: RichProgress | None = None
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[ProgressStage]:
        """Show a stage until the context ends."""
        start = time.perf_counter()
        if self._console.is_terminal:
            with self._bar(name, total, done) as stage:
                yield stage
        else:
            yield _Lines(self._console, name, total, done, self._steps_between_lines)
        if total is None:
            seconds = time.perf_counter() - start
            self._console.print(
                f"[green]done[/] {escape(in_one_line(name))} [dim]{seconds:.1f} s[/]"
            )

    def note(self, text: str) -> None:
        """Print a line; a warning in yellow."""
        say(self._console, text, style="yellow" if text.startswith("warning") else None)

    @contextmanager
    def _bar(self, name: str, total: int | None, done: int) -> Iterator[ProgressStage]:
        """Add a bar; the first one starts the display, the last one stops it."""
        with self._lock:
            bars = self._bars = self._bars or _start_display(self._console)
            task = bars.add_task(escape(in_one_line(name)), total=total, completed=done, text="")
        try:
            yield _Bar(bars, task)
        finally:
            with self._lock:
                bars.remove_task(task)
                if not bars.tasks:
                    bars.stop()
                    self._bars = None


class _Bar:
    """A stage as a bar of a display."""

    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, text: str = "") -> None:
        self._bars.update(self._task, advance=1, text=in_one_line(text))


class _Lines:
    """A stage as lines of text."""

    def __init__(
        self, console: Console, name: str, total: int | None, done: int, steps: int | None
    ) -> None:
        self._console = console
        self._name = name
        self._total = total
        self._done = self._begun = done
        self._steps = steps
        self._start = self._printed = time.monotonic()

    def advance(self, text: str = "") -> None:
        self._done += 1
        if self._total is not None and self._is_due():
            self._printed = time.monotonic()
            seconds = self._printed - self._start
            line = f"{self._name}: {self._done} of {self._total}, {text or f'{seconds:.0f} s'}"
            left = seconds * (self._total - self._done) / (self._done - self._begun)
            if self._steps is None and self._done < self._total:
                line += f", {timedelta(seconds=round(left))} left"
            say(self._console, in_one_line(line))

    def _is_due(self) -> bool:
        if self._steps is not None:
            return self._done == self._total or self._done % self._steps == 0
        return time.monotonic() - self._printed > SECONDS_BETWEEN_LINES


class _Count(MofNCompleteColumn):
    """The number of steps; empty where the total is unknown."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text("")


class _TimeLeft(TimeRemainingColumn):
    """The time left; empty where the total is unknown."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text("")


def _start_display(console: Console) -> RichProgress:
    columns: tuple[ProgressColumn, ...] = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        _Count(),
        TextColumn("{task.fields[text]}", markup=False),
        _TimeLeft(),
    )
    # stdout must stay free for answers; a line that is printed meanwhile goes above the bars
    display = RichProgress(*columns, console=console, transient=True, redirect_stdout=False)
    display.start()
    return display
