"""Commands in separate processes that are stopped or killed, and checks of what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
LINES = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}
PATIENCE = 600  # seconds in which a command ends after the signal, on a busy machine
WHOLE_EXPORT = 3600  # seconds of a whole export, likewise
# What console scripts do first. Before their first import Python would show a traceback for the
# signal; and Ctrl-C is ignored where the tests were started in the background.
CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from {module} import {name} as command
sys.argv = {arguments}
signal.signal(signal.SIGINT, signal.default_int_handler)
command()
"""


class Command:
    """A command in a separate session, so that all the processes it starts can be found."""

    def __init__(self, words: Sequence[object], cache: Path) -> None:
        environment = {**os.environ, "SAMCLIP_CACHE_DIR": str(cache)}
        # A pipe could fill up while nobody reads it.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - `stop` closes it
        entry, *arguments = map(str, words)
        module, _, name = entry.partition(":")
        code = CODE.format(module=module, name=name, arguments=[entry, *arguments])
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            env=environment,
            start_new_session=True,
        )

    def stop(self, number: int, seconds: float) -> tuple[int, str]:
        """Send a signal after so many seconds; returns exit code and stderr."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.errors.seek(0)
        with self.errors:
            return code, self.errors.read().decode(errors="replace")

    def is_running(self) -> bool:
        return self.process.poll() is None

    def survivors(self) -> list[str]:
        """List the processes that the command started and that still exist, zombies too."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                text = (entry / "stat").read_text()
            except (OSError, ValueError):
                continue
            name, _, rest = text.rpartition(")")
            if entry.name.isdigit() and int(rest.split()[3]) == self.process.pid:
                found.append(name)
        return found


def check_stopped(number: int, code: int, errors: str, folder: Path) -> str:
    """Check for one line, its exit code and whole files; returns how the command ended."""
    check_whole(errors, folder)
    if code == 0:
        return "had ended already"
    if code == -number:
        return "had not begun"
    assert code == CODES[number], errors
    assert errors.splitlines()[-1] == LINES[number]
    return "stopped"


def check_whole(errors: str, folder: Path) -> None:
    """Check for no traceback, no partial file, and no picture that cannot be read."""
    assert "Traceback" not in errors, errors
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    for picture in folder.rglob("*.png"):
        with Image.open(picture) as image:
            image.load()
