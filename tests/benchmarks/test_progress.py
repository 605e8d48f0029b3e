from __future__ import annotations

import io

import pytest
from rich.console import Console

from samclip.benchmarks import progress
from samclip.benchmarks.progress import ConsoleTrack, silent


def test_items_pass_through_in_order() -> None:
    assert list(silent([1, 2], "work")) == [1, 2]
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        assert list(ConsoleTrack(console)([3, 1, 2], "work")) == [3, 1, 2]


def test_a_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))
    stream = io.StringIO()
    list(ConsoleTrack(Console(file=stream))(["a"] * 5, "names"))
    lines = stream.getvalue().splitlines()
    assert lines
    assert lines[0].startswith("names: ")
    assert " of 5, " in lines[0]
