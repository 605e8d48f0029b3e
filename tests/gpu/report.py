"""The findings of a GPU check: rows, one JSON file for each part, and a table.

Standard library only, so that a machine without samclip's packages can still report.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, NOT_RUN, SHOWN = "passed", "FAILED", "not run", "shown"
UNFINISHED = "UNFINISHED"  # what a file says while its part runs, and after the part was killed
ABSENT = ("BackendUnavailableError", "PlanMissingError")  # of samclip: a package or plan is missing
MAX_REASON = 300


class NotHereError(Exception):
    """This machine lacks what a part or a contender needs; the message names it."""


@dataclass(frozen=True)
class Row:
    """One figure, or why there is none.

    `limit`: what it must keep, None for a figure that is only shown; `at_most`: the limit is an
    upper one. `low` and `high`: of a time its first and last tenth, of a ratio its 95 % interval.
    `reason`: what is missing for this row; `error`: the traceback of a fault.
    """

    what: str
    value: float | int | str = ""
    unit: str = ""
    limit: float | None = None
    at_most: bool = False
    low: float | None = None
    high: float | None = None
    reason: str = ""
    error: str = ""

    @property
    def state(self) -> str:
        if self.error:
            return FAILED
        if self.reason:
            return NOT_RUN
        if self.limit is None:
            return SHOWN
        if isinstance(self.value, str):
            return FAILED  # a limit, and no figure
        kept = self.value <= self.limit if self.at_most else self.value >= self.limit
        return PASSED if kept else FAILED  # NaN keeps no limit


def row_of(what: str, error: Exception) -> Row:
    """Return the row of an error: a fault, unless a package or a plan is missing."""
    if is_absence(error):
        return Row(what, reason=" ".join(str(error).split())[:MAX_REASON])
    return Row(what, error="".join(traceback.format_exception(error)))


def is_absence(error: Exception) -> bool:
    """Whether an error says that something is missing here, and not that something is wrong."""
    return isinstance(error, NotHereError) or type(error).__name__ in ABSENT


def attempt(what: str, rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """Yield rows; an error among them becomes a row, and the part goes on."""
    try:
        yield from rows()
    except Exception as error:
        yield row_of(what, error)


@dataclass
class PartResult:
    """The rows of one part; those before a failure stay.

    `note`: why it was not run; `error`: the traceback of the part, or how its process ended.
    """

    name: str
    state: str = UNFINISHED
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    note: str = ""
    error: str = ""

    def settle(self, must_run: bool = False) -> None:
        """Decide the state of a part that has ended; `must_run`: what is missing is a failure."""
        states = {row.state for row in self.rows}
        if self.error or FAILED in states or (must_run and (self.note or NOT_RUN in states)):
            self.state = FAILED
        elif self.note or (states and not states & {PASSED, SHOWN}):
            self.state = NOT_RUN
        else:
            self.state = PASSED

    def save(self, folder: Path) -> None:
        """Write the part's file: whole or not at all, whenever the process is killed."""
        rows = [{**asdict(row), "state": row.state} for row in self.rows]
        write_json(part_file(folder, self.name), {**asdict(self), "rows": rows})

    @classmethod
    def from_file(cls, path: Path) -> PartResult:
        found = json.loads(path.read_text())
        rows = [Row(**{k: v for k, v in row.items() if k != "state"}) for row in found.pop("rows")]
        return cls(**{**found, "rows": rows})


def part_file(folder: Path, name: str) -> Path:
    return folder / f"part-{name}.json"


def read_parts(folders: list[Path]) -> list[PartResult]:
    """Read the parts of several folders; of a part in more than one, the last folder's."""
    found = {}
    for folder in folders:
        for path in sorted(folder.glob("part-*.json")):
            result = PartResult.from_file(path)
            found[result.name] = result
    return list(found.values())


def write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def table(results: list[PartResult]) -> str:
    """Put all figures into lines: state, figure, interval or limit, what it is."""
    lines = []
    for part in results:
        lines += ["", f"== {part.name}: {part.state} ({part.seconds:.0f} s) {part.note}".rstrip()]
        lines += [line for row in part.rows for line in _lines(row)]
        lines += _tail(part.error)
    return "\n".join(lines)


def _lines(row: Row) -> list[str]:
    value = row.value if isinstance(row.value, str) else f"{row.value:.6g}"
    bound = "" if row.limit is None else f"{'<=' if row.at_most else '>='} {row.limit:g}"
    if row.low is not None and row.high is not None:
        bound = f"{row.low:.4g} to {row.high:.4g}"
    reason = f": {row.reason}" if row.reason else ""
    line = f"  {row.state:8} {value:>12} {row.unit:7} {bound:18} {row.what}{reason}"
    return [line, *_tail(row.error)]


def _tail(error: str) -> list[str]:
    return [f"  | {line}" for line in error.strip().splitlines()[-12:]]
