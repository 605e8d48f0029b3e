"""The findings of the GPU check's parts: rows, a table for people, JSON for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED, SHOWN = "passed", "FAILED", "skipped", "shown"


class Skip(Exception):  # noqa: N818 - no error
    """A part cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class Row:
    """One figure: `limit` is what it must keep, None for one that is only shown."""

    what: str
    value: float | int | str
    unit: str = ""
    limit: float | None = None
    at_most: bool = False  # the limit is an upper one

    @property
    def state(self) -> str:
        if self.limit is None or isinstance(self.value, str):
            return SHOWN
        kept = self.value <= self.limit if self.at_most else self.value >= self.limit
        return PASSED if kept else FAILED


@dataclass
class PartResult:
    """What one part found; `error` is the traceback of one that failed, `note` why it was skipped.

    Rows found before a failure stay.
    """

    name: str
    state: str = PASSED
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    note: str = ""
    error: str = ""

    def settle(self) -> None:
        """Fail the part if any of its rows does."""
        if self.state == PASSED and any(row.state == FAILED for row in self.rows):
            self.state = FAILED

    def to_dict(self) -> dict[str, Any]:
        rows = [{**asdict(row), "state": row.state} for row in self.rows]
        return {**asdict(self), "rows": rows}

    @classmethod
    def from_file(cls, path: Path) -> PartResult:
        found = json.loads(path.read_text())
        rows = [Row(**{k: v for k, v in row.items() if k != "state"}) for row in found.pop("rows")]
        return cls(**{**found, "rows": rows})

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=1))


def table(results: list[PartResult]) -> str:
    """Put all figures into lines: state, figure, limit, what it is."""
    lines = []
    for part in results:
        lines += ["", f"== {part.name}: {part.state} ({part.seconds:.0f} s) {part.note}".rstrip()]
        for row in part.rows:
            value = row.value if isinstance(row.value, str) else f"{row.value:.6g}"
            sign = "<=" if row.at_most else ">="
            limit = "" if row.limit is None else f"{sign} {row.limit:g}"
            lines.append(f"  {row.state:8} {value:>12} {row.unit:6} {limit:12} {row.what}")
        if part.error:
            lines += [f"  | {line}" for line in part.error.strip().splitlines()[-12:]]
    return "\n".join(lines)
