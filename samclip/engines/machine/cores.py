"""How many cores this process may use: what a backend's threads are set to."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_FOLDER = Path("/sys/devices/system/cpu")
QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
QUOTA_V1 = Path("/sys/fs/cgroup/cpu")


def logical_cores() -> int:
    """Count the logical cores that this process may run on (its affinity)."""
    return len(_affinity())


def usable_cores() -> int:
    """Count the physical cores that this process may use, at most its container's quota.

    A second thread on a core does not speed up matrix products, and threads beyond a quota make
    the others wait.
    """
    quota = _quota()
    physical = len({_siblings(core) for core in _affinity()})
    return max(1, physical if quota is None else min(physical, math.ceil(quota)))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(core: int) -> str:
    """Name the physical core of a logical one by the list of its threads."""
    listed = _read(CPU_FOLDER / f"cpu{core}" / "topology" / "thread_siblings_list")
    return listed or str(core)


def _quota() -> float | None:
    """Give the cores that the container is limited to, None for no limit."""
    limit, _, period = _read(QUOTA_V2).partition(" ")
    if not limit:
        limit, period = (_read(QUOTA_V1 / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if not (limit.isdecimal() and period.isdecimal() and int(limit) and int(period)):
        return None  # "max" in version 2, -1 in version 1
    return int(limit) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # not this system, or not this version of cgroups
        return ""
