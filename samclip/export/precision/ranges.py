"""How large every intermediate of an FP32 graph grows on real photos, and what half cannot hold.

FP16 ends at 65,504, and what overflows need not end as NaN: behind a norm it ends as zeros. So the
graph is run in FP32 with max |x| of every floating-point value computed inside it, on ONNX
Runtime's CPU provider; only those scalars leave the graph, whose values are freed as always.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.engines.base import Engine, EngineOptions, GraphSource
from samclip.engines.registry import get_backend
from samclip.errors import ExportError
from samclip.export.graph_files import externalise
from samclip.export.precision.emulation import attention_scale
from samclip.export.precision.half import LARGEST, HalfPrecision
from samclip.export.precision.keep import name_nodes
from samclip.export.precision.op_types import FLOAT, typed_copy
from samclip.runtime.bundles.weights import parse_weights

FILE, WEIGHTS = "ranges.onnx", "ranges.safetensors"
PEAK = "peak of "  # what the scalars are called
SQUARING = frozenset({"ReduceL2", "ReduceSumSquare", "LpNormalization"})
SCORES, BEFORE_SOFTMAX = 3, 2  # Attention's output of scores, and which of them: with the bias
AVERAGING = frozenset({"ReduceMean", "AveragePool", "GlobalAveragePool"})


@dataclass(frozen=True)
class TensorRange:
    """A value's largest finite magnitude on the photos, who makes it, who reads it.

    `node` and `op_type` are empty for inputs of the graph. `squared_by` names the readers that
    square the value; `terms` counts what a mean adds up before it divides, 1 for all else.
    """

    tensor: str
    largest: float
    node: str = ""
    op_type: str = ""
    readers: tuple[str, ...] = ()
    squared_by: tuple[str, ...] = ()
    terms: int = 1


@dataclass(frozen=True)
class Kept:
    """A node to keep in FP32, and why: `tensor` reached `largest`, beyond `limit`."""

    node: str
    tensor: str
    largest: float
    limit: float
    reason: str


@dataclass(frozen=True)
class RangeReport:
    """The ranges of one graph, in its order, on `samples` photos or prompts."""

    graph: str
    samples: int
    ranges: tuple[TensorRange, ...]

    def beyond(self, dtype: HalfPrecision, headroom: float = 1.0) -> tuple[Kept, ...]:
        """List the nodes that half precision would overflow in, each with its first reason.

        `headroom` 2 leaves room for other photos to reach twice as far as these.
        """
        found: dict[str, Kept] = {}
        for measured in self.ranges:
            for kept in _overflows(measured, LARGEST[dtype] / headroom):
                found.setdefault(kept.node, kept)
        return tuple(found.values())

    def largest(self, count: int = 10) -> tuple[TensorRange, ...]:
        """Give the values that reach farthest, the farthest first."""
        return tuple(sorted(self.ranges, key=lambda r: -r.largest)[:count])


def measure_ranges(
    model: ir.Model, feeds: Iterable[Mapping[str, NDArray[np.generic]]]
) -> RangeReport:
    """Run an FP32 graph on `feeds` and give the largest magnitude of each of its values.

    Infinities (of masks) have a half form and do not count. Nodes without names get them, in place.
    Raises ExportError without feeds, or when a value is NaN.
    """
    name_nodes(model)
    exposed, values = _expose(model)
    peaks: NDArray[np.float64] = np.zeros(len(values))
    samples = 0
    with closing(_engine(exposed)) as engine:
        for feed in feeds:
            scalars = engine.run(feed)
            found = [float(scalars[f"{PEAK}{name}"].numpy()) for name in values]
            peaks = np.maximum(peaks, found)  # NaN stays
            samples += 1
    if not samples:
        raise ExportError(f"the ranges of {model.graph.name} need photos; none were given")
    _refuse_nan(model, list(values), peaks)
    ranges = (_describe(value, peak) for value, peak in zip(values.values(), peaks, strict=True))
    return RangeReport(str(model.graph.name), samples, tuple(ranges))


def _expose(model: ir.Model) -> tuple[ir.Model, dict[str, ir.Value]]:
    """Copy a graph, with max |x| of every float32 value as its only outputs.

    Gives the copy, and the values of a graph without these outputs by name. ONNX Runtime orders
    nodes backwards from the ends of the graph, the last end first: so the first value's scalar
    stands last and is computed at once. In the values' own order it holds all of them to the end.
    """
    base = typed_copy(model)
    _expose_scores(base.graph)
    exposed = base.clone()
    values = {str(value.name): value for value in _floats(base.graph)}
    copies = {str(value.name): value for value in _floats(exposed.graph)}
    has_infinity = any(_is_infinite(value) for value in exposed.graph.initializers.values())
    exposed.graph.outputs.clear()
    for name in reversed(values):
        nodes = _peak_nodes(copies[name], has_infinity)
        peak = nodes[-1].outputs[0]
        peak.name, peak.type, peak.shape = f"{PEAK}{name}", ir.TensorType(FLOAT), ir.Shape([])
        exposed.graph.extend(nodes)
        exposed.graph.outputs.append(peak)
    return exposed, values


def _expose_scores(graph: ir.Graph) -> None:
    """Let every Attention give the scores that its softmax reads: they are values as others are."""
    for node in graph:
        if node.op_type == "Attention" and not node.domain and len(node.outputs) <= SCORES:
            node.resize_outputs(SCORES + 1)
            for value in node.outputs[1:SCORES]:
                value.name = ""
            scores = node.outputs[SCORES]
            scores.name, scores.type = f"{node.name}_scores", ir.TensorType(FLOAT)
            node.attributes.add(ir.AttrInt64("qk_matmul_output_mode", BEFORE_SOFTMAX))


def _floats(graph: ir.Graph) -> Iterator[ir.Value]:
    """Give every float32 value that depends on the inputs."""
    yield from (value for value in graph.inputs if value.dtype == FLOAT)
    for node in graph:
        yield from (value for value in node.outputs if value.name and value.dtype == FLOAT)


def _peak_nodes(value: ir.Value, has_infinity: bool) -> list[ir.Node]:
    """Make the nodes that reduce a value to max |x|, without its infinities if there may be any.

    Two reductions read the value; |x| would write a copy of it.
    """
    nodes: list[ir.Node] = []
    if has_infinity:
        nodes.append(ir.node("IsInf", [value]))
        nodes.append(ir.node("Constant", [], {"value_float": 0.0}))
        finite = [nodes[0].outputs[0], nodes[1].outputs[0], value]
        nodes.append(ir.node("Where", finite))
        value = nodes[-1].outputs[0]
    extremes = [ir.node(op, [value], {"keepdims": 0}) for op in ("ReduceMax", "ReduceMin")]
    sizes = [ir.node("Abs", [node.outputs[0]]) for node in extremes]
    return [*nodes, *extremes, *sizes, ir.node("Max", [node.outputs[0] for node in sizes])]


def _is_infinite(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype == FLOAT and bool(np.isinf(tensor.numpy()).any())


def _engine(model: ir.Model) -> Engine:
    graphs, weights = externalise({FILE: model}, WEIGHTS)
    source = GraphSource(
        str(model.graph.name), graphs[FILE], parse_weights(weights), {WEIGHTS: weights}
    )
    return get_backend("onnxruntime").load(source, EngineOptions())


def _refuse_nan(model: ir.Model, names: list[str], peaks: NDArray[np.float64]) -> None:
    broken = np.flatnonzero(np.isnan(peaks))
    if broken.size:
        raise ExportError(
            f"the FP32 graph {model.graph.name} gives NaN from {names[broken[0]]!r} on; no "
            "precision can mend that. Check the checkpoint."
        )


def _describe(value: ir.Value, peak: float) -> TensorRange:
    node = value.producer()
    users = [user for user, _ in value.uses()]
    return TensorRange(
        tensor=str(value.name),
        largest=float(peak),
        node="" if node is None else str(node.name),
        op_type="" if node is None else node.op_type,
        readers=tuple(dict.fromkeys(str(user.name) for user in users)),
        squared_by=tuple(dict.fromkeys(str(u.name) for u in users if _squares(u, value))),
        terms=1 if node is None else _terms(node, value),
    )


def _squares(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node squares `value`, so that half precision overflows from 256 on."""
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1] is value
    if node.op_type == "Pow" and node.inputs[0] is value:
        power: Any = node.inputs[1].const_value if node.inputs[1] is not None else None
        return power is None or bool(np.any(power.numpy() >= 2))
    return node.op_type in SQUARING


def _terms(node: ir.Node, value: ir.Value) -> int:
    """Count what a mean adds up per result; 1 where sizes are not fixed, or for other operators.

    Scores of an Attention are that many times larger before they are scaled.
    """
    if node.op_type == "Attention":
        scale = attention_scale(node) or 1.0
        return max(1, math.ceil(1 / scale)) if value is not node.outputs[0] else 1
    shapes = [None if v is None else v.shape for v in (node.inputs[0], node.outputs[0])]
    if node.op_type not in AVERAGING or any(s is None or s.is_dynamic() for s in shapes):
        return 1
    if node.op_type == "AveragePool":
        return int(np.prod(node.attributes.get_ints("kernel_shape", [1])))
    sizes = [int(np.prod(s.numpy())) for s in shapes if s is not None]
    return max(1, sizes[0] // max(1, sizes[1]))


def _overflows(measured: TensorRange, limit: float) -> Iterator[Kept]:
    """Say which nodes a value forces into FP32: its maker, and all who read or square it."""
    largest, name = measured.largest, measured.tensor
    if largest > limit:
        for node in (measured.node, *measured.readers):
            if node:
                yield Kept(node, name, largest, limit, "a value beyond the range")
    if largest > limit**0.5:
        for node in measured.squared_by:
            yield Kept(node, name, largest, limit**0.5, "a square beyond the range")
    if measured.terms > 1 and largest * measured.terms > limit:
        bound = limit / measured.terms
        yield Kept(measured.node, name, largest, bound, "a sum beyond the range, not yet scaled")
