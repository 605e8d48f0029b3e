"""The memory that this process may still take: the machine's, and at most its container's."""

from __future__ import annotations

from samclip.engines.machine.kernel_files import MachineFiles, bytes_of_kib

MEMORY_INFO = "/proc/meminfo"
CONTAINER_LIMIT = "/sys/fs/cgroup/memory.max"
CONTAINER_USE = "/sys/fs/cgroup/memory.current"
CONTAINER_PARTS = "/sys/fs/cgroup/memory.stat"
FILES = MachineFiles()


def available_memory(files: MachineFiles | None = None) -> int | None:
    """Return the bytes that a process may still take: the machine's, at most the container's.

    None where the system, or the one that `files` describe, does not report it.
    """
    files = FILES if files is None else files
    known = [amount for amount in (_machine(files), _container(files)) if amount is not None]
    return min(known, default=None)


def free_swap() -> int:
    """Return the bytes of swap that are free; 0 where the system does not report it."""
    return bytes_of_kib(FILES.fields(MEMORY_INFO).get("SwapFree", ""))


def _machine(files: MachineFiles) -> int | None:
    reported = files.fields(MEMORY_INFO).get("MemAvailable", "")
    return bytes_of_kib(reported) if reported[:1].isdecimal() else None


def _container(files: MachineFiles) -> int | None:
    """Subtract what a container uses from its limit; files that are merely cached do not count."""
    limit, use = files.number(CONTAINER_LIMIT), files.number(CONTAINER_USE)
    if limit is None or use is None:  # "max", or version 1 of cgroups
        return None
    cached = files.fields(CONTAINER_PARTS, " ").get("inactive_file", "")
    return max(0, limit - use + (int(cached) if cached.isdecimal() else 0))
