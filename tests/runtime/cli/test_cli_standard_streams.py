"""A command whose caller closed its standard streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="streams are closed by a POSIX shell")

CLOSED = "stdout is closed, so no answer can be given"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `line`, in which "$@" is the Python that runs the tests."""
    command = ["sh", "-c", line, "sh", sys.executable]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=120, check=False
    )


def test_a_closed_stdout_is_an_error(tmp_path: Path) -> None:
    done = shell('"$@" -m samclip.runtime.cli.main --help >&-', tmp_path)
    assert done.returncode == 1
    assert CLOSED in done.stderr
    assert "/dev/null" in done.stderr


def test_the_null_device_is_no_closed_stream(tmp_path: Path) -> None:
    done = shell('"$@" -m samclip.runtime.cli.main --version >/dev/null', tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = shell('"$@" -m samclip.runtime.cli.main info --json >/dev/full', tmp_path)
    assert done.returncode == 1
    assert "No space left" in done.stderr


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Else what a library prints on stderr would end up in it."""
    code = (
        "import os; from samclip.runtime.cli.standard_streams import fill_closed_streams as fill; "
        "fill(); fill(); file = open('picture', 'wb'); os.write(2, b'noise'); "
        "file.write(b'picture'); file.close()"
    )
    done = shell(f'"$@" -c "{code}" <&- 2>&-', tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "picture").read_bytes() == b"picture"
