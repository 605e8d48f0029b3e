"""The count of a graph's work: MACs, parameters, and bytes moved.

What is counted is what an engine does that folds constants and moves no bytes to reshape:

- a node whose inputs are all constants is computed when the graph is loaded, and does not count;
- `DequantizeLinear` does not count: what follows reads the 8-bit values, and a product of two such
  computes in INT8;
- weights count as what the nodes that run read: FP32, where the graph stores them rounded and
  expands them on loading;
- every other node reads its inputs and writes its outputs once. Engines fuse nodes and have
  caches, so this is the traffic of a graph run node by node, and `Work.least_bytes` that of one
  run without a detour.

A parameter is an element of a stored tensor of floating-point numbers, or of integers that the
graph expands to such. Single numbers, shapes and indices, masks, repetitions (see
`ShapedGraph.distinct`), and the scales and zero points of quantisation do not count.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from samclip.benchmarks.roofline.macs import (
    DEQUANTIZE,
    PICKING,
    PLAIN,
    PRODUCTS,
    VIEWS,
    ShapedGraph,
    ShapedNode,
    TensorType,
    macs_of,
    operands_of,
)
from samclip.errors import CountError

INTEGERS = frozenset({"int8", "uint8", "int4", "uint4"})
QUANTIZE = frozenset({"QuantizeLinear", "com.microsoft.QuantizeLinear", *DEQUANTIZE})
# Which inputs of quantised products are scales and zero points.
SETTINGS = {
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    **dict.fromkeys(QUANTIZE, (1, 2)),
}


def count_parameters(graph: ShapedGraph) -> int:
    """Add up the elements of a graph's parameters."""
    settings = _settings(graph)
    return sum(
        elements
        for name, elements in graph.distinct.items()
        if name not in settings
        and graph.tensors[name].size > 1
        and ("float" in graph.tensors[name].dtype or graph.tensors[name].dtype in INTEGERS)
    )


def _settings(graph: ShapedGraph) -> set[str]:
    """Name the tensors that are scales and zero points."""
    found: set[str] = set()
    expanded: set[str] = set()  # what Cast makes of stored integers: weights still to be scaled
    tables: dict[str, str] = {}  # by rows looked up, which may still have to be expanded
    for node in graph.nodes:
        places = SETTINGS.get(node.operator, ())
        found.update(node.inputs[place] for place in places if place < len(node.inputs))
        if node.operator == "Gather":
            tables[node.outputs[0]] = node.inputs[0]
        elif node.operator == "Cast" and graph.tensors[node.inputs[0]].dtype in INTEGERS:
            expanded.update(node.outputs)
        elif node.operator == "Mul" and expanded & set(node.inputs):
            found.update(tables.get(name, name) for name in set(node.inputs) - expanded)
    return found


@dataclass(frozen=True)
class OperatorWork:
    """The work of the nodes of one operator that compute in one type, in one run.

    `arithmetic` is the type of the factors of a product ("float32", "int8"), else of what is
    computed. `weight_bytes` are constants read, `activation_bytes` everything else that is read
    or written, as if every node went to memory.
    """

    operator: str
    arithmetic: str
    nodes: int
    macs: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class GraphWork:
    """The work of one run of one graph; see `count`.

    `io_bytes`: its inputs and outputs, which move however well it is computed.
    """

    graph: str
    parameters: int
    io_bytes: int
    operators: tuple[OperatorWork, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all products; twice that are floating-point operations."""
        return sum(entry.macs for entry in self.operators)

    @property
    def weight_bytes(self) -> int:
        """Constants read, each once, as an engine holds them after loading."""
        return sum(entry.weight_bytes for entry in self.operators)

    @property
    def activation_bytes(self) -> int:
        """Bytes that nodes read and write besides constants, if every node goes to memory."""
        return sum(entry.activation_bytes for entry in self.operators)

    @property
    def least_bytes(self) -> int:
        """Bytes that move even if nothing between inputs and outputs leaves the caches."""
        return self.weight_bytes + self.io_bytes

    def macs_in(self, arithmetic: str) -> int:
        """MACs of the products that compute in this type."""
        return sum(entry.macs for entry in self.operators if entry.arithmetic == arithmetic)

    def by_arithmetic(self) -> dict[str, int]:
        """MACs by the type of the factors, the largest share first."""
        kinds = {entry.arithmetic for entry in self.operators if entry.macs}
        return dict(sorted(((k, self.macs_in(k)) for k in kinds), key=lambda kind: -kind[1]))


def count(graph: ShapedGraph) -> GraphWork:
    """Count the work of one run; raises CountError where an operator is not known."""
    return _Counter(graph).work()


class _Counter:
    """One count: `sources` leads from a tensor back over views and DequantizeLinear."""

    def __init__(self, graph: ShapedGraph) -> None:
        self._graph = graph
        self._sources: dict[str, str] = {}
        self._read: set[str] = set()  # constants

    def work(self) -> GraphWork:
        """Go through the nodes that run."""
        found: dict[tuple[str, str], list[OperatorWork]] = defaultdict(list)
        for node in self._graph.nodes:
            self._check(node)
            constant = set(node.outputs) <= self._graph.constants
            if node.operator in VIEWS | DEQUANTIZE or (constant and node.operator == "Transpose"):
                self._sources[node.outputs[0]] = node.inputs[0]
            elif not constant:
                entry = self._entry(node)
                found[entry.operator, entry.arithmetic].append(entry)
        operators = [_sum(entries) for entries in found.values()]
        operators.sort(key=lambda entry: (-entry.macs, -entry.activation_bytes, entry.operator))
        ends = {*self._graph.inputs, *self._graph.outputs}
        return GraphWork(
            graph=self._graph.name,
            parameters=count_parameters(self._graph),
            io_bytes=sum(self._graph.tensors[name].bytes for name in ends),
            operators=tuple(operators),
        )

    def _check(self, node: ShapedNode) -> None:
        if node.operator not in PLAIN | VIEWS | DEQUANTIZE and node.operator not in PRODUCTS:
            raise CountError(
                f"the graph {self._graph.name!r} holds the operator {node.operator} "
                f"({node.name!r}), whose work is not known. Export it without, or add a rule to "
                "samclip.benchmarks.roofline.macs."
            )

    def _entry(self, node: ShapedNode) -> OperatorWork:
        tensors, constants = self._graph.tensors, self._graph.constants
        product = node.operator in PRODUCTS
        given = {self._source(name) for name in node.inputs if name}
        weights = given & constants - self._read
        self._read |= weights
        written = _bytes(tensors[name] for name in node.outputs)
        most = written if node.operator in PICKING else sys.maxsize
        return OperatorWork(
            operator=node.operator,
            arithmetic=self._arithmetic(node) if product else tensors[node.outputs[0]].dtype,
            nodes=1,
            macs=macs_of(node, tensors) if product else 0,
            weight_bytes=min(most, _bytes(tensors[name] for name in weights)),
            activation_bytes=written
            + min(most, _bytes(tensors[name] for name in given - constants)),
        )

    def _source(self, name: str) -> str:
        """Find the tensor whose bytes are read where a node names `name`."""
        while name in self._sources:
            name = self._sources[name]
        return name

    def _arithmetic(self, node: ShapedNode) -> str:
        """Return the type that a product computes in: INT8 where both factors have 8 bits."""
        kinds = [self._graph.tensors[self._source(name)].dtype for name in operands_of(node)]
        if all(kind in {"int8", "uint8"} for kind in kinds):
            return "int8"
        return self._graph.tensors[operands_of(node)[0]].dtype


def _bytes(kinds: Iterable[TensorType]) -> int:
    return sum(kind.bytes for kind in kinds)


def _sum(entries: list[OperatorWork]) -> OperatorWork:
    return OperatorWork(
        operator=entries[0].operator,
        arithmetic=entries[0].arithmetic,
        nodes=len(entries),
        macs=sum(entry.macs for entry in entries),
        weight_bytes=sum(entry.weight_bytes for entry in entries),
        activation_bytes=sum(entry.activation_bytes for entry in entries),
    )
