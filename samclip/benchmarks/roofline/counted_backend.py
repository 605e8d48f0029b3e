"""A timed backend that remembers what it loaded and in which shapes it was run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.latency.timed_backend import TimedBackend, TimedEngine
from samclip.engines.base import Engine, GraphSource, Tensor

Shapes = dict[str, tuple[int, ...]]
Run = tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]  # a graph, and its inputs' shapes


@dataclass(frozen=True, eq=False)
class ShapedEngine(TimedEngine):
    """A timed engine; `shapes` of the inputs of its last run, `runs` of all graphs."""

    shapes: Shapes
    runs: Counter[Run]

    def run(
        self,
        feeds: Mapping[str, NDArray[np.generic] | Tensor],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Compute `outputs` as the other engine does; raises as it does."""
        self.shapes.update({name: tuple(feed.shape) for name, feed in feeds.items()})
        self.runs[self.name, tuple(sorted(self.shapes.items()))] += 1
        return super().run(feeds, outputs)


@dataclass(frozen=True, eq=False)
class CountedBackend(TimedBackend):
    """A timed backend; `sources` and `shapes`, by graph, are what can be counted.

    `runs`: how often each graph ran in which shapes, until somebody clears it.
    """

    sources: dict[str, GraphSource] = field(default_factory=dict)
    shapes: dict[str, Shapes] = field(default_factory=dict)
    runs: Counter[Run] = field(default_factory=Counter)

    def _timed(self, engine: Engine, source: GraphSource) -> ShapedEngine:
        self.sources[source.name] = source
        shapes = self.shapes.setdefault(source.name, {})
        return ShapedEngine(engine, source.name, self.clock, self.on_host, shapes, self.runs)
