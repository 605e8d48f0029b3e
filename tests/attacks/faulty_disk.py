"""The failing disk of disk_faults.c, compiled and armed from Python."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("disk_faults.c")


class Calls(enum.IntFlag):
    """System calls that can be made to fail, as disk_faults.c numbers them."""

    OPEN = 1
    WRITE = 2
    SYNC = 4
    RENAME = 8
    MKDIR = 16
    REMOVE = 32
    TRUNCATE = 64
    READ = 128
    CREATE = 256  # an open that creates a file
    ALTER = 512  # an open for writing


CHANGES = (
    Calls.OPEN | Calls.WRITE | Calls.SYNC | Calls.RENAME | Calls.MKDIR | Calls.REMOVE
) | Calls.TRUNCATE


@dataclass(frozen=True)
class Fault:
    """A fault of the N-th of `calls`: `action` is an errno, SHORT or KILL.

    `sticky`: whether later calls fail as well.
    """

    name: str
    calls: Calls
    action: int
    sticky: bool = False

    SHORT = -1
    KILL = -2


# A full disk takes no new data but lets files be removed; a read-only one lets nothing change.
TAKES = Calls.CREATE | Calls.WRITE | Calls.SYNC | Calls.RENAME | Calls.MKDIR | Calls.TRUNCATE
LOCKED = Calls.ALTER | Calls.RENAME | Calls.MKDIR | Calls.REMOVE | Calls.TRUNCATE
FAULTS = {
    fault.name: fault
    for fault in (
        Fault("ENOSPC once", TAKES, errno.ENOSPC),
        Fault("ENOSPC from then on", TAKES & ~Calls.RENAME, errno.ENOSPC, sticky=True),
        Fault("EIO once", CHANGES, errno.EIO),
        Fault("EIO from then on", CHANGES, errno.EIO, sticky=True),
        Fault("EIO of a read", Calls.READ, errno.EIO),
        Fault("EROFS from then on", LOCKED, errno.EROFS, sticky=True),
        Fault("short write once", Calls.WRITE, Fault.SHORT),
        Fault("short writes", Calls.WRITE, Fault.SHORT, sticky=True),
        Fault("SIGKILL", CHANGES, Fault.KILL),
    )
}


def library() -> Path:
    """Compile the library once for all processes of a test run; skips where there is no cc."""
    compiler = shutil.which("cc")
    if compiler is None or os.uname().sysname != "Linux":
        import pytest

        pytest.skip("the failing disk needs Linux and a C compiler")
    stamp = f"{SOURCE.stat().st_mtime_ns}-{os.getuid()}"
    target = Path(tempfile.gettempdir()) / f"samclip-disk-faults-{stamp}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            made = Path(scratch) / target.name
            command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE), "-ldl"]
            subprocess.run(command, check=True)
            made.replace(target)
    return target


def environment(
    folder: Path | None = None, fault: Fault | None = None, at: int = 0
) -> Mapping[str, str]:
    """Return the environment of a process with the failing disk, armed when a fault is given."""
    armed = {}
    if folder is not None and fault is not None:
        armed = {
            "FAULT_FOLDER": str(folder),
            "FAULT_CALLS": str(int(fault.calls)),
            "FAULT_AT": str(at),
            "FAULT_ACTION": str(fault.action),
            "FAULT_STICKY": str(int(fault.sticky)),
        }
    return {**os.environ, "LD_PRELOAD": str(library()), **armed}


def arm(folder: Path, fault: Fault, at: int) -> None:
    """Let the fault happen at the call number `at` below `folder`; 0 for never."""
    name = os.fsencode(folder)
    ctypes.CDLL(None).faults_arm(name, int(fault.calls), at, fault.action, int(fault.sticky))


def disarm() -> int:
    """Let no fault happen any more; returns the number of calls so far."""
    return int(ctypes.CDLL(None).faults_disarm())
