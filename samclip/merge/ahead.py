"""Work done one item ahead: photos are decoded while the models compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(
    make: Callable[[Item], Made], items: Iterable[Item], depth: int = 1
) -> Iterator[Made]:
    """Yield `make(item)` for each item in order, up to `depth` of them made in threads before.

    What `make` raises is raised where its result is taken; what was begun by then is finished.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(depth, "samclip-ahead") as pool:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
