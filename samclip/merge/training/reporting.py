"""Reports of a run in progress: to a person at the console, and to a CSV log of every step.

The trainer depends only on the `Reporter` protocol.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
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

from samclip.disk.partial_files import result_file
from samclip.errors import TrainingError
from samclip.merge.training.objective import TERMS

COMMON_COLUMNS = ("stage", "step", "loss", "learning_rate", "gradient_norm", "seconds")
COLUMNS = (*COMMON_COLUMNS[:3], *TERMS, *COMMON_COLUMNS[3:])
LINE_EVERY = 50  # steps between two lines where stderr is not a terminal


@dataclass(frozen=True)
class StepRecord:
    """The figures of one step; `terms` are unweighted means over the global batch."""

    stage: str
    step: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    gradient_norm: float
    seconds: float

    def row(self) -> dict[str, str]:
        """Return the values by column, without terms that the stage does not have."""
        numbers = {
            "loss": self.loss,
            **self.terms,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
            "seconds": self.seconds,
        }
        texts = {name: f"{value:.6g}" for name, value in numbers.items()}
        return {"stage": self.stage, "step": str(self.step), **texts}


class StepLog:
    """A CSV file with one line for each step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, record: StepRecord) -> None:
        """Append a line."""
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            if new:
                writer.writeheader()
            writer.writerow(record.row())

    def clear(self) -> None:
        """Delete the log."""
        self.path.unlink(missing_ok=True)

    def rows(self) -> list[dict[str, str]]:
        """Read all complete lines, by column.

        In a log of another version, columns unknown here are left out, and losses unknown there are
        empty. Raises TrainingError for a file that is not the log of a run.
        """
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {*COMMON_COLUMNS} <= {*(reader.fieldnames or ())}:
                raise TrainingError(f"{self.path} is not the log of a run; move it away")
            whole = [row for row in reader if None not in row.values() and None not in row]
        return [{column: row.get(column, "") for column in COLUMNS} for row in whole]

    def keep(self, done: Sequence[str], current: str | None, step: int) -> None:
        """Drop the lines after a state: keep the stages `done`, and `current` up to before `step`.

        A run that was killed may have logged steps after its last state; these are run again.
        """
        kept = [
            row
            for row in self.rows()
            if row["stage"] in done or (row["stage"] == current and int(row["step"]) < step)
        ]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        with result_file(self.path) as file:
            file.write(text.getvalue().encode())


class Reporter(Protocol):
    """The receiver of a run's reports: stages, steps and notes."""

    def stage(self, name: str, done: int, total: int) -> AbstractContextManager[None]:
        """Begin a stage at `done` of its `total` steps; it ends with the context."""
        ...

    def step(self, record: StepRecord) -> None:
        """Report a step of the current stage."""
        ...

    def advance(self, text: str) -> None:
        """Report a step of the current stage that has no losses, in a few words."""
        ...

    def note(self, text: str) -> None:
        """Report a line of text."""
        ...


class Silent:
    """Reports nothing."""

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
    """A progress bar with losses, speed and time left; without a terminal, occasional lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._total = 0
        self._done = 0

    @contextmanager
    def stage(self, name: str, done: int, total: int) -> Iterator[None]:
        """Begin a stage."""
        self._total = total
        self._done = done
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        with self._progress:
            self._task = self._progress.add_task(name, total=total, completed=done, text="")
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
            self._progress.update(self._task, advance=1, text=text)
        last = self._done == self._total
        if not self._console.is_terminal and (last or self._done % LINE_EVERY == 0):
            self.note(f"{prefix}{self._done}/{self._total}  {text}")

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
