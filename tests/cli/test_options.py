"""Points and boxes as text, and options that commands share."""

from __future__ import annotations

import pytest
import typer
from typer.main import get_command

from samclip.cli.main import app
from samclip.cli.options import parse_box, parse_point


def test_numbers_may_be_whole_or_not_and_have_spaces() -> None:
    assert parse_point("420,310") == (420.0, 310.0)
    assert parse_point(" 4.5, -1e1 ") == (4.5, -10.0)
    assert parse_box("10,20,200.5,240") == (10.0, 20.0, 200.5, 240.0)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "1;2", "1,,2", "(1,2)"])
def test_other_text_is_not_a_point(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not X,Y in pixels, as in 420,310"):
        parse_point(text)


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5", "10,20 200,240", "x1,y1,x2,y2"])
def test_other_text_is_not_a_box(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not X1,Y1,X2,Y2"):
        parse_box(text)


def test_every_command_that_runs_a_model_takes_the_precision_of_its_engine() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    taken = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in commands.items()
    }
    running = {name for name, options in taken.items() if {"--precision", "--threads"} <= options}
    assert running >= {"classify", "segment", "batch", "demo", "teach", "watch", "serve"}
    running.discard("deploy triton")  # writes files, and Triton runs the engines
    assert [name for name in running if "--engine-precision" not in taken[name]] == []
