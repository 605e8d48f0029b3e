"""A backend whose graphs are timed, and the clock that times steps of work and the graphs in them.

What the backend computes, and on which device, stays the same. A graph's time goes from the call of
`run` to its return. That includes copies of host arrays to the device, and every GPU engine waits
there for its stream. To catch an engine that returns before its stream has finished, the smallest
output is then copied to the host. That copy, every other that `numpy()` makes, and the loading of
graphs on first use are timed separately.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import (
    Backend,
    Engine,
    EngineOptions,
    GraphKey,
    GraphSource,
    Probe,
    Tensor,
    Traits,
)
from samclip.runtime.bundles.manifest import base_name

T = TypeVar("T")

Interval = tuple[float, float]
COPIES, LOADS = "outputs to host", "load engines"
ON_HOST = frozenset({"onnxruntime", "openvino"})  # whose tensors are in the host's memory already


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
    """Collects the times of graphs, and adds them to the step of work that they run in."""

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
    """Return the time that spans cover; where those of several threads overlap, it counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@dataclass(frozen=True, eq=False)
class TimedTensor:
    """A tensor of another engine, whose way to the host is timed."""

    inner: Tensor
    clock: StageClock

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return self.inner.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return self.inner.dtype

    def numpy(self) -> NDArray[np.generic]:
        """Bring the data to the host."""
        start = self.clock.now()
        array = self.inner.numpy()
        self.clock.add(COPIES, start, self.clock.now())
        return array


@dataclass(frozen=True, eq=False)
class TimedEngine:
    """Another engine, timed; `on_host`: there is no device to wait for."""

    inner: Engine
    name: str
    clock: StageClock
    on_host: bool

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph's inputs, all of which `run` needs."""
        return self.inner.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs, in its order."""
        return self.inner.output_names

    def run(
        self,
        feeds: Mapping[str, NDArray[np.generic] | Tensor],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Compute `outputs` as the other engine does; raises as it does."""
        given = {
            name: feed.inner if isinstance(feed, TimedTensor) else feed
            for name, feed in feeds.items()
        }
        start = self.clock.now()
        results = self.inner.run(given, outputs)
        self.clock.add(self.name, start, self.clock.now())
        timed: dict[str, Tensor] = {
            name: TimedTensor(tensor, self.clock) for name, tensor in results.items()
        }
        if timed and not self.on_host:
            min(timed.values(), key=lambda tensor: math.prod(tensor.shape)).numpy()
        return timed

    def close(self) -> None:
        """Free the other engine."""
        self.inner.close()


@dataclass(frozen=True, eq=False)
class TimedBackend:
    """Another backend, whose engines are timed; `precisions`: of each graph loaded so far.

    The graphs for several shapes of input are timed under one name.
    """

    inner: Backend
    clock: StageClock
    precisions: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The other backend's name."""
        return self.inner.name

    @property
    def version(self) -> str | None:
        """The version of the other backend's library, by which variants of graphs are chosen."""
        found: str | None = getattr(self.inner, "version", None)
        return found

    @property
    def traits(self) -> Traits:
        """Those of the other backend."""
        return self.inner.traits

    @property
    def on_host(self) -> bool:
        """Whether its tensors are in the host's memory."""
        return self.traits.on_host

    def probe(self) -> Probe:
        """Ask the other backend."""
        return self.inner.probe()

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        """Ask the other backend."""
        return self.inner.ready(graphs, options)

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        """Make `source` ready by the other backend; raises as it does."""
        start = self.clock.now()
        engine = self.inner.load(source, options)
        self.clock.add(LOADS, start, self.clock.now())
        self.precisions[base_name(source.name)] = source.precision
        return self._timed(engine, source)

    def _timed(self, engine: Engine, source: GraphSource) -> TimedEngine:
        """Wrap an engine of the other backend; derived backends wrap it otherwise."""
        return TimedEngine(engine, base_name(source.name), self.clock, self.on_host)
