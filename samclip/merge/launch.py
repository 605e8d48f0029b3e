"""Several processes of one run on this machine, each of which computes its share of every batch.

Accelerate's own launcher does this for GPUs and across machines; on CPUs it wants MPI. Here the
processes meet as torch.distributed describes ("environment variable initialization"): by gloo on
CPUs, by NCCL on GPUs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

HOST = "127.0.0.1"
LOOK_EVERY = 0.1  # seconds
GRACE = 20.0  # seconds that the others have when one process has ended badly

Process = subprocess.Popen[bytes]


def launched() -> bool:
    """Tell whether this process was started as one of several, by `launch` or another launcher."""
    return "LOCAL_RANK" in os.environ


def launch(
    command: Sequence[str], processes: int, environment: Mapping[str, str] | None = None
) -> int:
    """Run `command` in so many processes that know of each other, until all have ended.

    `environment` is added to this process's. Returns 0, or the exit status of the first that
    failed, whereupon the others are ended too; 128 and the signal's number for a signal, as
    shells say it. Ctrl-C and SIGTERM are passed on to all.
    """
    shared = {**os.environ, **_meeting(processes), **(environment or {})}
    started: list[Process] = []
    with _passing_on(started):
        for rank in range(processes):
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of its own: a terminal's Ctrl-C comes through here, and so only once.
            started.append(subprocess.Popen(command, env=own, start_new_session=True))
        try:
            return _wait(started)
        finally:
            _end(started)


def _meeting(processes: int) -> dict[str, str]:
    """Say where the processes meet, how many they are, and how many threads each may have."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        # gloo else goes by the machine's name, which may resolve to nowhere
        **({"GLOO_SOCKET_IFNAME": loopback} if loopback else {}),
    }


def _wait(started: Sequence[Process]) -> int:
    """Wait until one has failed or all have ended well; return that status."""
    while True:
        statuses = [process.poll() for process in started]
        failed = next((status for status in statuses if status), None)
        if failed is not None:
            return failed if failed > 0 else 128 - failed
        if None not in statuses:
            return 0
        time.sleep(LOOK_EVERY)


def _end(started: Sequence[Process]) -> None:
    """Wait for those that still run, for a while: without one of them they hear no more."""
    until = time.monotonic() + GRACE
    for process in started:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _passing_on(started: Sequence[Process]) -> Iterator[None]:
    """Within, signals that ask to stop go to the processes instead of ending this one."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
