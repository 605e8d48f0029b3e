"""Commands in separate processes that are stopped or killed, and checks of what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from waiting import PATIENCE, wait_until

MARK = "SAMCLIP_TEST_MARK"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
LINES = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}
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
    """A command in a separate session, and with a mark, so that all its processes can be found.

    `words`: the entry as "module:name", and its arguments. What it prints goes to files in `cache`,
    since a pipe could fill up while nobody reads it.
    """

    def __init__(self, words: Sequence[object], cache: Path) -> None:
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        cache.mkdir(parents=True, exist_ok=True)
        self._printed = cache / f"{self._mark}.out"
        self._errors = cache / f"{self._mark}.err"
        environment = {**os.environ, "SAMCLIP_CACHE_DIR": str(cache)}
        environment |= dict([self._mark.split("=")])
        entry, *arguments = map(str, words)
        module, _, name = entry.partition(":")
        code = CODE.format(module=module, name=name, arguments=[entry, *arguments])
        with self._printed.open("wb") as printed, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdout=printed,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )

    def stop(self, number: int, seconds: float) -> tuple[int, str]:
        """Send a signal after so many seconds; returns exit code and stderr."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE), self._errors.read_text("utf-8", "replace")

    def finish(self) -> str:
        """Wait for its end, which must be a success; returns stdout."""
        code, errors = self.stop(signal.SIGKILL, PATIENCE)
        assert code == 0, errors
        return self._printed.read_text("utf-8", "replace")

    def kill(self) -> None:
        """Kill the command's first process, and wait until none of the others is left."""
        self.process.kill()
        self.process.wait(PATIENCE)
        wait_until(lambda: not list(self.processes()))

    def processes(self) -> Iterator[tuple[int, str]]:
        """The numbers and titles of the processes of the command, those in other sessions too."""
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                try:
                    if self._mark.encode() in (place / "environ").read_bytes():
                        title = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        yield int(place.name), title
                except OSError:
                    continue

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
