"""How long work tells a person where it is; the exporter knows only the protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.markup import escape


class Progress(Protocol):
    """Called with a stage's description; the stage lasts as long as the context."""

    def __call__(self, stage: str) -> AbstractContextManager[None]:
        """Begin a stage."""
        ...


def silent(stage: str) -> AbstractContextManager[None]:
    """Report nothing."""
    del stage
    return nullcontext()


class ConsoleProgress:
    """A spinner while a stage runs, then a line with its seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Show `stage` until the context ends."""
        start = time.perf_counter()
        with self._console.status(escape(stage)):
            yield
        self._console.print(
            f"[green]done[/] {escape(stage)} [dim]{time.perf_counter() - start:.1f} s[/]"
        )
