"""A progress that keeps what it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RecordedProgress:
    """A `Progress` and its own stages; `events` are tuples in the order in which they came."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    @property
    def notes(self) -> list[str]:
        return [event[1] for event in self.events if event[0] == "note"]

    @contextmanager
    def stage(
        self, name: str, total: int | None = None, done: int = 0
    ) -> Iterator[RecordedProgress]:
        self.events.append(("begin", name, total, done))
        try:
            yield self
        finally:
            self.events.append(("end", name))

    def advance(self, text: str = "") -> None:
        self.events.append(("step", text))

    def note(self, text: str) -> None:
        self.events.append(("note", text))
