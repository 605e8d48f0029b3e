"""Work on a series of items: several at once, results in order, memory bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from samclip.engines.machine.host import require_room_for_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    at_once: int,
    cut_short: Callable[[], None] | None = None,
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Yield each item with the finished future of its work, in the order of `items`.

    `at_once` threads work at the same time. At most one more item than that is taken from `items`
    ahead of the item yielded, so results that nobody has asked for do not pile up. A caller that
    stops early waits for the work under way; the rest is never begun. `cut_short` is called on
    KeyboardInterrupt, before that wait. Where no thread can be started, because the interpreter
    ends, the system's limit is reached or memory is short, the caller's thread works.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="samclip-series") as workers:
        try:
            for item in items:
                waiting.append((item, _begin(work, item, workers)))
                if len(waiting) > at_once:
                    yield _take_first(waiting)
            while waiting:
                yield _take_first(waiting)
        except KeyboardInterrupt:
            if cut_short is not None:
                cut_short()
            raise
        finally:
            workers.shutdown(wait=True, cancel_futures=True)


def _begin(
    work: Callable[[Item], Result], item: Item, workers: ThreadPoolExecutor
) -> Future[Result]:
    """Let a worker call `work(item)`, or call it here; return its future."""
    future: Future[Result] = Future()
    claim = threading.Lock()

    def run() -> None:
        if not claim.acquire(blocking=False):  # called here, though it had been queued
            return
        try:
            result = work(item)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        require_room_for_thread()
        workers.submit(run)
    except (RuntimeError, MemoryError):  # no thread can be started
        run()
    return future


def _take_first(waiting: deque[tuple[Item, Future[Result]]]) -> tuple[Item, Future[Result]]:
    """Wait for the first in line, and take it; its error, if it has one, stays in the future."""
    item, future = waiting.popleft()
    future.exception()
    return item, future


def prefetch(
    make: Callable[[Item], Result], items: Iterable[Item], depth: int = 1
) -> Generator[Result, None, None]:
    """Yield `make(item)` for each item in order, with up to `depth` results computed ahead.

    Threads compute them; an exception of `make` is raised at its item's turn.
    """
    with closing(map_in_order(make, items, depth)) as finished:
        for _, made in finished:
            yield made.result()
