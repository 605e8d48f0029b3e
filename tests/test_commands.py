"""Console scripts stopped while they import their modules: one line and the exit code."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from interrupted_imports import ENDS, NAMES, check_interrupted, run_interrupted

from samclip import commands


def test_every_console_script_begins_here() -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8")
    scripts = project.partition("[project.scripts]")[2].partition("\n[")[0]
    targets = re.findall(r'^samclip\S* = "(.+)"$', scripts, re.MULTILINE)
    assert sorted(targets) == sorted(f"samclip.commands:{name}" for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_at_the_first_import(name: str) -> None:
    check_interrupted(name, signal.SIGINT, 1)


@pytest.mark.parametrize("number", ENDS)
def test_signals_during_imports(number: signal.Signals) -> None:
    check_interrupted("run", number, 60)


def test_a_signal_that_is_ignored_stays_so() -> None:
    done = run_interrupted("run", signal.SIGINT, 60, "signal.SIG_IGN")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout


def test_handlers_are_put_back_after_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in ENDS}
    heard: list[object] = []
    monkeypatch.setattr(
        "samclip.cli.main.app",
        lambda: heard.extend(signal.getsignal(number) for number in ENDS),
    )
    commands.run()
    assert heard == list(before.values())
