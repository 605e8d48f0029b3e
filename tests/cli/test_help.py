"""`--help`: every command has examples, and tasks share their flags."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from cli_fakes import Run
from typer.testing import CliRunner

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


APPS = {
    "samclip.cli.main": "app",
    "samclip.benchmarks.cli.main": "app",
    "samclip.export.cli": "app",
    "samclip.merge.cli": "app",
    "tools.peers.__main__": "app",
}


def commands_of(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield a command and all below it, as the words that name them."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from commands_of(below, (*path, name))


@pytest.mark.parametrize("module", APPS)
def test_every_command_takes_both_help_flags(module: str) -> None:
    app = getattr(importlib.import_module(module), APPS[module])
    found = list(commands_of(typer.main.get_command(app)))
    texts = []
    for path in found:
        short, long = (CliRunner().invoke(app, [*path, flag]) for flag in ("-h", "--help"))
        assert (short.exit_code, long.exit_code) == (0, 0), path
        assert short.stdout == long.stdout
        texts.append(long.stdout)
    assert len(set(texts)) == len(texts)
