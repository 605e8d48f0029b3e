"""Graphs counted in the shapes that they ran in, and timed on a photo by the tasks that run them.

A counted backend is a timed one that remembers the graphs it loaded and the shapes of their runs.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.latency.contenders import OpenModel
from samclip.benchmarks.latency.photo_pipeline import NAMES, names_for
from samclip.benchmarks.latency.timed import TimedBackend, TimedEngine
from samclip.benchmarks.measurements import GraphRoofline, OperatorShare, Rate
from samclip.benchmarks.roofline.count import GraphWork, count
from samclip.benchmarks.roofline.efficiency import ideal_seconds, reached
from samclip.benchmarks.roofline.macs import ShapedGraph
from samclip.benchmarks.roofline.read_graph import read_graph
from samclip.engines.base import Engine, GraphSource, Tensor
from samclip.errors import UntrainedHeadWarning
from samclip.progress import Progress, track
from samclip.runtime.bundles.manifest import Graph, base_name
from samclip.runtime.graph_outputs import DECODING_GRAPHS
from samclip.runtime.pixels.image import load_image

Shapes = dict[str, tuple[int, ...]]
Run = tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]  # a graph, and its inputs' shapes

NAMING_GRAPHS = ("token_aggregation", "clip_head", "roi_classifier", "clip_roi", "clip_encoder")
Samples = dict[str, list[float]]  # seconds by graph


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

    `runs`: how often each graph ran in which shapes, until it is cleared.
    """

    sources: dict[str, GraphSource] = field(default_factory=dict)
    shapes: dict[str, Shapes] = field(default_factory=dict)
    runs: Counter[Run] = field(default_factory=Counter)

    def _timed(self, engine: Engine, source: GraphSource) -> ShapedEngine:
        name = base_name(source.name)
        self.sources[name] = source
        shapes = self.shapes.setdefault(name, {})
        return ShapedEngine(engine, name, self.clock, self.on_host, shapes, self.runs)


Counted = OpenModel[CountedBackend]


def time_graphs(
    models: Sequence[Counted],
    photo: Path,
    repeats: int,
    progress: Progress,
    on_warm: Callable[[], None] = lambda: None,
) -> dict[str, Samples]:
    """Run every graph of every model `repeats` times, in turn, after once to warm up.

    The encoder and the CLIP head on the photo, the mask decoder on one point in its middle, the
    classifiers of regions on the mask that it gives, the text encoder on 20 names by a template
    that no cache has seen. Returns seconds by model and graph.
    """
    found: dict[str, Samples] = {counted.name: defaultdict(list) for counted in models}
    pixels, number = load_image(photo), itertools.count()
    for turn in track(progress, range(repeats + 1), "graphs"):
        if turn == 1:
            on_warm()
        for counted in models if turn % 2 else reversed(models):
            for graph, seconds in _run_once(counted, pixels, next(number)):
                if turn:
                    found[counted.name][graph].append(seconds)
    return found


def _run_once(counted: Counted, pixels: Any, number: int) -> Iterator[tuple[str, float]]:
    model, clock = counted.model, counted.backend.clock
    manifest = model.manifest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedHeadWarning)
        encoded = clock.time(lambda: model.encode(pixels))
        yield "encoder", encoded.inside["encoder"]
        scene = encoded.answer
        height, width = scene.size
        point = clock.time(lambda: scene.segment(points=[(width / 2, height / 2)]))
        for graph in DECODING_GRAPHS:
            if graph in point.inside:
                yield graph, point.inside[graph]
        if names := names_for(model):
            vocabulary, masks = model.vocabulary(names), point.answer
            named = clock.time(lambda: scene.name(masks, vocabulary))
            for graph in NAMING_GRAPHS:
                if graph in named.inside:
                    yield graph, named.inside[graph]
            if manifest.graphs.text_encoder is not None:
                template = f"a photo of a {{}}, number {number}."
                text = clock.time(lambda: model.vocabulary(NAMES, template))
                yield "text_encoder", text.inside["text_encoder"]
        scene.close()


def describe_graphs(
    counted: Counted, samples: Samples, rates: Sequence[Rate]
) -> tuple[GraphRoofline, ...]:
    """Count the graphs that ran, in the shapes that they ran in; raises CountError."""
    return tuple(_describe(counted, graph, tuple(taken), rates) for graph, taken in samples.items())


def count_graph(counted: Counted, graph: str) -> tuple[GraphWork, dict[str, int]]:
    """Count one graph in the shapes of its last run; return the sizes of its dynamic axes too.

    Its weights are read again where its engine let them go: repeated parameters count once.
    """
    return count_in_shapes(counted, graph, counted.backend.shapes[graph])


def count_in_shapes(
    counted: Counted, graph: str, shapes: Shapes
) -> tuple[GraphWork, dict[str, int]]:
    """Count one graph that was loaded, with inputs of given shapes; as `count_graph`."""
    shaped, sizes = read_in_shapes(counted, graph, shapes)
    return count(shaped), sizes


def read_in_shapes(
    counted: Counted, graph: str, shapes: Shapes
) -> tuple[ShapedGraph, dict[str, int]]:
    """Read one graph that was loaded, with inputs of given shapes; as `count_graph`."""
    source = counted.backend.sources[graph].whole()
    described = counted.model.manifest.all_graphs[source.name]
    sizes = _sizes(described, shapes)
    return read_graph(source.onnx, graph, sizes, source.weights), sizes


def _describe(
    counted: Counted, graph: str, samples: tuple[float, ...], rates: Sequence[Rate]
) -> GraphRoofline:
    work, sizes = count_graph(counted, graph)
    backend = counted.backend
    ideal = ideal_seconds(work.by_arithmetic(), rates) if backend.on_host else None
    return GraphRoofline(
        model=counted.name,
        graph=graph,
        backend=backend.name,
        precision=backend.precisions[graph],
        sizes=sizes,
        macs=work.by_arithmetic(),
        parameters=work.parameters,
        weight_bytes=work.weight_bytes,
        activation_bytes=work.activation_bytes,
        io_bytes=work.io_bytes,
        samples=samples,
        ideal=ideal,
        reached=None if ideal is None else reached(ideal, samples),
        operators=tuple(OperatorShare(**asdict(entry)) for entry in work.operators),
    )


def _sizes(graph: Graph, shapes: Shapes) -> dict[str, int]:
    """Return the sizes that the dynamic axes of a graph's inputs had."""
    return {
        axis: side
        for spec in graph.inputs
        for axis, side in zip(spec.shape, shapes[spec.name], strict=True)
        if isinstance(axis, str)
    }


@dataclass
class GraphWorks:
    """The work of runs, each counted once, for meters that share models."""

    known: dict[tuple[Counted, Run], GraphWork] = field(default_factory=dict)

    def of(self, counted: Counted, run: Run) -> GraphWork:
        """Count a run; raises CountError, and CapabilityError where onnx is not installed."""
        if (counted, run) not in self.known:
            graph, shapes = run
            self.known[counted, run], _ = count_in_shapes(counted, graph, dict(shapes))
        return self.known[counted, run]


class Meter:
    """Adds up what the graphs of some models do between `begin` and `end`, kind by kind."""

    def __init__(self, models: Sequence[Counted], works: GraphWorks) -> None:
        self._models = models
        self._works = works
        self._runs: dict[str, Counter[tuple[Counted, Run]]] = defaultdict(Counter)

    def begin(self) -> None:
        """Forget the runs so far."""
        for counted in self._models:
            counted.backend.runs.clear()

    def end(self, kind: str) -> None:
        """Count the runs since `begin` as those of an answer of this kind."""
        for counted in self._models:
            for run, times in counted.backend.runs.items():
                self._runs[kind][counted, run] += times
        self.begin()

    def macs(self, kind: str) -> int:
        """Add up the multiply-accumulates of all answers of a kind; raises as `Works.of`."""
        runs = self._runs[kind].items()
        return sum(times * self._works.of(*run).macs for run, times in runs)

    def parameters(self) -> int:
        """Add up the parameters of the graphs that ran, a bundle's graph once; raises as above."""
        runs = [run for runs in self._runs.values() for run in runs]
        found = {
            (str(counted.model.bundle.path), run[0]): self._works.of(counted, run).parameters
            for counted, run in runs
        }
        return sum(found.values())
