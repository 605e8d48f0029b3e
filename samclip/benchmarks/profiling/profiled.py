"""Graphs profiled on a photo by the tasks that run them, with the settings that the runtime uses.

A profiled backend is a counted one whose engines time each node: the model, the threads and the
optimisations are those of any other run. Timing costs some microseconds a node.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from samclip.benchmarks.latency.contenders import OpenModel
from samclip.benchmarks.measurements import GraphProfile, NodeProfile, Statistic
from samclip.benchmarks.profiling.scopes import Scopes, computes
from samclip.benchmarks.roofline.counted import (
    CountedBackend,
    ShapedEngine,
    read_in_shapes,
    time_graphs,
)
from samclip.benchmarks.roofline.macs import PRODUCTS, macs_of
from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.engines.graphs.parsed import parse_model
from samclip.engines.profile import NodeTime, Profiled, ProfiledRun
from samclip.errors import CapabilityError, CountError
from samclip.progress import Progress

WAYS = {
    "tensorrt": "`samclip engine list` shows its plans, and `trtexec --loadEngine=PLAN "
    "--dumpProfile --separateProfileRun` times the layers of one",
    "tensorrt-rtx": "NVIDIA Nsight Systems times its kernels: `nsys profile samclip ...`",
    "ort-tensorrt": "its TensorRT runs a graph as a single node",
}


@dataclass(frozen=True, eq=False)
class ProfiledBackend(CountedBackend):
    """A counted backend whose engines are loaded with a profile; `engines`: they, by graph.

    Raises CapabilityError for a backend that cannot time nodes.
    """

    engines: dict[str, Profiled] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the backend can."""
        if not self.traits.profiles:
            way = WAYS.get(self.name, "see its own tools")
            raise CapabilityError(
                f"backend {self.name!r} does not time the nodes of a graph here: {way}. Profile "
                "with the backend onnxruntime or openvino."
            )

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        """Make `source` ready, and have its nodes timed; raises as the other backend does."""
        return super().load(source, replace(options, profile=True))

    def _timed(self, engine: Engine, source: GraphSource) -> ShapedEngine:
        timed = super()._timed(engine, source)
        if isinstance(engine, Profiled):
            self.engines[timed.name] = engine
        return timed


ProfiledModel = OpenModel[ProfiledBackend]


def profile_graphs(
    models: Sequence[ProfiledModel],
    photo: Path,
    repeats: int,
    statistic: Statistic,
    progress: Progress,
) -> tuple[GraphProfile, ...]:
    """Run every graph as `time_graphs` does, and return where its time went.

    The first run of each graph, which also chooses kernels and makes room, does not count.
    """

    def forget() -> None:
        for one in models:
            one.backend.runs.clear()

    timed = time_graphs(models, photo, repeats, progress, forget)
    return tuple(
        describe_profile(one, graph, statistic, progress)
        for one in models
        for graph in timed[one.name]
    )


def describe_profile(
    model: ProfiledModel, graph: str, statistic: Statistic, progress: Progress
) -> GraphProfile:
    """End the profile of a graph, and describe as many of its last runs as its backend counted."""
    backend = model.backend
    kept = sum(times for (name, _), times in backend.runs.items() if name == graph)
    runs = backend.engines[graph].end_profile()[-kept:]
    scopes = Scopes(parse_model(backend.sources[graph].onnx))
    macs = _count(model, graph, progress)
    total = None if macs is None else sum(macs.values())
    return GraphProfile(
        model=model.name,
        graph=graph,
        backend=backend.name,
        precision=backend.precisions[graph],
        statistic=statistic,
        macs=total,
        samples=tuple(run.seconds for run in runs),
        between=tuple(run.between for run in runs),
        nodes=tuple(_describe(nodes, samples, scopes, macs) for nodes, samples in _by_node(runs)),
    )


def _count(model: ProfiledModel, graph: str, progress: Progress) -> dict[str, int] | None:
    """Count the multiply-accumulates of products, by their first output; None if they cannot be."""
    try:
        shaped, _ = read_in_shapes(model, graph, model.backend.shapes[graph])
    except (CapabilityError, CountError) as error:
        progress.note(f"the work of {graph!r} is left out: {error}")
        return None
    return {
        node.outputs[0]: macs_of(node, shaped.tensors)
        for node in shaped.nodes
        if node.operator in PRODUCTS and not set(node.outputs) <= shaped.constants
    }


def _by_node(runs: Sequence[ProfiledRun]) -> Iterator[tuple[NodeTime, tuple[float, ...]]]:
    """Yield each node of the last run, with its seconds in all runs; 0 where it did not run.

    Of several nodes with one name, the first is that of every run.
    """
    times: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0] * len(runs))
    last: dict[tuple[str, int], NodeTime] = {}
    for place, run in enumerate(runs):
        seen: Counter[str] = Counter()
        for node in run.nodes:
            key = (node.name, seen[node.name])
            seen[node.name] += 1
            times[key][place] = node.seconds
            last[key] = node
    for key, node in last.items():
        yield node, tuple(times[key])


def _describe(
    node: NodeTime, samples: tuple[float, ...], scopes: Scopes, macs: dict[str, int] | None
) -> NodeProfile:
    """Describe a node; the work of one of the graph's nodes counts for the first that has it."""
    originals = scopes.originals(node)
    work = None
    if macs is not None:
        computed = [one.outputs[0] for one in originals if computes(node, one)]
        work = sum(macs.pop(output, 0) for output in computed)
    return NodeProfile(
        name=node.name,
        operator=node.operator,
        kernel=node.kernel,
        scope=scopes.scope(originals),
        shapes=node.shapes,
        macs=work,
        samples=samples,
    )
