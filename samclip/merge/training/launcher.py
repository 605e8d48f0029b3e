"""Several processes of one run on this machine, each of which computes its share of every batch.

Accelerate's own launcher does this for GPUs and across machines; on CPUs it requires MPI. Here the
processes meet as torch.distributed describes ("environment variable initialization"): by gloo on
CPUs, by NCCL on GPUs. Imports only the standard library.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

HOST = "127.0.0.1"
POLL_EVERY = 0.1  # seconds
GRACE = 20.0  # seconds that the other processes have to end when one has failed
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Process = subprocess.Popen[bytes]


def is_launched() -> bool:
    """Return whether this process was started as one of several, by any launcher."""
    return "LOCAL_RANK" in os.environ


def launch(
    command: Sequence[str], processes: int, environment: Mapping[str, str] | None = None
) -> int:
    """Run `command` in several processes that know of each other, until all have ended.

    `environment` is added to this process's. Returns 0, or the exit status of the first process
    that failed, whereupon the others are ended too; for a signal 128 plus its number, as in shells.
    Ctrl-C and SIGTERM are passed on to all.
    """
    shared = {**os.environ, **_rendezvous(processes), **(environment or {})}
    started: list[Process] = []

    def pass_on(number: int) -> None:
        for process in started:
            process.send_signal(number)

    with handle_stop_signals(pass_on):
        for rank in range(processes):
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # In a separate session, a terminal's Ctrl-C reaches it only once: through `pass_on`.
            started.append(subprocess.Popen(command, env=own, start_new_session=True))
        try:
            return _wait_for_first_failure(started)
        finally:
            _end_all(started)


@contextmanager
def handle_stop_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Within the block, call `handle` with the number of a signal that asks the process to stop."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        handle(number)

    before = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rendezvous(processes: int) -> dict[str, str]:
    """Return the variables by which the processes find each other, and their number of threads."""
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
        # gloo otherwise resolves the machine's name, which may not lead to an interface.
        **({"GLOO_SOCKET_IFNAME": loopback} if loopback else {}),
    }


def _wait_for_first_failure(started: Sequence[Process]) -> int:
    """Wait until one process has failed or all have succeeded; return that exit status."""
    while True:
        statuses = [process.poll() for process in started]
        failed = next((status for status in statuses if status), None)
        if failed is not None:
            return failed if failed > 0 else 128 - failed
        if None not in statuses:
            return 0
        time.sleep(POLL_EVERY)


def _end_all(started: Sequence[Process]) -> None:
    """Wait `GRACE` seconds for processes that still run, then kill them.

    Without a process that has failed, the others would wait for it forever.
    """
    until = time.monotonic() + GRACE
    for process in started:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
