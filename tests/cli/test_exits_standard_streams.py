"""Commands whose standard streams are closed, or lead to a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="streams are closed by a POSIX shell")

CLOSED = "stdout is closed, so no answer can be given"


def start(module: str) -> str:
    """Code that runs the command of `module`."""
    function = "main" if module in {"export.cli", "merge.cli"} else "app"
    return f"from samclip.{module} import {function}; {function}()"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `line`, in which "$@" is the Python that runs the tests."""
    command = ["sh", "-c", line, "sh", sys.executable]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=120, check=False
    )


@pytest.mark.parametrize("module", ["cli.main", "benchmarks.cli.main", "export.cli", "merge.cli"])
def test_a_closed_stdout_is_an_error(module: str, tmp_path: Path) -> None:
    done = shell(f'"$@" -c "{start(module)}" --help >&-', tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {CLOSED}")
    assert "/dev/null" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_null_device_is_not_a_closed_stream(tmp_path: Path) -> None:
    done = shell('"$@" -m samclip.cli.main --version >/dev/null', tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("module", "arguments", "buffered"),
    [
        ("cli.main", "--version", True),
        ("cli.main", "--version", False),
        ("cli.main", "info --json", True),
        ("cli.main", "info --json", False),
        ("cli.main", "info", False),
        ("cli.main", "info --help", False),
        ("benchmarks.cli.main", "--help", False),
        ("export.cli", "--help", False),
        ("merge.cli", "--help", True),
    ],
)
def test_a_full_disk_is_an_error(
    module: str, arguments: str, buffered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "" if buffered else "1")
    done = shell(f'"$@" -c "{start(module)}" {arguments} >/dev/full', tmp_path)
    assert done.returncode == 1
    assert "stdout cannot be written to: No space left" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_does_not_change_the_exit_code_of_a_failure(tmp_path: Path) -> None:
    line = '"$@" -m samclip.cli.main segment missing.jpg --point 1,1 >/dev/full'
    done = shell(line, tmp_path)
    assert done.returncode == 2
    assert "missing.jpg" in done.stderr
    assert "No space left" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_debug_shows_the_traceback_of_a_full_disk(tmp_path: Path) -> None:
    done = shell('"$@" -m samclip.cli.main info --json --debug >/dev/full', tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_closes_its_pipe_gets_no_message(tmp_path: Path) -> None:
    done = shell('("$@" -m samclip.cli.main --help; echo $? >&2) | true', tmp_path)
    assert done.stderr in {"1\n", "0\n"}  # 0 where all was written before the pipe closed


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Else what a library prints on stderr would end up in it."""
    code = (
        "import os; from samclip.cli.exits import fill_closed_streams as fill; "
        "fill(); fill(); file = open('picture', 'wb'); os.write(2, b'noise'); "
        "file.write(b'picture'); file.close()"
    )
    done = shell(f'"$@" -c "{code}" <&- 2>&-', tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "picture").read_bytes() == b"picture"
