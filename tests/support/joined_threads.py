"""Threads that must all end: one that hangs fails the test instead of blocking it."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Sequence

SECONDS = 900.0


def in_threads(works: Sequence[Callable[[], None]], seconds: float = SECONDS) -> None:
    """Do each piece of work in a separate thread, all started at once; raise the first error."""
    failures: list[BaseException] = []
    begun = threading.Barrier(len(works))

    def do(work: Callable[[], None]) -> None:
        begun.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=do, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    join_all(threads, seconds)
    if failures:
        raise failures[0]


def join_all(threads: Sequence[threading.Thread], seconds: float = SECONDS) -> None:
    """Wait for threads; print the tracebacks of those that do not end, and raise."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    hanging = sum(thread.is_alive() for thread in threads)
    if hanging:
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        raise AssertionError(f"{hanging} of {len(threads)} threads hang after {seconds:.0f} s")
