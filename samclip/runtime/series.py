"""Work on a series of items: several at once, results in order, memory bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from samclip.engines.machine.host import shortage

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
    KeyboardInterrupt, before that wait.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="samclip-series") as workers:
        try:
            for item in items:
                waiting.append((item, _begin(workers, work, item)))
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
    workers: ThreadPoolExecutor, work: Callable[[Item], Result], item: Item
) -> Future[Result]:
    """Hand over an item's work; at the end of the interpreter, which starts none, do it here.

    Raises EngineRunError where the process may start no more threads.
    """
    try:
        return workers.submit(work, item)
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise shortage(str(error)) from error
    future: Future[Result] = Future()
    try:
        future.set_result(work(item))
    except Exception as error:
        future.set_exception(error)
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
