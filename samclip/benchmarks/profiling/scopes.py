"""The modules that nodes of a graph belong to, by the names of their parameters.

Exports keep the parameters' names, as "backbone.blocks.5.expand.c.weight", and nothing else of the
modules. A node that reads parameters belongs to the module of these. A product whose weights were
renamed belongs to that of its bias, which the next node adds, and an activation to the layer before
it. Everything else, as a softmax or a residual sum, belongs to what the modules before and behind
it have in common: nodes are in the order in which the modules ran.

Libraries run other nodes than the graph has. ONNX Runtime names those that it fused after one of
them, or after the tensor that they compute, with marks that `names_behind` takes off.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from samclip.benchmarks.roofline.macs import DEQUANTIZE, PRODUCTS, VIEWS
from samclip.engines.graphs.parsed import Node, ParsedGraph
from samclip.engines.profile import NodeTime

RENAMED = "constant."  # exports call weights so that they transposed or computed
FOLDED = {"Cast", "Mul", "Transpose", "QuantizeLinear"} | VIEWS | DEQUANTIZE  # of stored weights
ACTIVATIONS = {"Relu", "Clip", "Gelu", "Sigmoid", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu",
               "com.microsoft.Gelu", "com.microsoft.FastGelu",
               "com.microsoft.QuickGelu"}  # fmt: skip
FUSED_STEPS = 4  # nodes behind a product that a library computes with it, at most
# Operators of libraries: FusedConv, QLinearMatMul, Convolution.
IS_PRODUCT = re.compile("Conv|Gemm|MatMul|FullyConnected")
MARKS = re.compile(r"^fused |/.*$|_token_\d+$|_nchwc$")
Scope = tuple[str, ...]


def common(scopes: Iterable[Scope]) -> Scope:
    """Return the modules that all scopes begin with."""
    found = list(scopes)
    if not found:
        return ()
    first, last = min(found), max(found)
    same = next((place for place, one in enumerate(first) if last[place : place + 1] != (one,)),
                len(first))  # fmt: skip
    return first[:same]


def names_behind(name: str) -> Iterator[str]:
    """Yield a node's name, and what is left of it once each mark of a fusion is taken off."""
    yield name
    while (shorter := MARKS.sub("", name)) != name:
        yield shorter
        name = shorter


def computes(node: NodeTime, original: Node) -> bool:
    """Whether a library's node does the work of one of its originals.

    One that only is named after a product may be what reorders its tensor.
    """
    same = original.operator.endswith(node.operator)
    return bool(node.originals or same or IS_PRODUCT.search(node.operator))


class Scopes:
    """The modules of a graph's nodes, and the nodes that a library's node stands for."""

    def __init__(self, graph: ParsedGraph) -> None:
        self._parameters: dict[str, Scope | None] = {
            stored.name: _module(stored.name) for stored in graph.stored
        }
        self._nodes = [node for node in graph.nodes if not self._fold(node)]
        self._named = {node.name: node for node in reversed(self._nodes) if node.name}
        self._makers = {output: node for node in self._nodes for output in node.outputs}
        self._readers: dict[str, list[Node]] = defaultdict(list)
        for node in self._nodes:
            for tensor in node.inputs:
                self._readers[tensor].append(node)
        self._scopes = self._find_scopes()

    def originals(self, node: NodeTime) -> tuple[Node, ...]:
        """Return the graph's nodes that a library's node computes, as far as they are known."""
        listed = [self._find(name) for name in node.originals or names_behind(node.name)]
        found = {one.outputs[0]: one for one in listed if one is not None}
        if not node.originals:  # of the names that may be meant, the first that is there
            found = dict(list(found.items())[:1])
        fused = IS_PRODUCT.search(node.operator)
        if fused and found and not any(one.operator in PRODUCTS for one in found.values()):
            return tuple(self._back_to_product(next(iter(found.values()))))
        return tuple(found.values())

    def scope(self, originals: Sequence[Node]) -> Scope:
        """Return the modules of nodes that are computed together: of the products among them."""
        products = [node for node in originals if node.operator in PRODUCTS]
        return common(self._scopes[node.outputs[0]] for node in products or originals)

    def _find(self, name: str) -> Node | None:
        """Return the node that is called so, or that makes the tensor of this name."""
        return self._named.get(name) or self._makers.get(name)

    def _fold(self, node: Node) -> bool:
        """Whether a node is computed from stored tensors alone; note what it is the weight of."""
        present = [name for name in node.inputs if name]
        if not present or not all(name in self._parameters for name in present):
            return False
        found = [scope for name in present if (scope := self._parameters[name]) is not None]
        keeps = node.operator in FOLDED and found
        self._parameters.update(dict.fromkeys(node.outputs, common(found) if keeps else None))
        return True

    def _own(self, node: Node) -> Scope | None:
        """Return the module of the parameters that a node reads; None where it reads none."""
        found = [scope for name in node.inputs if (scope := self._parameters.get(name)) is not None]
        return common(found) if found else None

    def _find_scopes(self) -> dict[str, Scope]:
        """Return the scope of each node, by its first output."""
        known: dict[str, Scope] = {}
        for node in self._nodes:
            own = self._own(node)
            if own is None and node.operator in PRODUCTS:
                own = self._of_bias(node)
            if own is None and node.operator in ACTIVATIONS:
                own = known.get(node.inputs[0])
            if own is not None:
                known[node.outputs[0]] = own
        return known | dict(self._between(known))

    def _of_bias(self, product: Node) -> Scope | None:
        """Return the module of the bias that the only reader of a product adds."""
        readers = self._readers[product.outputs[0]]
        if len(readers) != 1 or readers[0].operator != "Add":
            return None
        return self._own(readers[0])

    def _between(self, known: dict[str, Scope]) -> Iterator[tuple[str, Scope]]:
        """Yield what the modules around each of the other nodes have in common."""
        placed = [known.get(node.outputs[0]) for node in self._nodes]
        behind: list[Scope | None] = []
        following: Scope | None = None
        for scope in reversed(placed):
            behind.append(following)
            following = following if scope is None else scope
        before: Scope | None = None
        for node, scope, after in zip(self._nodes, placed, reversed(behind), strict=True):
            if scope is None:
                around = [one for one in (before, after) if one is not None]
                yield node.outputs[0], common(around)
            else:
                before = scope

    def _back_to_product(self, node: Node) -> Iterator[Node]:
        """Yield a node, and those before it up to the product that it may be fused with."""
        steps = [node]
        while steps[-1].operator not in PRODUCTS and len(steps) < FUSED_STEPS:
            makers = [self._makers[name] for name in steps[-1].inputs if name in self._makers]
            if len(makers) != 1:
                break
            steps.append(makers[0])
        yield node
        if steps[-1].operator in PRODUCTS:
            yield from steps[1:]


def _module(parameter: str) -> Scope | None:
    """Return the modules of a parameter's name; None for names that are none of a parameter.

    A number stays with the name before it: "blocks.5.attn.qkv.weight" is of blocks.5, attn, qkv.
    """
    if parameter.startswith(RENAMED) or "." not in parameter:
        return None
    found: list[str] = []
    for part in parameter.split(".")[:-1]:
        if part.isdigit() and found:
            found[-1] = f"{found[-1]}.{part}"
        else:
            found.append(part)
    return tuple(found)
