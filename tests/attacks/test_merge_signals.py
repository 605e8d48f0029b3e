"""`samclip-merge` stopped at any moment: only whole files, and the same command continues."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_process import CODES, LINES, PATIENCE, Command, check_whole
from figures import Figures
from writer_runs import SEED, seed

from samclip.merge.training.state import StateFolder
from samclip.runtime.assets import packaged_photos

TURNS = 6
STEPS = 8
CONFIG = """
name = "small"
[student]
checkpoint = "{checkpoint}"
image_size = 64
[teachers.masks]
checkpoint = "{checkpoint}"
[data.masks]
folders = ["{photos}"]
[[stages]]
name = "masks"
steps = {steps}
learning_rate = 1e-4
train = {{ mask_decoder = 1.0 }}
losses = {{ sam = 1.0 }}
masks = {{ batch = 1, size = 64, prompts = 2 }}
"""


def steps_done(output: Path) -> int:
    """Return the number of steps made, from the state, which is whole or absent."""
    state = StateFolder(output / "state").read(None)
    return 0 if state is None else state.place.stage * STEPS + state.place.step


def check_end(number: int, code: int, errors: str, output: Path) -> str:
    """Check how the command ended after the signal; returns it in words."""
    check_whole(errors, output)
    if code in {0, -number}:
        return "had not begun" if code else "had ended already"
    assert code == CODES[number], errors
    last = errors.splitlines()[-1]
    if last == LINES[number]:
        return "stopped before it trained"
    assert last.startswith("stopped after step"), errors
    assert f"the same command continues the run in {output}" in last
    return "stopped between steps"


def wait_for_a_step(command: Command, log: Path) -> None:
    """Wait until the command has made one more step, or has ended."""
    before = log.stat().st_size if log.exists() else 0
    while command.is_running() and (log.stat().st_size if log.exists() else 0) <= before:
        time.sleep(0.02)


def stop_once(number: int, words: Sequence[object], turn: int, seconds: float, cache: Path) -> str:
    """Start or continue the run and stop it, every second time while it trains."""
    output = Path(str(words[-1]))
    before = steps_done(output)
    command = Command(words, cache)
    if turn % 2:
        wait_for_a_step(command, output / "log.csv")
        seconds /= 10
    how = check_end(number, *command.stop(number, seconds), output)
    assert command.survivors() == []
    assert steps_done(output) >= before
    return how


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=["SIGINT", "SIGTERM"])
def test_a_merge_is_stopped_and_goes_on(
    number: signal.Signals, tmp_path: Path, mobile_sam_checkpoint: Path, figures: Figures
) -> None:
    file, output = tmp_path / "run.toml", tmp_path / "run"
    options = {"checkpoint": mobile_sam_checkpoint, "photos": packaged_photos(), "steps": STEPS}
    file.write_text(CONFIG.format(**options), "utf-8")
    words = ["samclip.commands:merge", "--config", file, "--output", output]
    moments, found = random.Random(f"{seed()} {number}"), []
    for turn in range(TURNS):
        seconds = moments.uniform(0.2, 12)
        found.append(stop_once(number, words, turn, seconds, tmp_path / "cache"))
    command = Command(words, tmp_path / "cache")
    code, errors = command.stop(number, PATIENCE)
    assert code == 0, f"{SEED}={seed()}\n{errors}"
    check_whole(errors, output)
    assert (output / "merged.safetensors").exists()
    ends = ", ".join(f"{found.count(how)} {how}" for how in sorted(set(found)))
    figures.add(
        f"{number.name} during samclip-merge, which then goes on to its end",
        count=TURNS,
        found=f"{ends}; no partial file, no process left, no traceback",
    )
