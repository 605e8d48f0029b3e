"""`--help`: every command has examples, and tasks share their flags."""

from __future__ import annotations

import re

import pytest
from cli_fakes import Run

from samclip import __version__

TASKS = ("classify", "segment", "semantic", "everything")
SHARED = ("--bundle", "--backend", "--precision", "--threads", "--names", "--labels")
SHARED += ("--templates", "--output", "--json", "--debug")


def help_of(run: Run, *command: str) -> str:
    result = run(*command, "--help")
    assert result.exit_code == 0
    return re.sub(r"\s+", " ", result.stdout)


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"samclip {__version__}\n"


def test_overview_lists_the_commands(run: Run) -> None:
    text = help_of(run)
    assert all(command in text for command in (*TASKS, "info", "doctor"))
    assert "Exit code" in text


@pytest.mark.parametrize("command", [*TASKS, "info", "doctor"])
def test_every_command_shows_examples(command: str, run: Run) -> None:
    text = help_of(run, command)
    assert "Examples:" in text
    assert f"samclip {command}" in text.partition("Examples:")[2]


@pytest.mark.parametrize("task", TASKS)
def test_tasks_share_their_flags(task: str, run: Run) -> None:
    text = help_of(run, task)
    assert [flag for flag in SHARED if flag not in text] == []


def test_short_help_flag(run: Run) -> None:
    assert run("segment", "-h").exit_code == 0
