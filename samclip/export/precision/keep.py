"""The rules by which nodes stay FP32 in half-precision variants: the defaults and `--keep-fp32`.

By default the residual sums stay FP32, whose terms of very different size half precision would
round away; LayerNormalization and Softmax; lengths of vectors, whose squares overflow; the
normalisation of uint8 pixels, because FP16 and BF16 round numbers up to 255 more coarsely than
those around 0 that come out of it; and the whole mask decoder, which is small and decides on
contours. So does the aggregation of tokens, which compares their cosines with a mean; and the
classifier of regions, which is smaller still; and, in CLIP's opinion on regions, everything that
locates them: RoIAlign, comparisons of corners, masks averaged at the centres of cells. In FP16
corners would be up to half a pixel off at 1024 px, and a box could change its level of the pyramid.

Rules are one of three reasons for FP32; `fp32_nodes` has them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from samclip.errors import ExportError, did_you_mean
from samclip.export.precision.graph_edits import ancestors, name_nodes
from samclip.runtime.bundles.manifest import Graphs

GRAPHS = Graphs.__struct_fields__
ANY = "*"
RESIDUAL = "residual"  # not an operator: the sums x + f(x) that `residual_sums` finds
PIXELS = "pixels"  # neither: the normalisation of a uint8 input, which `pixel_nodes` finds
NORMALISING = frozenset({"Cast", "Transpose", "Sub", "Div"})
SHAPING = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


@dataclass(frozen=True)
class KeepRule:
    """Keeps the nodes whose operator or name matches `node`, in the graphs that match `graph`.

    Both are patterns with `*` and `?`, and case-sensitive; `node` may also be `residual` or
    `pixels`.
    """

    graph: str
    node: str

    def __str__(self) -> str:
        """Write the rule as `--keep-fp32` takes it."""
        return f"{self.graph}:{self.node}"


@dataclass(frozen=True)
class KeepList:
    """Rules for nodes that stay FP32; `|` joins two lists."""

    rules: tuple[KeepRule, ...] = ()

    def __or__(self, other: KeepList) -> KeepList:
        """Return the rules of both lists."""
        return KeepList(tuple(dict.fromkeys((*self.rules, *other.rules))))

    def of(self, graph_name: str) -> KeepList:
        """Return the rules that concern a graph."""
        return KeepList(tuple(rule for rule in self.rules if fnmatchcase(graph_name, rule.graph)))

    def keeps_all(self, graph_name: str) -> bool:
        """Whether all of a graph stays FP32, which leaves nothing to convert."""
        return any(rule.node == ANY for rule in self.of(graph_name).rules)

    def nodes(self, graph_name: str, model: ir.Model) -> frozenset[str]:
        """Return the names of the nodes to keep; nodes without a name get one, in place."""
        name_nodes(model)
        rules = self.of(graph_name).rules
        return frozenset(name for rule in rules for name in _matching(rule, model.graph))

    def unmatched(self, models: Mapping[str, Sequence[ir.Model]]) -> tuple[KeepRule, ...]:
        """List the rules that match no node of any graph, most likely because they are misspelt.

        `models` holds the variants of each graph by the graph's name.
        """
        return tuple(
            rule
            for rule in self.rules
            if not any(
                KeepList((rule,)).nodes(name, model)
                for name, variants in models.items()
                for model in variants
            )
        )


DEFAULT_KEEP = KeepList(
    (
        KeepRule(ANY, RESIDUAL),
        KeepRule(ANY, PIXELS),
        KeepRule(ANY, "LayerNormalization"),
        KeepRule(ANY, "Softmax"),
        KeepRule(ANY, "ReduceL2"),
        KeepRule("mask_decoder", ANY),
        KeepRule("image_keys", ANY),
        KeepRule("point_decoder", ANY),
        KeepRule("mask_upscaler", ANY),
        KeepRule("token_aggregation", ANY),
        KeepRule("roi_classifier", ANY),
        KeepRule("clip_roi", "RoiAlign"),
        KeepRule("clip_roi", "Greater"),
        KeepRule("clip_roi", "AveragePool"),
    )
)


def parse_keep(texts: Iterable[str]) -> KeepList:
    """Read `--keep-fp32` options: GRAPH, or GRAPH:PATTERN for operators and names of nodes.

    GRAPH is one of `GRAPHS` or a pattern, e.g. `*:Softmax`. Raises ExportError for anything else.
    """
    return KeepList(tuple(_parse(text) for text in texts))


def _parse(text: str) -> KeepRule:
    graph, colon, node = (part.strip() for part in text.partition(":"))
    if any(fnmatchcase(name, graph) for name in GRAPHS) and (node or not colon):
        return KeepRule(graph, node or ANY)
    raise ExportError(
        f"--keep-fp32 {text!r} names no graph and nodes{did_you_mean(graph, GRAPHS)}. Give a graph "
        f"({', '.join(GRAPHS)} or *), or GRAPH:NODES, e.g. encoder:Softmax, encoder:node_conv2d*, "
        f"*:{RESIDUAL}."
    )


def _matching(rule: KeepRule, graph: ir.Graph) -> Iterator[str]:
    if rule.node in FOUND:
        yield from (str(node.name) for node in FOUND[rule.node](graph))
        return
    for node in graph:
        if fnmatchcase(node.op_type, rule.node) or fnmatchcase(str(node.name), rule.node):
            yield str(node.name)


def pixel_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Find the nodes that cast a uint8 input to floats and normalise it."""
    found: set[ir.Node] = set()
    for node in graph:
        first = node.inputs[0] if node.inputs else None
        if first is None or node.op_type not in NORMALISING:
            continue
        is_pixels = first.is_graph_input() and first.dtype == ir.DataType.UINT8
        if is_pixels or first.producer() in found:
            found.add(node)
    return found


def residual_sums(graph: ir.Graph) -> set[ir.Node]:
    """Find the sums x + f(x): Adds of two activations, one of which the other is computed from."""
    return {node for node in graph if node.op_type == "Add" and _is_residual(node)}


def _is_residual(node: ir.Node) -> bool:
    first, second = node.inputs
    if first is None or second is None or _broadcasts(first, second):
        return False  # a mask, say, which earlier layers used as well
    terms = (_before_shaping(first), _before_shaping(second))
    if any(term.producer() is None and not term.is_graph_input() for term in terms):
        return False  # a bias or a table of positions
    return terms[0] in set(ancestors(terms[1])) or terms[1] in set(ancestors(terms[0]))


def _broadcasts(first: ir.Value, second: ir.Value) -> bool:
    """Whether two values differ in rank, or one is repeated along an axis of the other."""
    if first.shape is None or second.shape is None:
        return False
    if first.shape.rank() != second.shape.rank():
        return True
    return any((a == 1) != (b == 1) for a, b in zip(first.shape, second.shape, strict=True))


def _before_shaping(value: ir.Value) -> ir.Value:
    """Go back over operators that change the shape alone."""
    node = value.producer()
    while node is not None and node.op_type in SHAPING and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


FOUND: Mapping[str, Callable[[ir.Graph], set[ir.Node]]] = {
    RESIDUAL: residual_sums,
    PIXELS: pixel_nodes,
}
