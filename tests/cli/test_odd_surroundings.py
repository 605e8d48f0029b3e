"""Commands in a terminal of no columns, in a deleted folder, with names that forge lines."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_fakes import FakeModel, Run, write_image
from rich.table import Table

from samclip.cli.exits import report
from samclip.cli.terminal import LEAST_COLUMNS, SafeConsole, ignore_useless_sizes
from samclip.errors import ImageError, ParityError

COMMAND = [sys.executable, "-m", "samclip.cli.main"]


@pytest.mark.parametrize("columns", ["0", "1", "-5", "", "many"])
def test_an_answer_is_whole_in_a_terminal_of_no_columns(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    table = Table("probability", "name")
    table.add_row("63.0%", "a street")
    SafeConsole().print(table)
    printed = capsys.readouterr().out
    assert "63.0%" in printed
    assert "a street" in printed
    assert max(map(len, printed.splitlines())) <= 80
    ignore_useless_sizes()  # for the help, which typer prints
    assert "COLUMNS" not in os.environ
    assert "LINES" not in os.environ


def test_a_useful_width_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    ignore_useless_sizes()
    assert os.environ["COLUMNS"] == "132"
    assert SafeConsole().width == 132
    assert SafeConsole(width=7).width == LEAST_COLUMNS


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder in which a process is")
def test_a_deleted_working_folder_is_called_that(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    line = 'rmdir ../gone && exec "$@"'
    words = ["sh", "-c", line, "sh", *COMMAND, "segment", "photo.jpg", "--point", "1,1"]
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2
    assert "there is no image photo.jpg: the working folder was deleted" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_stderr_that_is_full_does_not_change_the_exit_code(tmp_path: Path) -> None:
    line = 'exec "$@" 2>/dev/full'
    words = ["sh", "-c", line, "sh", *COMMAND, "segment", "nowhere.jpg", "--point", "1,1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False, timeout=120)
    assert done.returncode == 2


def test_no_name_can_pass_for_another_line(capsys: pytest.CaptureFixture[str]) -> None:
    report(ImageError("there is no image a\nerror: b\x1b[2J."), about="c\nd")
    report(ParityError("outputs differ:\n  encoder a\nerror: b"))
    report(OSError(errno.ENOENT, "No such file", "a\nerror: b"))
    assert capsys.readouterr().err.splitlines() == [
        r"error: c\nd: there is no image a\nerror: b\x1b[2J.",
        "error: outputs differ:",
        "    encoder a",
        "  error: b",
        r"error: a\nerror: b: No such file",
    ]


def test_a_name_with_a_line_break_is_one_row(model: FakeModel, run: Run, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    result = run("classify", image, "--names", "a\n99.9%,b")
    assert r"a\n99.9%" in result.stdout
    assert not any(line.split()[:1] == ["99.9%"] for line in result.stdout.splitlines())
