"""The line that a step shows as progress."""

from __future__ import annotations

import io

from rich.console import Console

from samclip.cli.progress import ConsoleProgress
from samclip.merge.training.step_log import StepRecord


def record(step: int) -> StepRecord:
    return StepRecord("both", step, 1.0, {"clip": 0.25, "sam": 1.5}, 1e-4, 2.0, 0.125)


def test_a_step_shows_its_losses_and_its_time() -> None:
    console = Console(file=io.StringIO(), width=80)
    with ConsoleProgress(console, 50).stage("both", 112, 40) as stage:
        for step in range(40, 112):
            stage.advance(record(step).line())
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "both: 50 of 112, clip 0.2500  sam 1.5000  0.12 s/step",
        "both: 100 of 112, clip 0.2500  sam 1.5000  0.12 s/step",
        "both: 112 of 112, clip 0.2500  sam 1.5000  0.12 s/step",
    ]
