"""The protocol of progress: items pass through, stages end with their context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from samclip.progress import SILENT, ProgressStage, track


class Recorded:
    """A progress that keeps what it is sent."""

    def __init__(self) -> None:
        self.events: list[object] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None, done: int = 0) -> Iterator[ProgressStage]:
        self.events.append(("begin", name, total, done))
        try:
            yield self
        finally:
            self.events.append(("end", name))

    def advance(self, text: str = "") -> None:
        self.events.append(("step", text))

    def note(self, text: str) -> None:
        self.events.append(("note", text))


def test_each_item_is_a_step_of_one_stage() -> None:
    progress = Recorded()
    assert list(track(progress, "ab", "letters")) == ["a", "b"]
    steps = [("step", ""), ("step", "")]
    assert progress.events == [("begin", "letters", 2, 0), *steps, ("end", "letters")]


def test_a_stage_ends_when_its_work_fails() -> None:
    progress = Recorded()
    with pytest.raises(RuntimeError), progress.stage("work"):
        raise RuntimeError
    items = track(progress, [1, 2], "items")
    next(items)
    items.close()  # the loop was left early
    assert progress.events[-1] == ("end", "items")
    assert ("step", "") not in progress.events  # the item at work was not finished


def test_silence() -> None:
    with SILENT.stage("a", 3, 1) as stage:
        stage.advance("text")
    SILENT.note("text")
    assert list(track(SILENT, [1, 2], "items")) == [1, 2]
