"""Progress of long work, as a protocol that the work depends on.

`samclip.cli.progress` shows it on a terminal; tests and callers of the API pass their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class ProgressStage(Protocol):
    """A part of the work while it lasts."""

    def advance(self, text: str = "") -> None:
        """Count one more step as done; `text` describes it, for example by its losses."""
        ...


class Progress(Protocol):
    """Receives stages and notes. Methods may be called from any thread."""

    def stage(
        self, name: str, total: int | None = None, done: int = 0
    ) -> AbstractContextManager[ProgressStage]:
        """Begin a stage that ends with the context.

        `total`: its number of steps, None where that is unknown; `done`: how many of them were
        done before, as in a run that is resumed. Stages may be nested.
        """
        ...

    def note(self, text: str) -> None:
        """Report one line of text."""
        ...


class Silent:
    """A `Progress`, and its stages, that show nothing."""

    def stage(
        self, name: str, total: int | None = None, done: int = 0
    ) -> AbstractContextManager[ProgressStage]:
        """Return a context that does nothing."""
        del name, total, done
        return nullcontext(self)

    def advance(self, text: str = "") -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


SILENT = Silent()


def track(progress: Progress, items: Sequence[T], name: str) -> Iterator[T]:
    """Yield `items` in order, as one stage in which each item is a step."""
    with progress.stage(name, len(items)) as stage:
        for item in items:
            yield item
            stage.advance()
