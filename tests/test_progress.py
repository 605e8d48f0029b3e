"""The protocol of progress: items pass through, stages end with their context."""

from __future__ import annotations

import pytest
from recorded_progress import RecordedProgress

from samclip.progress import SILENT, track


def test_each_item_is_a_step_of_one_stage() -> None:
    progress = RecordedProgress()
    assert list(track(progress, "ab", "letters")) == ["a", "b"]
    steps = [("step", ""), ("step", "")]
    assert progress.events == [("begin", "letters", 2, 0), *steps, ("end", "letters")]


def test_a_stage_ends_when_its_work_fails() -> None:
    progress = RecordedProgress()
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
