"""Large feature maps computed in strips of rows: the same numbers, in a fraction of the memory.

The first maps of an image are the largest: 96 channels at half of 1024 x 1024 pixels take 100 MB.
A strip of a later map depends only on some rows of the earlier ones, so a chain of layers can run
strip by strip, and no large map is ever whole; then it stays in the processor's caches, too.
Rows at the seams that two strips need are computed twice. MCUNetV2 (Lin et al., arXiv 2110.15352,
section 3.1) calls it patch-based inference; here it is an edit of a finished FP32 graph.

A *region* is a set of nodes that compute rows from rows: convolutions, linear layers, element by
element operators, enlargements. It grows from a node with a large output over nodes that read
large values, as long as none of them depends on what is computed behind the region.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from samclip.export.graph_files import GraphFiles
from samclip.export.options import CPU_LOWERINGS
from samclip.export.precision.graph_edits import add_initializer, name_nodes

LARGE = 16 * 2**20  # bytes of a value that is not to be whole
STRIP = 6 * 2**20  # bytes of the largest value of a strip, about
MAX_STRIPS = 16
MAX_EXTRA = 0.1  # the share of rows, weighed by their bytes, that may be computed twice
UNARY = frozenset(
    ("Clip", "Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Erf", "Gelu")
)
BINARY = frozenset(("Add", "Sub", "Mul", "Div"))
OF_STRIP = re.compile(r"(.+)_strip(\d+)")  # the name of a node, and the number of its strip

Rows = tuple[int, int]  # from the first to behind the last
Spans = Mapping[ir.Value, Rows]


def in_strips(files: GraphFiles) -> GraphFiles:
    """Return a graph whose FP32 variants for CPUs compute their large maps in strips."""
    chosen = [
        variant
        for variant in files.graph.variants
        if variant.precision == "fp32" and variant.attention in CPU_LOWERINGS
    ]
    if not chosen:  # as of the text encoder, whose weights need not be read for this
        return files
    opened = files.models(None)
    found = sum(compute_in_strips(opened[variant.file]) for variant in chosen)
    if not found:
        return files
    return files.with_models({variant: opened[variant.file] for variant in files.graph.variants})


def compute_in_strips(model: ir.Model) -> int:
    """Compute the regions of a graph in strips, in place; return how many there were."""
    graph = model.graph
    name_nodes(model)
    found = 0
    for seed in list(graph):
        if seed.graph is None or not _is_large(seed.outputs[0]) or _axis(seed) is None:
            continue
        region = _grow(graph, seed)
        count = region.strips()
        if count > 1:
            region.replace(count)
            graph.sort()
            found += 1
    return found


def compute_whole(model: ir.Model) -> None:
    """Take the strips out of a graph, in place: the inverse of `compute_in_strips`.

    The nodes of each first strip compute all rows again; the shapes of their values are left out.
    """
    graph = model.graph
    parts: dict[str, dict[int, ir.Node]] = {}
    for node in graph:
        if found := OF_STRIP.fullmatch(node.name or ""):
            parts.setdefault(found[1], {})[int(found[2])] = node
    strips = {node for each in parts.values() for node in each.values()}
    for node in list(graph):
        pieces = [value.producer() for value in node.inputs if value is not None]
        if node.op_type == "Concat" and strips.issuperset(pieces):
            joined, whole = node.outputs[0], _data(node)
            joined.replace_all_uses_with(whole, replace_graph_outputs=True)
            whole.name = joined.name
    for each in parts.values():
        first, last = each[0], each[max(each)]
        for number, value in enumerate(first.inputs):
            first.replace_input_with(number, _uncut(value, strips))
        if first.op_type == "Conv":
            top, left, _, right = _Convolution.of(first).pads
            pads = [top, left, _Convolution.of(last).pads[2], right]
            first.attributes["pads"] = ir.AttrInt64s("pads", pads)
        for value in first.outputs:
            value.shape = None
    for node in list(graph):
        if node not in strips:
            for number, value in enumerate(node.inputs):
                node.replace_input_with(number, _uncut(value, strips))
    RemoveUnusedNodesPass()(model)


def _uncut(value: ir.Value | None, strips: Container[ir.Node | None]) -> ir.Value | None:
    """Return the value of which a strip took some rows."""
    while (
        value is not None
        and (node := value.producer()) is not None
        and node.op_type == "Slice"
        and node in strips
    ):
        value = node.inputs[0]
    return value


@dataclass(frozen=True)
class Region:
    """Nodes in the graph's order, and the axis of rows of each value that they compute or read."""

    graph: ir.Graph
    nodes: Sequence[ir.Node]
    axes: Mapping[ir.Value, int]

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        """The values that the rest of the graph reads."""
        inside = set(self.nodes)
        return tuple(
            value
            for node in self.nodes
            for value in node.outputs
            if value.is_graph_output() or any(user not in inside for user in value.consumers())
        )

    def strips(self) -> int:
        """Return the number of strips that pays, 1 for none."""
        outputs = set(self.outputs)
        inner = [_bytes(v) for n in self.nodes for v in n.outputs if v not in outputs]
        largest = max(inner, default=0)
        rows = min(self.height(value) for value in outputs)
        if largest < LARGE or largest < 2 * max(map(_bytes, outputs)):
            return 1
        count = min(MAX_STRIPS, rows, math.ceil(largest / STRIP))
        while count > 1 and self._extra(count) > MAX_EXTRA:
            count -= 1
        return count

    def _extra(self, count: int) -> float:
        """Return the share of rows that `count` strips compute twice, weighed by their bytes."""
        made = [value for node in self.nodes for value in node.outputs]
        computed = sum(
            _bytes(v) * (spans[v][1] - spans[v][0]) / self.height(v)
            for spans in map(self._spans, self._targets(count))
            for v in made
        )
        return computed / sum(map(_bytes, made)) - 1

    def height(self, value: ir.Value) -> int:
        """Return the number of rows of a whole value."""
        return _shape(value)[self.axes[value]]

    def _targets(self, count: int) -> Iterator[dict[ir.Value, Rows]]:
        """Yield the rows of the outputs in each strip."""
        for strip in range(count):
            yield {
                value: (height * strip // count, height * (strip + 1) // count)
                for value in self.outputs
                for height in [self.height(value)]
            }

    def _spans(self, targets: Spans) -> Spans:
        """Return the rows of every value, computed or read, that these rows of outputs need."""
        spans: dict[ir.Value, Rows] = dict(targets)
        for node in reversed(self.nodes):
            rows = _union(spans[value] for value in node.outputs if value in spans)
            for value in node.outputs:
                spans[value] = rows
            for value in self._read(node):
                needed = self.needed(node, value, rows)
                spans[value] = _union([needed, spans[value]] if value in spans else [needed])
        return spans

    def _read(self, node: ir.Node) -> Iterator[ir.Value]:
        """Yield the inputs of a node that have rows, each once."""
        yield from dict.fromkeys(v for v in node.inputs if v is not None and v in self.axes)

    def needed(self, node: ir.Node, value: ir.Value, rows: Rows) -> Rows:
        """Return the rows of an input that exist, for these rows of the node's outputs."""
        first, stop = rows
        if node.op_type == "Conv":
            conv = _Convolution.of(node)
            first = first * conv.stride - conv.top
            stop = (stop - 1) * conv.stride - conv.top + conv.size
        elif node.op_type == "Resize":
            scale = _scale(node)
            first = math.floor((first + 0.5) / scale - 0.5)
            stop = math.floor((stop - 0.5) / scale - 0.5) + 2
        return max(first, 0), min(stop, self.height(value))

    def replace(self, count: int) -> None:
        """Put nodes that compute the outputs in `count` strips in the place of the region's."""
        outputs = self.outputs
        parts: dict[ir.Value, list[ir.Value]] = {value: [] for value in outputs}
        nodes: list[ir.Node] = []
        for number, targets in enumerate(self._targets(count)):
            strip = _Strip(self, self._spans(targets), f"strip{number}", nodes)
            for node in self.nodes:
                strip.add(node)
            for value in outputs:
                parts[value].append(strip.rows(value, targets[value], "out"))
        for value, pieces in parts.items():
            joined = ir.node(
                "Concat", pieces, {"axis": self.axes[value]}, name=f"{value.name}_rows"
            )
            _describe(joined.outputs[0], value, self.axes[value], self.height(value))
            nodes.append(joined)
        whole = [node.outputs[0] for node in nodes[-len(outputs) :]]
        ir.convenience.replace_nodes_and_values(
            self.graph, self.nodes[-1], self.nodes, nodes, outputs, whole
        )


class _Strip:
    """The nodes of one strip: `spans` are the rows of every value in it."""

    def __init__(self, region: Region, spans: Spans, name: str, nodes: list[ir.Node]) -> None:
        self._region, self._spans, self._name, self._nodes = region, spans, name, nodes
        self._made: dict[ir.Value, ir.Value] = {}

    def add(self, node: ir.Node) -> None:
        """Add what computes the strip's rows of a node's outputs."""
        rows = self._spans[node.outputs[0]]
        inputs = [
            self.rows(value, self._region.needed(node, value, rows), node.name or "")
            if value is not None and value in self._region.axes
            else value
            for value in node.inputs
        ]
        attributes = dict(node.attributes)
        if node.op_type == "Conv":
            conv = _Convolution.of(node)
            height = self._region.height(_data(node))
            top = max(0, conv.top - rows[0] * conv.stride)
            bottom = max(0, (rows[1] - 1) * conv.stride - conv.top + conv.size - height)
            pads = [top, conv.pads[1], bottom, conv.pads[3]]
            attributes["pads"] = ir.AttrInt64s("pads", pads)
        made = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes.values(),
            name=f"{node.name}_{self._name}",
            num_outputs=len(node.outputs),
        )
        self._nodes.append(made)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            self._made[old] = new
            _describe(new, old, self._region.axes[old], rows[1] - rows[0])
        if node.op_type == "Resize":
            self._crop(node, rows)

    def _crop(self, node: ir.Node, rows: Rows) -> None:
        """Leave out the rows of an enlargement that its neighbours compute."""
        old, scale = node.outputs[0], _scale(node)
        first, stop = self._region.needed(node, _data(node), rows)
        made = self._made[old]
        _describe(made, old, self._region.axes[old], (stop - first) * scale)
        has = (first * scale, stop * scale)
        self._made[old] = self._slice(made, old, has, rows, f"{node.name}_crop")

    def rows(self, value: ir.Value, rows: Rows, reader: str) -> ir.Value:
        """Return these rows of a value, for one of its readers."""
        if value in self._made:
            return self._slice(self._made[value], value, self._spans[value], rows, reader)
        whole = (0, self._region.height(value))
        return self._slice(value, value, whole, rows, reader)

    def _slice(
        self, source: ir.Value, value: ir.Value, has: Rows, wanted: Rows, reader: str
    ) -> ir.Value:
        if has == wanted:
            return source
        axis = self._region.axes[value]
        name = f"{value.name}_{reader}_{self._name}"
        bounds = [
            _constant(self._region.graph, number)
            for number in (wanted[0] - has[0], wanted[1] - has[0], axis)
        ]
        node = ir.node("Slice", [source, *bounds], name=name)
        _describe(node.outputs[0], value, axis, wanted[1] - wanted[0])
        self._nodes.append(node)
        return node.outputs[0]


@dataclass(frozen=True)
class _Convolution:
    """What a convolution does to rows."""

    size: int
    stride: int
    pads: Sequence[int]  # top, left, bottom, right

    @property
    def top(self) -> int:
        return self.pads[0]

    @classmethod
    def of(cls, node: ir.Node) -> _Convolution:
        weight = node.inputs[1]
        return cls(
            _shape(weight)[2],
            node.attributes.get_ints("strides", [1, 1])[0],
            node.attributes.get_ints("pads", [0, 0, 0, 0]),
        )


def _grow(graph: ir.Graph, seed: ir.Node) -> Region:
    """Return the region that begins at a node."""
    axis = _axis(seed) or 0
    axes: dict[ir.Value, int] = dict.fromkeys((_data(seed), *seed.outputs), axis)
    nodes, behind = {seed}, set[ir.Value]()
    started = False
    for node in graph:
        if node is seed:
            started = True
            continue
        read = [value for value in node.inputs if value is not None]
        inside = [value for value in read if value.producer() in nodes]
        if not started or not (inside or behind.intersection(read)):
            continue
        if behind.intersection(read) or not _joins(node, inside, axes):
            behind.update(node.outputs)
            continue
        nodes.add(node)
        rows = axes[inside[0]]
        axes.update((value, rows) for value in node.outputs)
        axes.update((v, rows) for v in read if _has_rows(v, node.outputs[0], node))
    for node in reversed(list(graph)):  # what makes large values for the region alone
        out = node.outputs[0]
        if node in nodes or out not in axes or not _is_large(out) or out.is_graph_output():
            continue
        if all(user in nodes for user in out.consumers()) and _works_on(node, axes[out]):
            nodes.add(node)
            axes.update(
                (v, axes[out]) for v in node.inputs if v is not None and _has_rows(v, out, node)
            )
    return Region(graph, [node for node in graph if node in nodes], axes)


def _joins(node: ir.Node, inside: Sequence[ir.Value], axes: Mapping[ir.Value, int]) -> bool:
    """Whether a node that reads values of a region is to be computed with it."""
    axis = axes[inside[0]]
    if any(axes[value] != axis for value in inside) or not _works_on(node, axis):
        return False
    heights = {_shape(value)[axis] for value in inside}
    if len(heights) > 1:
        return False
    large = any(map(_is_large, (*inside, *node.outputs)))
    alone = all(value in inside or _is_constant(value) for value in node.inputs if value)
    return large or (alone and node.op_type in UNARY | BINARY and len(inside[0].consumers()) == 1)


def _works_on(node: ir.Node, axis: int) -> bool:
    """Whether a node computes rows along an axis from rows along the same axis."""
    if node.domain or not all(map(_is_static, node.outputs)):
        return False
    if node.op_type in UNARY:
        return True
    if node.op_type in BINARY:
        rows = _shape(node.outputs[0])[axis]
        heights = [_height_of_operand(value, node.outputs[0], axis) for value in node.inputs]
        return all(
            height == 1 or (height == rows and not _is_constant(value))
            for height, value in zip(heights, node.inputs, strict=True)
        )
    if node.op_type == "Split":
        return node.attributes.get_int("axis", 0) != axis and _is_constant(node.inputs[-1])
    if node.op_type == "Resize":
        return axis == 2 and _is_enlargement(node)
    return _axis(node) == axis


def _axis(node: ir.Node) -> int | None:
    """Return the axis of rows of a convolution or a linear layer; None for other nodes."""
    if node.domain or not all(map(_is_static, (node.inputs[0], node.outputs[0]))):
        return None
    rank = len(_shape(node.outputs[0]))
    if node.op_type == "Conv" and rank == 4 and _is_constant(node.inputs[1]):
        plain = all(d == 1 for d in node.attributes.get_ints("dilations", [1]))
        return 2 if plain and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET" else None
    if node.op_type == "MatMul" and rank > 2 and len(_shape(node.inputs[1])) == 2:
        return 1 if _is_constant(node.inputs[1]) else None
    return None


def _is_enlargement(node: ir.Node) -> bool:
    """Whether a Resize is bilinear, by a whole factor, with pixels as areas."""
    mode = node.attributes.get_string("mode", "nearest")
    places = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    before, after = _shape(node.inputs[0]), _shape(node.outputs[0])
    whole = all(b and a % b == 0 for a, b in zip(after, before, strict=True))
    return mode == "linear" and places in {"half_pixel", "pytorch_half_pixel"} and whole


def _scale(node: ir.Node) -> int:
    return _shape(node.outputs[0])[2] // _shape(node.inputs[0])[2]


def _has_rows(value: ir.Value, output: ir.Value, node: ir.Node) -> bool:
    """Whether each row of a node's output reads another row of this input."""
    if _is_constant(value):
        return False
    if node.op_type in BINARY:
        return _is_static(value) and _shape(value) == _shape(output)
    return value is node.inputs[0]


def _aligned(value: ir.Value, output: ir.Value) -> tuple[int, ...]:
    """Return the shape of an operand with as many axes as the output has."""
    shape = _shape(value)
    return (1,) * (len(_shape(output)) - len(shape)) + shape


def _height_of_operand(value: ir.Value | None, output: ir.Value, axis: int) -> int | None:
    """Return an operand's size along an axis of the output; None if it is not known."""
    return _aligned(value, output)[axis] if value is not None and _is_static(value) else None


def _data(node: ir.Node) -> ir.Value:
    """Return the first input of a node, which has one."""
    value = node.inputs[0]
    if value is None:
        raise ValueError(f"the node {node.name} has no input")
    return value


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a value is an initializer, or computed from nothing else."""
    if value is None or value.is_initializer():
        return value is not None
    producer = value.producer()
    return producer is not None and all(map(_is_constant, filter(None, producer.inputs)))


def _is_static(value: ir.Value | None) -> bool:
    return (
        value is not None
        and value.shape is not None
        and all(isinstance(size, int) for size in value.shape)
    )


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None:
        raise ValueError("a value without a shape")
    return tuple(size for size in value.shape if isinstance(size, int))


def _bytes(value: ir.Value) -> int:
    dtype = value.dtype
    return math.prod(_shape(value)) * (4 if dtype is None else int(dtype.itemsize))


def _is_large(value: ir.Value) -> bool:
    return _is_static(value) and _bytes(value) >= LARGE


def _union(rows: Iterable[Rows]) -> Rows:
    first, stop = zip(*rows, strict=True)
    return min(first), max(stop)


def _describe(value: ir.Value, like: ir.Value, axis: int, rows: int) -> None:
    """State type and shape of a strip of a value."""
    shape = list(_shape(like))
    shape[axis] = rows
    value.shape = ir.Shape(shape)
    if like.dtype is not None:
        value.dtype = like.dtype


def _constant(graph: ir.Graph, number: int) -> ir.Value:
    """Return the int64 vector of one number, the same for all who ask."""
    name = f"strip_bound_{number}"
    found = graph.initializers.get(name)
    return found or add_initializer(graph, name, np.array([number], np.int64))
