"""What a piece of code does to the machine around it, as Python's own audit events tell it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events by which something outside the process changes, or is asked.
ACTIONS = frozenset(
    {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
     "os.chmod", "os.chown", "os.utime", "os.system", "os.exec", "os.posix_spawn", "os.fork",
     "subprocess.Popen", "socket.connect", "socket.bind", "sqlite3.connect",
     "tempfile.mkstemp", "tempfile.mkdtemp"}
)  # fmt: skip


@dataclass
class Watch:
    """What was done while it was active: (event, its arguments)."""

    done: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    is_active: bool = False

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_active:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if (writes and arguments[0] != os.devnull) or event in ACTIONS:
            self.done.append((event, arguments))


_watches: list[Watch] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for watch in _watches:
        watch.hear(event, arguments)


@contextmanager
def watched() -> Iterator[Watch]:
    """Note what the block writes, starts, and connects to; a hook can never be taken off again."""
    if not _watches:
        sys.addaudithook(_hear)
        _watches.append(Watch())
    watch = _watches[0]
    watch.done, watch.is_active = [], True
    try:
        yield watch
    finally:
        watch.is_active = False
