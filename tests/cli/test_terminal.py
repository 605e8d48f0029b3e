"""Output of commands: what a terminal acts on is escaped, and JSON is portable."""

from __future__ import annotations

import io
import json

import pytest

from samclip.cli import terminal as consoles
from samclip.cli.tables import make_table
from samclip.cli.terminal import (
    SafeConsole,
    Ticker,
    in_one_line,
    out,
    say,
    visible,
    warn_untrained_head,
    write_json,
    write_line,
)

# Text that acts on a terminal -> the text shown for it.
HARMFUL = {
    "\x1b[2J": r"\x1b[2J",  # clears the screen
    "\x1b]0;title\x07": r"\x1b]0;title\x07",  # names the window
    "\x9b31m": r"\x9b31m",  # red, by the one-byte form of the escape
    "a\rb": r"a\x0db",  # writes over the line
    "a\x08b": r"a\x08b",
    "a\x00b": r"a\x00b",
    "a\x7fb": r"a\x7fb",
    "a\u202egpj.exe": r"a\u202egpj.exe",  # shown backwards
    "a\u2028b": r"a\u2028b",
    "a\udcffb": r"a\xffb",  # a byte of a file's name that is not UTF-8
    "c\ud800d": r"c\ud800d",
}
HARMLESS = ("café", "日本", "👩‍🚒", "a\tb", "a\nb", "[red]", "e\u0301", "عربي", "C:\\x1b")


def test_text_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_ticker_is_silent_where_stderr_is_not_a_terminal(
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


@pytest.mark.parametrize(("text", "shown"), HARMFUL.items(), ids=HARMFUL.values())
def test_what_a_terminal_would_act_on_is_escaped(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say(out, text)
    table = make_table("name", left=("name",))
    table.add_row(text)
    out.print(table)
    printed = capsys.readouterr().out
    assert printed.startswith(shown + "\n")
    assert printed.count(shown) == 2
    assert text not in printed
    assert in_one_line(text + "\n") == shown + "\\n"


@pytest.mark.parametrize("text", HARMLESS)
def test_other_text_is_unchanged(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(out, text)
    assert visible(text) == text
    assert capsys.readouterr().out == text.expandtabs(8) + "\n"


def test_the_bar_on_a_terminal_is_safe_from_names(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = SafeConsole(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    monkeypatch.setattr(consoles, "err", terminal)
    for total in (1, 2):
        with Ticker(total) as ticker, ticker.working("segment [red]\x1b]0;x\x07[/nothing]"):
            pass
    written = terminal.file.getvalue()
    assert r"[red]\x1b]0;x\x07[/nothing]" in written
    assert "\x1b]0" not in written


def test_json_has_no_lone_surrogates(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"image": "a\udcff.jpg", "a\udc80": ["\ud800", "\x1b", "🙂"]})
    line = capsys.readouterr().out
    read = json.loads(line.encode())
    assert read == {"image": r"a\xff.jpg", r"a\x80": [r"\ud800", "\x1b", "🙂"]}
    assert "\x1b" not in line
    json.dumps(read, ensure_ascii=False).encode()  # a strict encoder refuses lone surrogates
