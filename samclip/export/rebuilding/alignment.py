"""Two graphs of one architecture, walked side by side to find which constants correspond.

The template is exported here and now, from a model of known weights; the other graph comes from a
bundle, which an older version may have written. So what holds no weights is passed over on both
sides: nodes that only move values, and products with plain numbers. All other nodes on the way of
floating-point values must be the same; a bundle of another architecture, or one that somebody
else's exporter wrote, is noticed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from samclip.errors import CheckpointError
from samclip.export.rebuilding.stored_graphs import Array, constant_of

MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Expand", "Flatten"})
NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0}
IsWeight = Callable[[Array], bool]


@dataclass(frozen=True)
class ConstantPair:
    """The same constant in both graphs; `name` is the template's, for messages."""

    name: str
    template: Array
    given: Array


def align(template: ir.Graph, given: ir.Graph, is_weight: IsWeight) -> Iterator[ConstantPair]:
    """Yield the floating-point constants of the template, each with that of the other graph.

    `is_weight` recognises the template's weights. An exporter leaves out products with 1 and sums
    with 0: where the other graph lacks one that the template has, its weight is that number. Raises
    CheckpointError where the graphs differ.
    """
    outputs = [[value.name for value in graph.outputs] for graph in (template, given)]
    if outputs[0] != outputs[1]:
        raise _differs("outputs", *outputs)
    pending = list(zip(template.outputs, given.outputs, strict=True))
    seen: set[tuple[ir.Value, ir.Value]] = set()
    while pending:
        ours, theirs = (_unmoved(value) for value in pending.pop())
        if (ours, theirs) in seen or not _is_float(ours):
            continue  # indices, lengths and conditions hold no weights
        seen.add((ours, theirs))
        constant, other = moved_constant(ours), moved_constant(theirs)
        node, twin = ours.producer(), theirs.producer()
        if constant is not None and other is not None:
            yield ConstantPair(str(ours.name), constant, other)
        elif node is not None and twin is not None and _are_same(node, twin):
            inputs = zip(node.inputs, twin.inputs, strict=True)
            pending += [(a, b) for a, b in inputs if a is not None and b is not None]
        elif (scaled := _with_constant(twin, lambda array: array.size == 1)) is not None:
            pending.append((ours, scaled[0]))
        elif (left_out := _with_constant(node, is_weight)) is not None:
            operand, weight, kind = left_out
            yield ConstantPair(str(ours.name), weight, np.full_like(weight, NEUTRAL[kind]))
            pending.append((operand, theirs))
        elif (scaled := _with_constant(node, lambda array: array.size == 1)) is not None:
            pending.append((scaled[0], theirs))
        elif node is not None or twin is not None or ours.name != theirs.name:
            raise _differs(f"node {ours.name}", _described(ours), _described(theirs))


def moved_constant(value: ir.Value) -> Array | None:
    """Return the value of a constant, also behind nodes that move its elements; None for others."""
    found = constant_of(value)
    node = value.producer()
    if found is not None or node is None or node.op_type not in MOVES or node.inputs[0] is None:
        return found
    moved = moved_constant(node.inputs[0])
    if moved is None:
        return None
    match node.op_type:
        case "Transpose":
            return np.transpose(moved, node.attributes["perm"].as_ints())
        case "Expand":
            return moved  # every element once
        case _:  # the same elements in the same order
            shape = None if value.shape is None else value.shape
            static = shape is not None and shape.is_static()
            return moved.reshape(shape.numpy()) if shape is not None and static else moved


def _unmoved(value: ir.Value) -> ir.Value:
    """Return the value before the nodes that only move it; a constant stays behind them."""
    while (
        (node := value.producer()) is not None
        and node.op_type in MOVES
        and node.inputs[0] is not None
        and moved_constant(value) is None
    ):
        value = node.inputs[0]
    return value


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()


def _are_same(node: ir.Node, twin: ir.Node) -> bool:
    """Whether two nodes compute the same, and take their constants at the same places."""
    return (
        (node.op_type, node.domain) == (twin.op_type, twin.domain)
        and _attributes(node) == _attributes(twin)
        and len(node.inputs) == len(twin.inputs)
        and all(
            (a is None) == (b is None)
            and (a is None or not _is_float(a) or _is_constant(a) == _is_constant(b))
            for a, b in zip(node.inputs, twin.inputs, strict=True)
        )
    )


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and moved_constant(value) is not None


def _attributes(node: ir.Node) -> dict[str, object]:
    """Return a node's attributes; its numbers as they are in a file, in float32.

    Of padding, only what is before the map counts: a stride may not reach all that is behind it,
    and maps that were computed in strips have no more of it than is read.
    """
    found: dict[str, object] = {
        name: float(np.float32(each.value)) if isinstance(each.value, float) else each.value
        for name, each in node.attributes.items()
    }
    if "pads" in found:
        pads = node.attributes.get_ints("pads", [])
        found["pads"] = tuple(pads[: len(pads) // 2])
    return found


def _with_constant(node: ir.Node | None, wanted: IsWeight) -> tuple[ir.Value, Array, str] | None:
    """Return the operand, the constant and the kind of a sum or product with a wanted constant."""
    if node is None or node.op_type not in NEUTRAL:
        return None
    for operand, other in (node.inputs, node.inputs[::-1]):
        constant = None if other is None else moved_constant(other)
        if operand is not None and constant is not None and wanted(constant):
            return operand, constant, node.op_type
    return None


def _described(value: ir.Value) -> str:
    node = value.producer()
    if node is None:
        return f"{value.name} {value.shape}"
    shapes = ", ".join("-" if each is None else str(each.shape) for each in node.inputs)
    return f"{node.op_type}({shapes})"


def _differs(what: str, ours: object, theirs: object) -> CheckpointError:
    return CheckpointError(f"at {what} the model has {ours}, and the bundle {theirs}")
