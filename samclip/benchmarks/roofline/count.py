"""The count of a graph's work: MACs, parameters, and bytes moved.

What is counted is what an engine does that folds constants and moves no bytes to reshape:

- a node whose inputs are all constants is computed when the graph is loaded, and is no work;
- `DequantizeLinear` is no work: what follows reads the 8-bit values, and a product of two such
  computes in INT8;
- weights count as what the nodes that run read: FP32, where the graph stores them rounded and
  expands them on loading;
- every other node reads its inputs and writes its outputs once. Engines fuse nodes and have
  caches, so this is the traffic of a graph run node by node, and `Work.least_bytes` that of one
  run without a detour.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable

from samclip.benchmarks.roofline.operators import DEQUANTIZE, PICKING, PLAIN, VIEWS
from samclip.benchmarks.roofline.parameters import count_parameters
from samclip.benchmarks.roofline.products import PRODUCTS, macs_of, operands_of
from samclip.benchmarks.roofline.shaped_graph import ShapedGraph, ShapedNode, TensorType
from samclip.benchmarks.roofline.work import OperatorWork, Work
from samclip.errors import CountError


def count(graph: ShapedGraph) -> Work:
    """Count the work of one run; raises CountError where an operator is not known."""
    return _Counter(graph).work()


class _Counter:
    """One count: `sources` leads from a tensor back over views and DequantizeLinear."""

    def __init__(self, graph: ShapedGraph) -> None:
        self._graph = graph
        self._sources: dict[str, str] = {}
        self._read: set[str] = set()  # constants

    def work(self) -> Work:
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
        return Work(
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
                "samclip.benchmarks.roofline.products."
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
        """Tell what a product computes in: INT8 where both factors come from 8-bit integers."""
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
