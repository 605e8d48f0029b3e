"""The time of each stage of an answer, by the clock of the process.

No stage waits for a device that would not be waited for anyway. A stage within another one is
counted once, as the inner one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from samclip.runtime.photo import changed

STAGES = ("decode", "preprocess", "encode", "prompts", "upscale", "names")
_logger = logging.getLogger("samclip")
P = ParamSpec("P")
Answer = TypeVar("Answer", bound=Any)


class Stopwatch:
    """The milliseconds of each stage so far, in `times`; for one thread."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def begin(self, name: str) -> None:
        """Begin a stage; the one under way, if any, is interrupted."""
        self._count()
        self._open.append(name)

    def end(self) -> None:
        """End the stage that was begun last."""
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.times[name] = self.times.get(name, 0.0) + (now - self._since) * 1e3
        self._since = now


_current: ContextVar[Stopwatch | None] = ContextVar("samclip_stopwatch", default=None)


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Measure the stages of the block, also those in functions that it calls."""
    watch = Stopwatch()
    token = _current.set(watch)
    try:
        yield watch
    finally:
        _current.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time of the block as a stage of what is being measured, if anything is."""
    watch = _current.get()
    if watch is None:
        yield
        return
    watch.begin(name)
    try:
        yield
    finally:
        watch.end()


def timed(task: str) -> Callable[[Callable[P, Answer]], Callable[P, Answer]]:
    """Return a decorator that measures a method of a scene, whose answer then has its `timings`.

    They begin with the `timings` of the scene. A line of level INFO says them.
    """

    def decorate(method: Callable[P, Answer]) -> Callable[P, Answer]:
        @wraps(method)
        def measured(*args: P.args, **options: P.kwargs) -> Answer:
            with stopwatch() as watch:
                answer = method(*args, **options)
            scene: Any = args[0]
            report(task, watch.times)
            timings = add_times(scene.timings, watch.times)
            return changed(answer, timings=timings)

        return measured

    return decorate


def add_times(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Return the sums of two measurements, in the order of the stages."""
    return {
        name: first.get(name, 0.0) + second.get(name, 0.0)
        for name in STAGES
        if name in first or name in second
    }


def report(what: str, times: Mapping[str, float]) -> None:
    """Log what was done, and what each stage of it took, at level INFO."""
    if _logger.isEnabledFor(logging.INFO):
        stages = ", ".join(f"{name} {times[name]:.1f}" for name in STAGES if name in times)
        _logger.info("%s: %.1f ms (%s)", what, sum(times.values()), stages)


@contextmanager
def debug_time(what: str, *details: object) -> Iterator[None]:
    """Log what the block took, at level DEBUG; `what` is formatted with the `details`."""
    if not _logger.isEnabledFor(logging.DEBUG):
        yield
        return
    start = time.perf_counter()
    yield
    _logger.debug(f"{what}: %.1f ms", *details, (time.perf_counter() - start) * 1e3)
