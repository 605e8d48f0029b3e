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
from samclip.cli import options
from samclip.cli.word_hints import BENCH_WORDS, WORDS

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


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("samclip.cli.main", ["export", "my.pt"], "bundles are exported by `samclip-export`"),
        ("samclip.cli.main", ["Train"], "models are trained by `samclip-merge`"),
        ("samclip.cli.main", ["predict", "a.jpg"], "`samclip segment` cuts out"),
        ("samclip.cli.main", ["latency"], "this is `samclip-bench latency`"),
        ("samclip.cli.main", ["segmnt"], "Did you mean 'segment'"),
        ("samclip.benchmarks.cli.main", ["segment"], "this is `samclip segment`"),
        ("samclip.benchmarks.cli.main", ["val"], "`samclip-bench accuracy` measures"),
    ],
)
def test_words_of_other_tools_are_answered(module: str, words: list[str], said: str) -> None:
    result = CliRunner().invoke(importlib.import_module(module).app, words)
    assert result.exit_code == 2
    text = re.sub(r"[\s\u2500-\u257f]+", " ", result.stderr)
    assert f"No such command {words[0]!r}" in text
    assert said in text


def test_hints_name_commands_that_exist_and_no_hint_hides_one() -> None:
    for module, words in (
        ("samclip.cli.main", WORDS),
        ("samclip.benchmarks.cli.main", BENCH_WORDS),
    ):
        own = {path[0] for path in commands_of(command_of(module)) if path}
        assert not own & set(words)
        assert set(words) == {word.lower() for word in words}
    known = {
        program: {" ".join(path) for path in commands_of(command_of(module))}
        for program, module in (
            ("samclip", "samclip.cli.main"),
            ("samclip-bench", "samclip.benchmarks.cli.main"),
        )
    }
    for hint in {*WORDS.values(), *BENCH_WORDS.values()}:
        for program, rest in re.findall(r"`(samclip(?:-bench)?) ([a-z ]+)`", hint):
            assert rest in known[program]


def test_a_device_of_a_build_is_a_gpu(run: Run) -> None:
    assert options.parse_gpu("cuda:1") == options.parse_gpu(1) == 1
    assert options.parse_gpu("cuda") == options.parse_gpu("0") == 0
    result = run("engine", "build", "--device", "cpu")
    assert result.exit_code == 2
    assert "'cpu' is not a GPU" in result.stderr


def command_of(module: str) -> Any:
    return typer.main.get_command(importlib.import_module(module).app)


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
