"""A timed backend that remembers what it loaded and in which shapes it was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.latency.timed_backend import TimedBackend
from samclip.engines.base import Engine, EngineOptions, GraphSource, Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class ShapedEngine:
    """Another engine; `shapes` of the inputs of its last run."""

    inner: Engine
    shapes: Shapes

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
        self.shapes.update({name: tuple(feed.shape) for name, feed in feeds.items()})
        return self.inner.run(feeds, outputs)

    def close(self) -> None:
        """Free the other engine."""
        self.inner.close()


@dataclass(frozen=True, eq=False)
class CountedBackend(TimedBackend):
    """A timed backend; `sources` and `shapes`, by graph, are what can be counted."""

    sources: dict[str, GraphSource] = field(default_factory=dict)
    shapes: dict[str, Shapes] = field(default_factory=dict)

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        """Make `source` ready by the other backend; raises as it does."""
        self.sources[source.name] = source
        shapes = self.shapes.setdefault(source.name, {})
        return ShapedEngine(super().load(source, options), shapes)
