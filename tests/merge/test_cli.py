import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from tree import CONFIGS
from typer.testing import CliRunner, Result

from samclip.merge import cli, merge_session
from samclip.merge.cli import app
from samclip.merge.training.trainer import StoppedError

CONFIG = """
name = "small"
[student]
checkpoint = "mobile_sam"
[teachers.masks]
checkpoint = "mobile_sam"
[data.masks]
folders = ["photos"]
[[stages]]
name = "masks"
steps = 10
learning_rate = 1e-3
train = { mask_decoder = 1.0 }
losses = { sam = 1.0 }
masks = { batch = 2, size = 64 }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(CONFIG, "utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class Recorder:
    """Stands in for a session, and records its arguments and calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.stops = 0  # the signal that stops it

    def __call__(self, config: Any, options: Any, console: object) -> "Recorder":
        self.config, self.options = config, options
        return self

    def train(self) -> None:
        self.calls.append(("train",))
        if self.stops:
            raise StoppedError("stopped after step 3 of stage 'masks'", self.stops)

    def evaluate(self, checkpoint: Path) -> None:
        self.calls.append(("evaluate", checkpoint))

    def precompute(self) -> None:
        self.calls.append(("precompute",))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(merge_session, "MergeSession", recorder)
    return recorder


def test_help_lists_every_option() -> None:
    result = run("--help")
    assert result.exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    for option in (
        *("--config", "--output", "--resume", "--restart", "--precompute"),
        *("--steps-scale", "--evaluate-only", "--processes", "--debug", "--photos"),
    ):
        assert option in text
    assert "instead of those of [data]" in " ".join(re.sub(r"[│\n]", " ", text).split())
    for name in re.findall(r"configs/\w+\.toml", text):
        assert (CONFIGS.parent / name).is_file()


def test_a_run_is_trained_in_its_folder(file: Path, recorder: Recorder) -> None:
    result = run("--config", file)
    assert result.exit_code == 0, result.output
    assert recorder.calls == [("train",)]
    assert recorder.options.output == Path("runs/small")
    assert recorder.options.file == file
    assert (recorder.options.resume, recorder.options.restart) == (False, False)
    assert recorder.config.stages[0].steps == 10


def test_options_arrive(file: Path, recorder: Recorder, tmp_path: Path) -> None:
    assert run("--config", file, "-o", tmp_path / "x", "--resume").exit_code == 0
    assert (recorder.options.output, recorder.options.resume) == (tmp_path / "x", True)
    assert recorder.options.photos is None
    assert run("--config", file, "--photos", tmp_path).exit_code == 0
    assert recorder.options.photos == tmp_path
    assert recorder.config.data.masks.folders == (str(tmp_path),)
    assert run("--config", file, "--restart", "--steps-scale", "0.5").exit_code == 0
    assert recorder.options.restart
    assert recorder.config.stages[0].steps == 5
    recorder.calls.clear()
    assert run("--config", file, "--precompute").exit_code == 0
    assert run("--config", file, "--evaluate-only", "a.safetensors").exit_code == 0
    assert recorder.calls == [("precompute",), ("evaluate", Path("a.safetensors"))]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_prints_how_to_continue(
    number: int, code: int, file: Path, recorder: Recorder
) -> None:
    recorder.stops = number
    result = run("--config", file)
    assert result.exit_code == code
    assert "stopped after step 3" in result.stderr
    assert "the same command continues the run in runs/small" in result.stderr


def test_several_processes_run_the_same_command(
    file: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[tuple[list[str], int]] = []

    def launch(command: list[str], processes: int) -> int:
        launched.append((command, processes))
        return 130

    monkeypatch.setattr(cli, "launch", launch)
    arguments = ["--config", str(file), "--processes", "2"]
    monkeypatch.setattr(sys, "argv", ["samclip-merge", *arguments])
    assert run(*arguments).exit_code == 130  # theirs is passed on
    assert launched == [([*cli.SELF, *arguments], 2)]
    assert recorder.calls == []
    assert run(*arguments, "--evaluate-only", "a.safetensors").exit_code == 0  # one is enough
    assert (len(launched), recorder.calls.pop()) == (1, ("evaluate", Path("a.safetensors")))
    monkeypatch.setenv("LOCAL_RANK", "1")  # as one of them
    assert run(*arguments).exit_code == 0
    assert (len(launched), recorder.calls) == (1, [("train",)])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--resume", "--restart"), 1, "contradict"),
        (("--steps-scale", "0"), 2, "--steps-scale"),
        (("--processes", "0"), 2, "--processes"),
        (("--unknown",), 2, "No such option"),
    ],
)
def test_options_that_cannot_be(
    arguments: tuple[str, ...], code: int, message: str, file: Path, recorder: Recorder
) -> None:
    result = run("--config", file, *arguments)
    assert result.exit_code == code
    assert message in re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    assert recorder.calls == []


def test_mistakes_in_the_file_are_the_callers(
    file: Path, recorder: Recorder, tmp_path: Path
) -> None:
    assert run("--config", tmp_path / "gone.toml").exit_code == 2
    file.write_text(CONFIG.replace("learning_rate", "learning_rat"), "utf-8")
    result = run("--config", file)
    assert result.exit_code == 2
    assert "did you mean 'learning_rate'" in result.stderr
    assert "Traceback" not in result.output


def test_missing_packages_are_reported(
    file: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "PACKAGES", ("torch", "no_such_package"))
    result = run("--config", file)
    assert result.exit_code == 1
    assert "needs no_such_package" in result.stderr
    assert "pip install 'samclip[merge]'" in result.stderr
