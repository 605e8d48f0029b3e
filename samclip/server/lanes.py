"""Lanes of work: a bounded queue before a few threads keeps latency bounded at overload."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from samclip.engines.machine.host import as_memory_error, require_room_for_thread
from samclip.server.problems import ProblemError

SMOOTHING = 0.2  # of a new duration in the running mean
LONGEST_RETRY = 60  # seconds

Result = TypeVar("Result")


class Lane:
    """Threads for one kind of work, and the requests that wait for them.

    `workers`: pieces of work at once; `queue`: requests that may wait beyond them;
    `seconds`: how long one waits at most. Methods that are coroutines belong to one event loop.
    """

    def __init__(self, name: str, workers: int, queue: int, seconds: float) -> None:
        self.name = name
        self.workers = workers
        self.admitted = 0
        self.waiting = 0
        self._room = workers + queue
        self._seconds = seconds
        self._slots = asyncio.Semaphore(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"samclip-{name}")
        self._mean = 0.0  # seconds that a piece of work takes
        self._lock = threading.Lock()

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Count a request until it is answered; ProblemError 429 where too many are counted."""
        if self.admitted >= self._room:
            raise ProblemError(
                "busy",
                f"{self.admitted} requests are with the {self.name} already, which is all that may "
                "be. Ask again later.",
                retry_after=self.retry_after(),
            )
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    def retry_after(self) -> int:
        """Estimate the seconds until the requests that wait now are answered: 1 to 60."""
        estimate = self._mean * max(1, self.waiting) / self.workers
        return min(LONGEST_RETRY, max(1, math.ceil(estimate)))

    async def run(self, work: Callable[[], Result]) -> Result:
        """Call `work` in a thread of the lane, in the order of the calls.

        A caller that is cancelled leaves the queue; work that has begun keeps its thread until it
        ends. Raises ProblemError 503 for a wait that was too long, and what `work` raises.
        """
        self.waiting += 1
        try:
            await asyncio.wait_for(self._slots.acquire(), self._seconds)
        except asyncio.TimeoutError as error:
            raise ProblemError(
                "unavailable",
                f"the request waited {self._seconds:g} s for the {self.name}, which is as long as "
                "it may. Ask again later.",
                retry_after=self.retry_after(),
            ) from error
        finally:
            self.waiting -= 1
        loop = asyncio.get_running_loop()
        try:
            future = self._submit(work)
        except BaseException:
            self._slots.release()
            raise

        def free(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._slots.release)

        future.add_done_callback(free)
        return await asyncio.wrap_future(future)

    @as_memory_error
    def _submit(self, work: Callable[[], Result]) -> Future[Result]:
        require_room_for_thread()  # the executor may start one
        return self._threads.submit(self._timed, work)

    def _timed(self, work: Callable[[], Result]) -> Result:
        begun = time.perf_counter()
        try:
            return work()
        finally:
            took = time.perf_counter() - begun
            with self._lock:
                share = SMOOTHING if self._mean else 1.0
                self._mean += share * (took - self._mean)

    def close(self) -> None:
        """Wait for the work that has begun; nothing more can be run."""
        self._threads.shutdown(wait=True, cancel_futures=True)
