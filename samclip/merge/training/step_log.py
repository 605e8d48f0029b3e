"""The figures of every step of a run, and the CSV log that keeps them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samclip.disk.partial_files import result_file
from samclip.errors import TrainingError
from samclip.merge.training.objective import TERMS

COMMON_COLUMNS = ("stage", "step", "loss", "learning_rate", "gradient_norm", "seconds")
COLUMNS = (*COMMON_COLUMNS[:3], *TERMS, *COMMON_COLUMNS[3:])


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

    def line(self) -> str:
        """Return the losses and the time in one line."""
        terms = "  ".join(f"{name} {value:.4f}" for name, value in self.terms.items())
        return f"{terms}  {self.seconds:.2f} s/step"

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
