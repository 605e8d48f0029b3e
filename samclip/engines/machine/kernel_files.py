"""Readers of the files in which a machine describes itself, below "/" or a tree of a test.

Nothing here raises for a file that is absent, unreadable or odd: it then counts as empty.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 32 * 2**20  # dpkg's list of packages has a few MB; files of /proc and /sys have no size


@dataclass(frozen=True)
class MachineFiles:
    """Reads files by their absolute path, as in "/proc/meminfo", below `root`."""

    root: Path = Path("/")

    def text(self, name: str) -> str:
        """Read a file, without the spaces and NULs at its ends; "" when that is not possible."""
        try:
            with self._place(name).open("rb") as file:
                content = file.read(MAX_BYTES)
        except (OSError, ValueError):  # absent, a folder, not readable by us, a device asleep
            return ""
        return content.decode(errors="replace").strip("\0 \t\r\n")

    def number(self, name: str) -> int | None:
        """Read a file that holds one whole number; None for anything else."""
        text = self.text(name)
        return int(text) if text.isascii() and text.isdigit() else None

    def fields(self, name: str, separator: str = ":") -> dict[str, str]:
        """Read `heading separator value` lines; the first of each heading counts."""
        found: dict[str, str] = {}
        for line in self.text(name).splitlines():
            heading, here, value = line.partition(separator)
            if here:
                found.setdefault(heading.strip(), value.strip().strip('"'))
        return found

    def exists(self, name: str) -> bool:
        """Whether there is a file, folder or link of this name, a dangling link included."""
        return os.path.lexists(self._place(name))

    def usable(self, name: str) -> bool:
        """Whether this user may read and write the file."""
        return os.access(self._place(name), os.R_OK | os.W_OK)

    def folders(self, name: str) -> tuple[str, ...]:
        """Return the absolute names of a folder's entries, sorted; empty for anything else."""
        try:
            names = sorted(os.listdir(self._place(name)))  # noqa: PTH208 - names are wanted
        except OSError:
            return ()
        return tuple(f"{name.rstrip('/')}/{entry}" for entry in names)

    def link(self, name: str) -> str:
        """Return the target of a symbolic link, "" for anything else."""
        try:
            return os.readlink(self._place(name))  # noqa: PTH115 - a text, which need not be a path
        except OSError:
            return ""

    def _place(self, name: str) -> Path:
        return self.root / name.lstrip("/")


def bytes_of_kib(text: str) -> int:
    """Read "7802096 kB", which the kernel means as KiB; 0 of anything else."""
    number = text.partition(" ")[0]
    return int(number) * 1024 if number.isascii() and number.isdigit() else 0
