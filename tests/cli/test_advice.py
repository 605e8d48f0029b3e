"""The commands that are made of the steps that errors name."""

from __future__ import annotations

import logging
import shlex

import pytest
from typer.main import get_command

from samclip.cli.advice import commands_to_type, options_to_change, remedy_to_type, with_commands
from samclip.cli.exits import describe
from samclip.cli.main import app
from samclip.cli.terminal import show_logs
from samclip.engines.steps import (
    BuildPlans,
    ChangeSettings,
    ExportBundle,
    RemovePlan,
    SignBundle,
)
from samclip.errors import PlanMissingError, Step

REBUILD = BuildPlans(
    origin="/bundles/some bundle",
    backend="tensorrt-rtx",
    graphs=("encoder",),
    precision="fp16",
    targets=("8.6", "12.0"),
    axes=(("prompts", "1,2,4"),),
    workspace=2**30,
    level=4,
    strip_weights=True,
    force=True,
)


@pytest.mark.parametrize(
    ("step", "command"),
    [
        (BuildPlans(), "samclip engine build BUNDLE"),
        (BuildPlans(graphs=("encoder",)), "samclip engine build BUNDLE --graph encoder"),
        (
            BuildPlans(origin="a", precision="fp32"),
            "samclip engine build a --backend tensorrt --precision fp32",
        ),
        (
            BuildPlans(backend="tensorrt-rtx", targets=("8.6",)),
            "samclip engine build BUNDLE --backend tensorrt-rtx --target sm86",
        ),
        (
            REBUILD,
            "samclip engine build '/bundles/some bundle' --backend tensorrt-rtx --graph encoder "
            "--precision fp16 --target sm86 --target sm120 --prompts 1,2,4 --workspace 1024 "
            "--level 4 --strip-weights --force",
        ),
        (RemovePlan(), "samclip engine remove NAME"),
        (RemovePlan("encoder.fp16"), "samclip engine remove encoder.fp16"),
        (ExportBundle(), "samclip-export"),
        (
            ExportBundle((("checkpoint", None), ("output", "a place"))),
            "samclip-export --checkpoint CHECKPOINT --output 'a place'",
        ),
        (
            ExportBundle((("weights_dtype", "fp16"),)),
            "samclip-export --weights-dtype fp16",
        ),
        (SignBundle("my bundle"), "samclip sign 'my bundle' --key KEY"),
    ],
)
def test_a_step_is_a_command_for_a_shell(step: Step, command: str) -> None:
    assert commands_to_type([step]) == [command]


def test_settings_are_named_as_options() -> None:
    steps = [ChangeSettings(("workspace", "preflight", "targets")), ChangeSettings(("workspace",))]
    assert options_to_change(steps) == ["--workspace", "--no-preflight", "--target"]
    assert commands_to_type(steps) == []


def test_the_command_that_builds_has_every_option_that_is_written() -> None:
    build = get_command(app).commands["engine"].commands["build"]  # type: ignore[attr-defined]
    known = {option for parameter in build.params for option in parameter.opts}
    (command,) = commands_to_type([REBUILD])
    written = {word for word in shlex.split(command) if word.startswith("--")}
    assert written <= known
    assert {"--workspace", "--target", "--backend"} <= known


def test_a_message_ends_with_what_to_type() -> None:
    error = PlanMissingError("There is no plan. Build it.", steps=(BuildPlans(origin="a"),))
    command = "samclip engine build a --backend tensorrt"
    assert describe(error) == f"There is no plan. Build it. Command: {command}"
    steps = (ChangeSettings(("overwrite",)), RemovePlan("x"), RemovePlan("y"), RemovePlan("x"))
    assert with_commands("It is there.", steps) == (
        "It is there. Options: --overwrite. "
        "Command: samclip engine remove x; samclip engine remove y"
    )
    assert with_commands("It is there.", ()) == "It is there."
    assert with_commands("it is there", ()) == "it is there"
    assert with_commands("it is there", [RemovePlan("x")]) == (
        "it is there. Command: samclip engine remove x"
    )


def test_a_remedy_is_the_command_where_there_is_one() -> None:
    assert remedy_to_type("build it", [RemovePlan("x")]) == "samclip engine remove x"
    assert remedy_to_type("install it", []) == "install it"


def test_warnings_end_with_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with show_logs():
        logging.getLogger("samclip").warning("It stays.", extra={"steps": (RemovePlan("x"),)})
    assert "warning: It stays. Command: samclip engine remove x" in capsys.readouterr().err
