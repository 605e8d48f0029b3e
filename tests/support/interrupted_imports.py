"""Console scripts in separate processes that get a real signal at a chosen import."""

from __future__ import annotations

import signal
import subprocess
import sys

ENDS = {
    signal.SIGINT: (130, "stopped by Ctrl-C\n"),
    signal.SIGTERM: (143, "stopped by SIGTERM\n"),
    signal.SIGHUP: (129, "stopped by SIGHUP, the terminal was closed\n"),
}
NAMES = ("run", "export", "merge", "bench")
# Counts the imports behind an entry point, and sends the process a signal at one of them. The
# handler of SIGINT is set, for Ctrl-C is ignored where the tests run in the background.
CODE = """
import os, signal, sys
from contextlib import contextmanager
from samclip import commands
from samclip.cli.stop_signals import exit_on_signal

def hear(event, arguments):
    global count
    if event == "import":
        count += 1
        if count == {moment}:
            os.kill(os.getpid(), {number})

@contextmanager
def counting():
    with exit_on_signal():
        yield
    print(count)

count, commands.exit_on_signal = 0, counting
signal.signal(signal.SIGINT, {handler})
sys.argv = ["samclip", "--help"]
sys.addaudithook(hear)
commands.{name}()
"""


def run_interrupted(
    name: str, number: int, moment: int, handler: str = "signal.default_int_handler"
) -> subprocess.CompletedProcess[str]:
    """Let the entry point `name` show its help, with a signal at its import `moment`, from 1.

    The number of imports is printed first.
    """
    code = CODE.format(name=name, number=int(number), moment=moment, handler=handler)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def count_imports(name: str) -> int:
    return int(run_interrupted(name, 0, 0).stdout.split()[0])


def check_interrupted(name: str, number: signal.Signals, moment: int) -> None:
    """Check for one line, the exit code, and nothing else."""
    done = run_interrupted(name, number, moment)
    assert (done.returncode, done.stderr) == ENDS[number], f"import {moment} of {name}"
    assert done.stdout == ""
