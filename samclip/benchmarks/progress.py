"""How long work tells a person where it is; evaluations know only the protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from samclip.cli.terminal import say

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 30  # where stderr is no terminal


class Track(Protocol):
    """Passes items on, one by one, and tells how many are done."""

    def __call__(self, items: Sequence[T], what: str) -> Iterator[T]:
        """Give the items in order."""
        ...


def silent(items: Sequence[T], what: str) -> Iterator[T]:
    """Tell nothing."""
    del what
    return iter(items)


class ConsoleTrack:
    """A bar with the time left on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, items: Sequence[T], what: str) -> Iterator[T]:
        """Give the items in order."""
        return self._bar(items, what) if self._console.is_terminal else self._lines(items, what)

    def _bar(self, items: Sequence[T], what: str) -> Iterator[T]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TimeRemainingColumn(), console=self._console, transient=True
        ) as bar:
            yield from bar.track(items, description=what)

    def _lines(self, items: Sequence[T], what: str) -> Iterator[T]:
        start = told = time.monotonic()
        for done, item in enumerate(items):
            if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                say(self._console, f"{what}: {done} of {len(items)}, {told - start:.0f} s")
            yield item
