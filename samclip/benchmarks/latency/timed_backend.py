"""A backend whose graphs are timed; what it computes, and on which device, stays the same.

A graph's time goes from the call of `run` to its return: that includes copies of host arrays to
the device, and every GPU engine waits there for its stream. So that one which did not wait would
be found out, and none be flattered, the smallest output is then brought to the host: that copy,
and every other that `numpy()` makes, is timed apart; so is the loading of graphs on first use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.latency.clock import StageClock
from samclip.engines.base import (
    Backend,
    Engine,
    EngineOptions,
    GraphKey,
    GraphSource,
    Probe,
    Tensor,
)

COPIES, LOADS = "outputs to host", "load engines"
ON_HOST = frozenset({"onnxruntime", "openvino"})  # whose tensors are in the host's memory already


@dataclass(frozen=True, eq=False)
class TimedTensor:
    """A tensor of another engine, whose way to the host is timed."""

    inner: Tensor
    clock: StageClock

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return self.inner.shape

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
    """Another backend, whose engines are timed; `precisions`: of each graph loaded so far."""

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
    def on_host(self) -> bool:
        """Whether its tensors are in the host's memory."""
        return self.name in ON_HOST

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
        self.precisions[source.name] = source.precision
        return self._timed(engine, source)

    def _timed(self, engine: Engine, source: GraphSource) -> TimedEngine:
        """Make what `load` gives of the other backend's engine."""
        return TimedEngine(engine, source.name, self.clock, self.on_host)
