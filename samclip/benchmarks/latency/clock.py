"""A clock that steps of work are timed by, and the graphs that ran within them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Step(Generic[T]):
    """One step: when it began and ended by the clock, what it gave, and the graphs within it.

    `inside`: seconds by the name of a graph, or of copies.
    """

    start: float
    end: float
    answer: T = field(repr=False)
    inside: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long the step took, all in all."""
        return self.end - self.start

    @property
    def rest(self) -> float:
        """Seconds that no graph and no copy took."""
        return self.seconds - sum(self.inside.values())


class StageClock:
    """Collects how long graphs run, and gives it to the step of work that they run in."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self._spans: defaultdict[str, list[Interval]] = defaultdict(list)
        self._lock = threading.Lock()

    def add(self, name: str, start: float, end: float) -> None:
        """Note that `name` was at work between two times; from any thread."""
        with self._lock:
            self._spans[name].append((start, end))

    def time(self, work: Callable[[], T]) -> Step[T]:
        """Do a step of work and say how long it and the graphs within it took."""
        with self._lock:
            self._spans.clear()
        start = self.now()
        answer = work()
        end = self.now()
        with self._lock:
            inside = {name: _covered(spans) for name, spans in self._spans.items()}
        return Step(start, end, answer, inside)


def _covered(spans: list[Interval]) -> float:
    """Add up spans; where they overlap, as those of several threads do, time counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
