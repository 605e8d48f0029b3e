"""Progress on a console: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from samclip.cli import progress as module
from samclip.cli.progress import ConsoleProgress
from samclip.progress import track


def make_console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stage_of_unknown_length_ends_with_its_seconds(terminal: bool) -> None:
    console = make_console(terminal)
    with ConsoleProgress(console).stage("reading [weights]"):
        pass
    assert "done reading [weights] 0." in printed(console)


def test_lines_come_every_few_steps_and_at_the_end() -> None:
    console = make_console(terminal=False)
    with ConsoleProgress(console, steps_between_lines=2).stage("head", 5, 2) as stage:
        for loss in ("a", "b", "c"):
            stage.advance(f"loss {loss}")
    assert printed(console).splitlines() == ["head: 4 of 5, loss b", "head: 5 of 5, loss c"]


def test_lines_come_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    console = make_console(terminal=False)
    assert list(track(ConsoleProgress(console), [1, 2, 3], "photos")) == [1, 2, 3]
    assert printed(console) == ""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1.0)
    list(track(ConsoleProgress(console), [1, 2], "photos"))
    assert printed(console).splitlines() == [
        "photos: 1 of 2, 0 s, 0:00:00 left",
        "photos: 2 of 2, 0 s",
    ]
    times = iter([100.0, 110.0, 110.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    with ConsoleProgress(console).stage("images", 402, 200) as stage:
        stage.advance("0.2 images/s")
    assert printed(console).splitlines()[-1] == "images: 201 of 402, 0.2 images/s, 0:33:30 left"


def test_bars_nest_and_go() -> None:
    console = make_console(terminal=True)
    progress = ConsoleProgress(console)
    with progress.stage("build", 2) as outer:
        outer.advance("first [step]")
        with progress.stage("phase", 1) as inner:
            inner.advance()
        progress.note("warning: little memory")
        outer.advance()
    text = printed(console)
    assert "build" in text and "1/2" in text and "first [step]" in text
    assert "warning: little memory" in text
    with progress.stage("again", 1):  # the display of before is gone; a new one starts
        pass
    assert "again" in printed(console)


def test_stages_end_when_their_work_fails() -> None:
    progress = ConsoleProgress(make_console(terminal=True))
    with pytest.raises(RuntimeError), progress.stage("a", 1), progress.stage("b"):
        raise RuntimeError
    with progress.stage("c", 1):
        pass
