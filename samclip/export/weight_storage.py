"""Large weights stored rounded, as FP16 or INT8, and expanded to FP32 inside the graph.

This is storage, apart from precision: the graph computes in FP32, with FP16 by `Cast`, with INT8
by `Cast` and a `Mul` with a scale. Backends fold both when they load a graph, so a run takes no
longer. Rows that are looked up in a table are expanded behind the `Gather`, which leaves the
table small in memory too.

INT8 is symmetric, with one FP32 scale per output channel: w ~ q * s with s = max |w| / 127 and q in
[-127, 127] (Krishnamoorthi, 2018, sections 2.2 and 3.1.1). It is for the largest factors of
products, the largest tables and constant tokens, whose channels can be identified. The rest is stored as FP16: small
weights cost as much accuracy in INT8 as large ones, and save less.
Vectors (norms, biases) and small tensors stay as they are. So does what a sine or a cosine is
computed from, such as the cells of SAM's grid and their phases: a phase of 20 would be rounded by
0.008, and the sine with it. TensorRT takes INT8 constants only in
front of a DequantizeLinear, which ONNX Runtime would not fold. Building a plan expands them first
(`samclip.engines.plans.network`); ONNX Runtime's TensorRT provider cannot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles
from samclip.export.options import EXPORT_BACKENDS
from samclip.export.precision.graph_edits import add_initializer, ancestors
from samclip.runtime.bundles.manifest import WeightsDtype
from samclip.runtime.bundles.weights import parse_weights

Array = NDArray[np.generic]
Axes = tuple[int, ...]

MIN_ROUNDED_BYTES = 8192  # smaller ones save little, and SAM's frequencies (2x128) stay exact
MIN_INT8_ELEMENTS = 2**17  # MobileSAM's early convolutions are smaller, and suffer most from INT8
REFUSING_INT8 = tuple(b.name for b in EXPORT_BACKENDS if not b.traits.int8_weights)
LARGEST_INT8 = 127  # -128 is left out: the range is symmetric
BOUNDED = frozenset({"Sigmoid", "Softmax", "Tanh"})
LARGEST_HALF = float(np.finfo(np.float16).max)


def stored_space(space: str, dtype: WeightsDtype) -> str:
    """Return the name of a stored tower's text space, given the name of the original's.

    Rounded weights move embeddings a little, so that caches must keep the two apart.
    """
    return space if dtype == "fp32" else hashlib.sha256(f"{space} {dtype}".encode()).hexdigest()


@dataclass(frozen=True)
class Rounded:
    """A weight as it is stored: `values` float16, or int8 with a `scale` that broadcasts to it."""

    values: Array
    scale: NDArray[np.float32] | None = None


def store_weights(files: GraphFiles, dtype: WeightsDtype) -> GraphFiles:
    """Return the graph with its large weights stored as `dtype`, in all its variants.

    Raises ExportError when a weight cannot be rounded.
    """
    location = files.graph.variants[0].weights
    if dtype == "fp32" or location is None:
        return files
    models = files.models(None)
    summed = _summed_axes(models.values()) if dtype == "int8" else {}
    phases = frozenset().union(*map(_phases, models.values()))
    rounded = {
        name: round_weight(name, weight, summed.get(name))
        for name, weight in parse_weights(files.files[location]).items()
        if _is_large(weight) and name not in phases
    }
    for model in models.values():
        for name in rounded.keys() & set(model.graph.initializers):
            _expand(model.graph, model.graph.initializers[name], rounded[name])
    refusing = REFUSING_INT8 if dtype == "int8" else ()
    return files.with_models(
        {
            replace(
                variant,
                weights_dtype=dtype,
                backends=tuple(name for name in variant.backends if name not in refusing),
            ): models[variant.file]
            for variant in files.graph.variants
        }
    )


def round_weight(name: str, weight: Array, summed: Axes | None) -> Rounded:
    """Round a float32 weight to INT8 with a scale shared along the axes `summed`.

    It becomes FP16 without them, and when it is not large enough for INT8 to pay. Raises
    ExportError for values that are not finite or, for FP16, beyond its range.
    """
    exact = np.asarray(weight, np.float32)
    largest = float(np.abs(exact).max())
    if weight.size < MIN_INT8_ELEMENTS:
        summed = None
    if not np.isfinite(largest) or (summed is None and largest > LARGEST_HALF):
        raise ExportError(
            f"the weight {name!r} reaches {largest:g} and cannot be stored rounded. "
            "Store this graph's weights as fp32."
        )
    if summed is None:
        return Rounded(exact.astype(np.float16))
    peak = np.abs(exact).max(axis=summed, keepdims=True)
    scale = np.where(peak > 0, peak / LARGEST_INT8, 1).astype(np.float32)
    return Rounded(np.rint(exact / scale).astype(np.int8), scale)


def _is_large(weight: Array) -> bool:
    """Whether a weight is a matrix, kernel or table in FP32 that is worth rounding."""
    sides = sum(side > 1 for side in weight.shape)
    return weight.dtype == np.float32 and weight.nbytes >= MIN_ROUNDED_BYTES and sides > 1


def _phases(model: ir.Model) -> frozenset[str]:
    """Return the names of the constants that arguments of sines and cosines are computed from.

    Not those behind a function with bounded values: rounding cannot turn its angle far.
    """
    waves = [node.outputs[0] for node in model.graph if node.op_type in {"Sin", "Cos"}]
    return frozenset(
        str(value.name) for value in ancestors(*waves, until=BOUNDED) if value.is_initializer()
    )


def _summed_axes(models: Iterable[ir.Model]) -> dict[str, Axes]:
    """Return, by weight, the axes that its products sum over; not for weights whose uses differ."""
    found: dict[str, set[Axes]] = {}
    for model in models:
        for name, value in model.graph.initializers.items():
            axes = (_axes_of_use(node, index, value) for node, index in value.uses())
            found.setdefault(name, set()).update(a for a in axes if a is not None)
    return {name: axes.pop() for name, axes in found.items() if len(axes) == 1}


def _axes_of_use(node: ir.Node, index: int, value: ir.Value) -> Axes | None:
    """Return the axes that one scale of a weight is shared along.

    Those that a node sums over; those of one row of a table; and, of tokens that are joined to
    computed ones, all but the channels'.
    """
    rank = 0 if value.shape is None else value.shape.rank()
    match node.op_type, index:
        case "MatMul", 1:
            return (rank - 2,)
        case "Gemm", 1:
            return (1,) if node.attributes.get_int("transB", 0) else (0,)
        case "ConvTranspose", 1:  # input channels first
            return (0, *range(2, rank))
        case "Concat", _ if rank > 1 and node.attributes.get_int("axis", 0) % rank != rank - 1:
            return tuple(range(rank - 1))
        case ("Conv", 1) | ("Gather", 0) if _is_lookup(node) or index:
            return tuple(range(1, rank))
    return None


def _is_lookup(node: ir.Node) -> bool:
    return node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0


def _expand(graph: ir.Graph, value: ir.Value, rounded: Rounded) -> None:
    """Replace `value` by a rounded weight and the nodes that turn it into FP32."""
    name = str(value.name)
    uses = tuple(value.uses())
    del graph.initializers[name]
    stored = add_initializer(graph, name, rounded.values)
    scale = (
        None if rounded.scale is None else add_initializer(graph, f"{name}_scale", rounded.scale)
    )
    if all(index == 0 and _is_lookup(node) for node, index in uses):
        for node, _ in uses:
            _expand_rows(graph, node, stored, scale)
        return
    nodes = _to_float(stored, scale)
    graph.insert_before(graph[0], nodes)
    value.replace_all_uses_with(nodes[-1].outputs[0])


def _expand_rows(graph: ir.Graph, node: ir.Node, stored: ir.Value, scale: ir.Value | None) -> None:
    """Look up rounded rows and their scales, if there are any; expand only those."""
    rows = node.inputs[1]
    lookups = [ir.node("Gather", [table, rows]) for table in (stored, scale) if table is not None]
    looked_up = [lookup.outputs[0] for lookup in lookups]
    nodes = _to_float(looked_up[0], looked_up[1] if scale is not None else None)
    old, new = node.outputs[0], nodes[-1].outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*lookups, *nodes], [old], [new])


def _to_float(stored: ir.Value, scale: ir.Value | None) -> list[ir.Node]:
    nodes = [ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})]
    if scale is not None:
        nodes.append(ir.node("Mul", [nodes[0].outputs[0], scale]))
    return nodes
