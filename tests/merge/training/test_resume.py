"""A run that is killed at any moment goes on to the same result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.torch import load_file
from tiny_run import StopAt, tiny_config, tiny_run, train
from tree import SUPPORT

from samclip.merge.training.evaluation import Evaluator, read_records
from samclip.merge.training.state import StateFolder
from samclip.merge.training.trainer import StoppedError

SCRIPT = SUPPORT / "tiny_run.py"


def weights(output: Path) -> dict[str, bytes]:
    state = load_file(output / "weights.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def log(output: Path) -> list[str]:
    """The lines of the log without the seconds."""
    lines = (output / "log.csv").read_text().splitlines()
    return [line.rpartition(",")[0] for line in lines]


def test_an_interrupted_run_keeps_its_state_and_ends_the_same(tmp_path: Path) -> None:
    config = tiny_config(save_every=100)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(tiny_run(whole, config))
    with pytest.raises(StoppedError, match="after step 2 of stage 'both'"):
        train(tiny_run(stopped, config, progress=StopAt("both", 2)))
    state = StateFolder(stopped / "state").read(config.digest)
    assert state is not None
    assert (state.place.stage, state.place.step) == (1, 3)
    assert not (stopped / "weights.safetensors").exists()
    train(tiny_run(stopped, config))
    assert weights(stopped) == weights(whole)
    assert log(stopped) == log(whole)
    assert len(log(whole)) == 1 + 3 + 5
    assert read_records(stopped / "evaluation.json") == read_records(whole / "evaluation.json")


@pytest.mark.parametrize(("stage", "step"), [("head", None), ("both", 2)])
def test_a_run_killed_before_its_evaluation_is_evaluated_when_it_goes_on(
    stage: str, step: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_config()
    last = msgspec.structs.replace(base.stages[1], evaluate_every=2)
    config = msgspec.structs.replace(base, stages=(base.stages[0], last))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(tiny_run(whole, config))
    evaluate = Evaluator.evaluate

    def die(self: Evaluator, student: Any, stage_: str, step_: int | None) -> Any:
        if (stage_, step_) == (stage, step):
            raise KeyboardInterrupt
        return evaluate(self, student, stage_, step_)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Evaluator, "evaluate", die)
        train(tiny_run(killed, config))
    train(tiny_run(killed, config))
    assert read_records(killed / "evaluation.json") == read_records(whole / "evaluation.json")
    assert weights(killed) == weights(whole)


def command(output: Path, *options: str) -> list[str]:
    return [sys.executable, str(SCRIPT), str(output), *options]


def kill_after(output: Path, rows: int) -> None:
    """Run slowly, and kill the process when the log has `rows` steps."""
    process = subprocess.Popen(command(output, "--slow"), env=environment())
    while process.poll() is None:
        lines = (output / "log.csv").read_text().count("\n") if (output / "log.csv").exists() else 0
        if lines > rows:
            process.kill()
        time.sleep(0.02)
    assert process.returncode == -signal.SIGKILL


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow  # six processes that import torch
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, env=environment())
    for rows in (2, 4, 7):  # in each stage, before and after a state was written
        kill_after(killed, rows)
    subprocess.run(command(killed), check=True, env=environment())
    assert weights(killed) == weights(whole)
    assert log(killed) == log(whole)
