"""The memory that this process may still take: the machine's, and at most its container's."""

from __future__ import annotations

from pathlib import Path

MEMORY_INFO = Path("/proc/meminfo")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
CONTAINER_USE = Path("/sys/fs/cgroup/memory.current")
CONTAINER_PARTS = Path("/sys/fs/cgroup/memory.stat")


def available_memory() -> int | None:
    """Return the bytes that a process may still take: the machine's, at most the container's.

    None where the system does not report it.
    """
    known = [amount for amount in (_machine(), _container()) if amount is not None]
    return min(known, default=None)


def free_swap() -> int:
    """Return the bytes of swap that are free; 0 where the system does not report it."""
    # its "kB" are KiB
    return _fields(MEMORY_INFO, ":").get("SwapFree", 0) * 1024


def _machine() -> int | None:
    fields = _fields(MEMORY_INFO, ":")
    # its "kB" are KiB
    return fields["MemAvailable"] * 1024 if "MemAvailable" in fields else None


def _container() -> int | None:
    """Subtract what a container uses from its limit; files that are merely cached do not count."""
    limit, use = _read(CONTAINER_LIMIT).strip(), _read(CONTAINER_USE).strip()
    if not (limit.isdecimal() and use.isdecimal()):  # "max", or version 1 of cgroups
        return None
    cached = _fields(CONTAINER_PARTS, " ").get("inactive_file", 0)
    return max(0, int(limit) - int(use) + cached)


def _fields(path: Path, separator: str) -> dict[str, int]:
    """Read lines of a heading and a whole number."""
    parts = (line.partition(separator) for line in _read(path).splitlines())
    words = ((heading, value.split()) for heading, _, value in parts)
    return {heading: int(value[0]) for heading, value in words if value and value[0].isdecimal()}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not Linux
        return ""
