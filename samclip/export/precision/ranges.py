"""Ranges of an FP32 graph's intermediate values on photos, and the overflows they would cause.

FP16 ends at 65,504, and an overflow need not show as NaN: behind a norm it ends as zeros. So the
graph is run in FP32 and the largest magnitude of every floating-point value is measured inside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.precision.emulation import attention_scale
from samclip.export.precision.graph_edits import name_nodes
from samclip.export.precision.half import LARGEST, HalfPrecision
from samclip.export.precision.op_types import FLOAT, typed_copy
from samclip.export.precision.tensor_statistics import observe

SQUARING = frozenset({"ReduceL2", "ReduceSumSquare", "LpNormalization"})
AVERAGING = frozenset({"ReduceMean", "AveragePool", "GlobalAveragePool"})
SCORES, BEFORE_SOFTMAX = 3, 2  # Attention's output of scores, and which of them: with the bias


@dataclass(frozen=True)
class TensorRange:
    """A value's largest finite magnitude on the photos, the node that makes it, those that read it.

    `node` and `op_type` are empty for inputs of the graph. `squared_by` names the readers that
    square the value; `terms` is how many numbers a mean adds up before it divides, else 1.
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
        """List the nodes in which half precision would overflow, each with its first reason.

        With `headroom` 2, values of other photos may be twice as large as those measured.
        """
        found: dict[str, Kept] = {}
        for measured in self.ranges:
            for kept in _overflows(measured, LARGEST[dtype] / headroom):
                found.setdefault(kept.node, kept)
        return tuple(found.values())

    def largest(self, count: int = 10) -> tuple[TensorRange, ...]:
        """Return the `count` values with the largest magnitudes, the largest first."""
        return tuple(sorted(self.ranges, key=lambda r: -r.largest)[:count])


def measure_ranges(
    model: ir.Model, feeds: Iterable[Mapping[str, NDArray[np.generic]]]
) -> RangeReport:
    """Run an FP32 graph on `feeds` and return the largest magnitude of each of its values.

    Infinities (of masks) have a half form and do not count. Nodes without names get them, in place.
    Raises ExportError without feeds, or when a value is NaN.
    """
    name_nodes(model)
    typed = typed_copy(model)
    _expose_scores(typed.graph)
    values = _float_values(typed.graph)
    names = [str(value.name) for value in values]
    peaks: NDArray[np.float64] = np.zeros(len(values))
    samples = 0
    for found in observe(typed, names, ("peak",), feeds):
        peaks = np.maximum(peaks, [float(found[name, "peak"]) for name in names])  # NaN stays
        samples += 1
    if not samples:
        raise ExportError(f"the ranges of {model.graph.name} need photos; none were given")
    broken = np.flatnonzero(np.isnan(peaks))
    if broken.size:
        raise ExportError(
            f"the FP32 graph {model.graph.name} gives NaN from {names[broken[0]]!r} on; no "
            "precision can mend that. Check the checkpoint."
        )
    ranges = (_describe(value, peak) for value, peak in zip(values, peaks, strict=True))
    return RangeReport(str(model.graph.name), samples, tuple(ranges))


def _expose_scores(graph: ir.Graph) -> None:
    """Let every Attention output the scores that its softmax reads: they are measured as well."""
    for node in graph:
        if node.op_type == "Attention" and not node.domain and len(node.outputs) <= SCORES:
            node.resize_outputs(SCORES + 1)
            for value in node.outputs[1:SCORES]:
                value.name = ""
            scores = node.outputs[SCORES]
            scores.name, scores.type = f"{node.name}_scores", ir.TensorType(FLOAT)
            node.attributes.add(ir.AttrInt64("qk_matmul_output_mode", BEFORE_SOFTMAX))


def _float_values(graph: ir.Graph) -> list[ir.Value]:
    """List the float32 inputs of a graph, and what its nodes compute in float32."""
    computed = (value for node in graph for value in node.outputs if value.name)
    return [value for value in (*graph.inputs, *computed) if value.dtype == FLOAT]


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
    """Count the numbers that a mean adds up per result; 1 without fixed sizes, or for other nodes.

    For the scores of an Attention: how many times larger they are before they are scaled.
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
    """List the nodes that a value forces into FP32: its maker, and all that read or square it."""
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
