"""What goes to stdout, what to stderr."""

from __future__ import annotations

import pytest

from samclip.runtime.cli.consoles import (
    Ticker,
    out,
    say,
    warn_untrained_head,
    write_json,
    write_line,
)


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]not markup[/red] " + "x" * 300
    say(out, text)
    assert capsys.readouterr().out == text + "\n"


def test_lines_for_machines_are_neither_wrapped_nor_coloured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = '{"a": "[b]", "c": "' + "x " * 300 + '"}'
    write_line(line)
    assert capsys.readouterr().out == line + "\n"


def test_untrained_head_is_loud_and_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    warn_untrained_head()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "UNTRAINED" in captured.err
    assert "MEANINGLESS" in captured.err


@pytest.mark.parametrize("total", [1, 3])
def test_ticker_is_silent_where_stderr_is_no_terminal(
    total: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ticker(total) as ticker:
        for _ in range(total):
            with ticker.working("a.jpg"):
                pass
            with ticker.paused():
                say(out, "answer")
    captured = capsys.readouterr()
    assert captured.out == "answer\n" * total
    assert captured.err == ""


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = (float("nan"), [float("inf"), 0.5], True, "NaN", 3)
    write_json({"a": {"b": numbers}})
    assert capsys.readouterr().out == '{"a": {"b": [null, [null, 0.5], true, "NaN", 3]}}\n'
