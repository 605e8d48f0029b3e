"""Environments are made once, verified, and made again when they are not whole."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from samclip.errors import PeerError
from tools.peers import environments
from tools.peers.environments import (
    STAMP,
    Environment,
    clean_environment,
    prepare_environment,
)

MADE = Environment("made", ("first==1", "second"), bare=("third",))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Lists what would be run; a `venv` becomes a link to this Python."""
    ran: list[list[str]] = []

    def run(command: Sequence[str], name: str, report: object) -> None:
        ran.append(list(command))
        if "venv" in command:
            binaries = Path(command[-1]) / "bin"
            binaries.mkdir(parents=True)
            (binaries / "python").symlink_to(sys.executable)

    monkeypatch.setattr(environments, "_run", run)
    monkeypatch.setattr(environments, "_packages", lambda python: {"first": "1"})
    return ran


def test_packages_are_installed_by_venv_and_pip(commands: list[list[str]], tmp_path: Path) -> None:
    python = prepare_environment(MADE, tmp_path, print)
    venv, wanted, bare = commands
    assert venv[:3] == [sys.executable, "-m", "venv"]
    assert python.is_relative_to(venv[3])
    assert wanted[0] == bare[0] == str(python)
    assert wanted[-2:] == ["first==1", "second"]
    assert bare[-2:] == ["--no-deps", "third"]


def test_a_complete_one_is_used_again(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    python = prepare_environment(MADE, tmp_path, told.append)
    commands.clear()
    assert prepare_environment(MADE, tmp_path, told.append) == python
    assert not commands
    monkeypatch.setattr(environments, "_packages", lambda python: {"first": "2"})
    prepare_environment(MADE, tmp_path, told.append)
    assert len(commands) == 3
    assert "not whole" in told[-2]
    (python.parents[1] / STAMP).unlink()  # as of an installation that was cut off
    prepare_environment(MADE, tmp_path, told.append)
    assert len(commands) == 6


def test_other_packages_are_another_environment(tmp_path: Path) -> None:
    assert MADE.key != Environment("made", ("first==1", "second")).key


def test_a_step_that_fails_gives_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "fail.py"
    failing.write_text("import sys; print('Collecting x'); sys.exit('no such package')\n")
    told: list[str] = []
    with pytest.raises(PeerError, match="Collecting x / no such package"):
        environments._run([sys.executable, str(failing)], "made", told.append)
    assert told == ["made: Collecting x"]


def test_this_process_does_not_leak_into_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = clean_environment(3)
    assert "PYTHONPATH" not in found
    assert found["OMP_NUM_THREADS"] == "3"
