"""A bundle's graphs in FP32, each weight as the graph computes with it.

What a bundle stores as FP16 or INT8 is expanded by the nodes that `samclip.export.weight_storage`
wrote: `Cast`, with INT8 also a `Mul` by a scale, for tables behind a `Gather`. Here these nodes are
computed, in the same arithmetic, and replaced by their result. Large maps that are computed in
strips are computed whole, and an Einsum of an older version becomes the product that it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from samclip.errors import CheckpointError
from samclip.export.graph_files import internalise
from samclip.export.strips import compute_whole
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graph, Graphs, Variant
from samclip.runtime.graph_outputs import AGGREGATION, IMAGE_KEYS, POINT_DECODER, UPSCALER

Array = NDArray[np.generic]
MEAN = "blijh,bij->blh"  # a mean over places with weights, as versions before wrote it


@dataclass(frozen=True)
class StoredGraph:
    """One graph of a bundle: the FP32 variant that was read, and its model, weights expanded."""

    name: str
    variant: Variant
    model: ir.Model


def read_graphs(bundle: Bundle) -> list[StoredGraph]:
    """Read a variant of every graph that computes in FP32, its files verified and checked.

    Graphs without weights, or on another graph's, are left out. Raises CheckpointError where a
    graph has no such variant, and what `Bundle.variant_source` raises.
    """
    found = []
    for name in Graphs.__struct_fields__:
        graph: Graph | None = getattr(bundle.manifest.graphs, name)
        if graph is None or name in {AGGREGATION, UPSCALER, IMAGE_KEYS, POINT_DECODER}:
            continue
        found.append(read_graph(bundle, name, graph))
    return found


def read_graph(bundle: Bundle, name: str, graph: Graph) -> StoredGraph:
    """Read one graph of a bundle, for any shape of input, as `read_graphs` does; raises as it."""
    variant = next((v for v in graph.variants if v.precision == "fp32"), None)
    if variant is None:
        raise CheckpointError(
            f"{bundle.path} has no FP32 variant of its {name} to take weights from. Give a "
            "bundle that samclip-export wrote, or the checkpoint that it comes from."
        )
    source = bundle.variant_source(name, variant)
    model = internalise(source.onnx, dict(source.weights))
    expand_stored(model.graph)
    compute_whole(model)
    ShapeInferencePass()(model)  # they are not in the file
    _write_means_as_products(model.graph)
    return StoredGraph(name, variant, model)


def constant_of(value: ir.Value | None) -> Array | None:
    """Return the value of an initializer or of a `Constant` node; None for anything else."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def expand_stored(graph: ir.Graph) -> None:
    """Replace weights in FP16 and INT8, and the nodes that expand them, by weights in FP32."""
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT:
            _expand(graph, node)
    for node in reversed(list(graph)):  # those that are not read any more, the last one first
        if not any(each.uses() or each.is_graph_output() for each in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def _write_means_as_products(graph: ir.Graph) -> None:
    """Put the product in the place of means; what only moves its factors is left out."""
    for node in list(graph):
        equation = node.attributes.get_string("equation", "")
        if node.op_type == "Einsum" and equation == MEAN:
            features, weights = node.inputs
            product = ir.node("MatMul", [weights, features], name=node.name)
            ir.convenience.replace_nodes_and_values(
                graph, node, [node], [product], node.outputs, product.outputs
            )


def _expand(graph: ir.Graph, cast: ir.Node) -> None:
    """Compute one expansion; a cast of anything but a stored weight stays as it is."""
    lookup = cast.inputs[0].producer() if cast.inputs[0] is not None else None
    is_row = lookup is not None and lookup.op_type == "Gather"
    table = lookup.inputs[0] if lookup is not None and is_row else cast.inputs[0]
    stored = constant_of(table)
    if table is None or stored is None or stored.dtype not in (np.float16, np.int8):
        return
    weight = stored.astype(np.float32)
    end = cast
    if stored.dtype == np.int8:
        ((end, index),) = cast.outputs[0].uses()
        scale = end.inputs[1 - index]
        if is_row and scale is not None and (looked_up := scale.producer()) is not None:
            scale = looked_up.inputs[0]
        factor = constant_of(scale)
        if end.op_type != "Mul" or factor is None:
            return
        weight = weight * factor.astype(np.float32)
    name = f"{table.name}_expanded"
    if name not in graph.initializers:
        graph.register_initializer(
            ir.Value(
                name=name,
                shape=ir.Shape(weight.shape),
                type=ir.TensorType(ir.DataType.FLOAT),
                const_value=ir.tensor(weight, name=name),
            )
        )
    result = graph.initializers[name]
    if lookup is not None and is_row:
        rows = ir.node("Gather", [result, lookup.inputs[1]], {"axis": 0})
        graph.insert_before(end, rows)
        result = rows.outputs[0]
    end.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)
