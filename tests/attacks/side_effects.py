"""Side effects of a block of code on the machine, as Python's audit events report them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events that change something outside the process, or contact it.
ACTIONS = frozenset(
    {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
     "os.chmod", "os.chown", "os.utime", "os.system", "os.exec", "os.posix_spawn", "os.fork",
     "subprocess.Popen", "socket.connect", "socket.bind", "sqlite3.connect",
     "tempfile.mkstemp", "tempfile.mkdtemp"}
)  # fmt: skip


@dataclass
class SideEffects:
    """What was done while it was active: (event, its arguments)."""

    done: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    is_active: bool = False

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_active:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if (writes and arguments[0] != os.devnull) or event in ACTIONS:
            self.done.append((event, arguments))


_effects: list[SideEffects] = []  # one at most: an audit hook can never be removed


@contextmanager
def record_side_effects() -> Iterator[SideEffects]:
    """Record what the block writes, starts, and connects to."""
    if not _effects:
        _effects.append(SideEffects())
        sys.addaudithook(_effects[0].hear)
    effects = _effects[0]
    effects.done = []
    effects.is_active = True
    try:
        yield effects
    finally:
        effects.is_active = False
