"""Worker processes: requests go to their stdin, answers come from their stdout, a line each."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from samclip.errors import PeerError
from tools.peers.environments import clean_environment

LOOP = Path(__file__).parent / "workers" / "loop.py"
TIMEOUT = 900.0  # seconds: torch.compile at 1024 px on a slow and busy CPU
LONGEST_LINE = 300


class Answer(msgspec.Struct, frozen=True):
    """Base of all answers; `error` where not `ok`."""

    ok: bool
    error: str = ""


class Loaded(Answer, frozen=True, kw_only=True):
    """Answer to "load": seconds, facts that the peer reports, and packages installed."""

    seconds: float
    python: str
    facts: dict[str, str]
    packages: dict[str, str]


class Ran(Answer, frozen=True, kw_only=True):
    """Answer to "run": seconds by stage, in their order."""

    stages: dict[str, float]


class PeakMemory(Answer, frozen=True, kw_only=True):
    """Answer to "memory": the highest resident set so far in bytes, None where unknown."""

    peak: int | None


A = TypeVar("A", bound=Answer)


class WorkerProcess:
    """A process that runs the loop with one peer's file; use as a context manager.

    `python`: the command of the environment's Python, with its options. What libraries print is
    kept in a file, the end of which becomes part of a failure's reason.
    """

    def __init__(self, python: Sequence[str], file: Path, threads: int) -> None:
        self._log: IO[str] = tempfile.TemporaryFile(  # noqa: SIM115 - `close` closes it
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            [*python, str(LOOP), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=clean_environment(threads),
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(self, request: dict[str, Any], kind: type[A], timeout: float = TIMEOUT) -> A:
        """Send a request and wait for its answer; raises PeerError when there is none."""
        try:
            assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=timeout)
        except (OSError, ValueError) as error:
            raise PeerError(self._ending()) from error
        except queue.Empty as error:
            self._process.kill()
            raise PeerError(f"no answer to {request['do']!r} within {timeout:.0f} s") from error
        if not line:
            raise PeerError(self._ending())
        return _decode(line, kind)

    def close(self) -> None:
        """End the process, gently where it listens."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except OSError:  # it has ended with a request unread
                self._process.kill()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _listen(self) -> None:
        """Collect lines; an empty one is the end."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            for line in self._process.stdout:
                self._lines.put(line)
        except ValueError:  # closed meanwhile
            pass
        self._lines.put("")

    def _ending(self) -> str:
        """Return how the process ended, and its last line."""
        code = self._process.wait(10)
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        last = f": {lines[-1][:LONGEST_LINE]}" if lines else ""
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", as when memory runs out" if code == -signal.SIGKILL else ""
            return f"its process was ended by {name}{hint}{last}"
        return f"its process ended with code {code}{last}"


def _decode(line: str, kind: type[A]) -> A:
    try:
        plain = msgspec.json.decode(line, type=Answer)
        if not plain.ok:
            raise PeerError(plain.error[:LONGEST_LINE])
        return msgspec.json.decode(line, type=kind)
    except msgspec.MsgspecError as error:
        raise PeerError(f"its answer is not understood: {error}: {line[:80]!r}") from error
