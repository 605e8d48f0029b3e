"""ONNX graphs read with every shape known; only this module of the roofline needs onnx.

Nodes are read in order, each with the types of its inputs, and with the values of those that are
small and known before the graph runs: shapes, and what is computed from them. The rules are onnx's
shape inference and reference implementation. onnx does not know ONNX Runtime's operators: those
that exported graphs hold have rules here, see
https://github.com/microsoft/onnxruntime, docs/ContribOperators.md.

Of each stored tensor the learned numbers are counted, because exporters store some more than once:
SAM's tables of relative positions hold 2n - 1 rows and are looked up at n x n places, and torch's
exporter stores the result. The fold lowering stores one-hot places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.roofline.macs import Attribute, ShapedGraph, ShapedNode, TensorType
from samclip.errors import CapabilityError, CountError

AS_FIRST_INPUT = {
    "com.microsoft.Gelu",
    "com.microsoft.FastGelu",
    "com.microsoft.QuickGelu",
    "com.microsoft.BiasGelu",
    "com.microsoft.QuantizeLinear",
    "com.microsoft.DequantizeLinear",
}
KNOWN = (*sorted(AS_FIRST_INPUT), "com.microsoft.MultiHeadAttention")
RANK_OF_TABLES = 3  # n x n rows, or n x D x n
MAX_KNOWN = 4096  # elements of a tensor whose values are followed: shapes and lists of indices
BITS = {"bool": 8, "uint4": 4, "int4": 4, "float4e2m1": 4}  # where the name does not end in them
SHAPE_OPERATORS = {"Shape", "Size"}
Sizes = Mapping[str, int]
Weights = Mapping[str, NDArray[np.generic]]


def contrib_types(node: ShapedNode, tensors: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """Return the types of the outputs of one of these operators; raises CountError for others."""
    first = tensors[node.inputs[0]]
    if node.operator == "com.microsoft.MultiHeadAttention" and len(node.outputs) == 1:
        return {node.outputs[0]: _attention(node, tensors)}
    if node.operator == "com.microsoft.QuantizeLinear":
        zero = tensors[node.inputs[2]]
        return {node.outputs[0]: TensorType(first.shape, zero.dtype, zero.bits)}
    if node.operator == "com.microsoft.DequantizeLinear":
        scale = tensors[node.inputs[1]]
        return {node.outputs[0]: TensorType(first.shape, scale.dtype, scale.bits)}
    if node.operator in AS_FIRST_INPUT:
        return {node.outputs[0]: first}
    raise CountError(
        f"the operator {node.operator} ({node.name!r}) is not known, so its work cannot be "
        f"counted. Known besides ONNX's own are {', '.join(KNOWN)}; count the graph before it is "
        "optimised for one backend."
    )


def _attention(node: ShapedNode, tensors: Mapping[str, TensorType]) -> TensorType:
    """BxQx(N*Dv) of query BxQx(N*Dk) and value, BxLx(N*Dv) or BxNxLxDv."""
    query, value = (tensors.get(name) for name in (node.inputs[0], (*node.inputs, "", "")[2]))
    if query is None or value is None or len(query.shape) != 3:
        raise CountError(
            f"the attention {node.name!r} has its query, key and value packed into one tensor, "
            "which is not counted. Export it with three."
        )
    heads_apart = len(value.shape) == 4
    width = value.shape[1] * value.shape[3] if heads_apart else value.shape[2]
    return TensorType((*query.shape[:2], width), query.dtype, query.bits)


def distinct_elements(array: NDArray[np.generic]) -> int:
    """Count the elements of a tensor, each vector that is repeated along an axis once.

    0 for a mask, a tensor of at least two axes that holds nothing but zeros and ones. Vectors are
    compared in tensors of three axes alone: elsewhere the exporter repeats nothing.
    """
    if array.ndim >= 2 and _is_mask(array):
        return 0
    if array.ndim != RANK_OF_TABLES:
        return array.size
    return min(_distinct_vectors(array, axis) for axis in range(array.ndim))


def _is_mask(array: NDArray[np.generic]) -> bool:
    start = array.reshape(-1)[:1024]  # of a weight this is enough to tell
    return all(bool(np.isin(part, (0, 1)).all()) for part in (start, array))


def _distinct_vectors(array: NDArray[np.generic], axis: int) -> int:
    """Count the elements of all different vectors along one axis."""
    vectors = np.ascontiguousarray(np.moveaxis(array, axis, -1)).reshape(-1, array.shape[axis])
    as_bytes = vectors.view(np.dtype((np.void, vectors.dtype.itemsize * vectors.shape[1])))
    return len(np.unique(as_bytes)) * int(array.shape[axis])


def read_graph(
    onnx_bytes: bytes, name: str, sizes: Sizes | None = None, weights: Weights | None = None
) -> ShapedGraph:
    """Read a graph.

    `sizes` gives the dynamic axes of the inputs, by name ("prompts"). `weights` are its external
    tensors, which are needed only to find repeated parameters: without them every stored number
    counts. Raises CountError where an axis is not given, or a shape is not known before the graph
    runs; CapabilityError where onnx is not installed.
    """
    onnx = import_onnx()
    try:
        model = onnx.load_from_string(onnx_bytes)
    except Exception as error:  # protobuf's own, whose class differs from release to release
        raise CountError(
            f"the graph {name!r} is not an ONNX model: {error}. Export it again."
        ) from error
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    reader = _Reader(onnx, model, name)
    reader.take_initializers(weights or {})
    reader.take_inputs(sizes or {})
    return reader.read()


def import_onnx() -> Any:
    """Import onnx; raises CapabilityError where it is not installed."""
    try:
        import onnx  # noqa: PLC0415 - nothing else of the benchmarks needs it
        import onnx.inliner  # noqa: PLC0415
        import onnx.reference  # noqa: PLC0415
        import onnx.shape_inference  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"counting needs {error.name}, which is not installed here. Install it: "
            "pip install 'samclip[bench]'"
        ) from error
    return onnx


class _Reader:
    """Goes through one model: `types` and `values` of what has been seen so far."""

    def __init__(self, onnx: Any, model: Any, name: str) -> None:
        self._onnx = onnx
        self._model = model
        self._name = name
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._types: dict[str, TensorType] = {}
        self._values: dict[str, NDArray[np.generic]] = {}
        self._distinct: dict[str, int] = {}
        self._constants: set[str] = set()

    def take_initializers(self, weights: Weights) -> None:
        """Note every stored tensor, and the values of the small ones."""
        for tensor in self._model.graph.initializer:
            name, kind = tensor.name, self._type(tensor.data_type, tuple(tensor.dims))
            self._types[name] = kind
            self._constants.add(name)
            array = weights.get(name)
            if tensor.data_location != self._onnx.TensorProto.EXTERNAL:
                array = self._onnx.numpy_helper.to_array(tensor)
            self._distinct[name] = kind.size if array is None else distinct_elements(array)
            if array is not None and kind.size <= MAX_KNOWN:
                self._values[name] = array

    def take_inputs(self, sizes: Sizes) -> None:
        """Note the inputs, with numbers in the place of dynamic axes."""
        for value in self._model.graph.input:
            if value.name in self._types:  # old models list their initializers here too
                continue
            tensor = value.type.tensor_type
            shape = tuple(self._axis(value.name, axis, sizes) for axis in tensor.shape.dim)
            self._types[value.name] = self._type(tensor.elem_type, shape)

    def read(self) -> ShapedGraph:
        """Go through the nodes."""
        graph = self._model.graph
        inputs = tuple(v.name for v in graph.input if v.name not in self._constants)
        return ShapedGraph(
            name=self._name,
            nodes=tuple(self._node(node) for node in graph.node),
            tensors=self._types,
            inputs=inputs,
            outputs=tuple(value.name for value in graph.output),
            distinct=self._distinct,
            constants=frozenset(self._constants),
        )

    def _axis(self, tensor: str, axis: Any, sizes: Sizes) -> int:
        if axis.HasField("dim_value"):
            return int(axis.dim_value)
        if axis.dim_param in sizes:
            return sizes[axis.dim_param]
        raise CountError(
            f"the graph {self._name!r} has the dynamic axis {axis.dim_param!r} of {tensor!r}, and "
            f"sizes are given for {', '.join(sizes) or 'none'}. Give its size."
        )

    def _type(self, code: int, shape: tuple[int, ...]) -> TensorType:
        name = self._onnx.TensorProto.DataType.Name(code).lower()
        name = {"float": "float32", "double": "float64"}.get(name, name)
        digits = name.lstrip("abcdefghijklmnopqrstuvwxyz")[:2]
        bits = BITS.get(name) or (int(digits) if digits.isdigit() else 8)  # float8e4m3fn has 8
        return TensorType(shape, name, bits)

    def _node(self, proto: Any) -> ShapedNode:
        prefix = f"{proto.domain}." if proto.domain not in {"", "ai.onnx"} else ""
        attributes = {a.name: _attribute(self._onnx, a) for a in proto.attribute}
        node = ShapedNode(
            operator=f"{prefix}{proto.op_type}",
            inputs=tuple(proto.input),
            outputs=tuple(output for output in proto.output if output),
            attributes={name: value for name, value in attributes.items() if value is not None},
            name=proto.name,
        )
        self._types.update(self._infer(proto, node))
        self._follow(proto, node)
        return node

    def _infer(self, proto: Any, node: ShapedNode) -> dict[str, TensorType]:
        """Return the types of a node's outputs."""
        if "." in node.operator:
            return contrib_types(node, self._types)
        onnx, present = self._onnx, [name for name in node.inputs if name]
        types = {name: self._proto_of(self._types[name]) for name in present}
        data = {
            n: onnx.numpy_helper.from_array(self._values[n]) for n in present if n in self._values
        }
        opsets = [onnx.helper.make_opsetid(d, v) for d, v in self._opsets.items()]
        try:
            schema = onnx.defs.get_schema(proto.op_type, self._opsets.get("", 1), "")
            found = onnx.shape_inference.infer_node_outputs(
                schema, proto, types, data, opset_imports=opsets
            )
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError) as error:
            raise self._unknown(node, str(error)) from error
        return {name: self._known(node, name, found.get(name)) for name in node.outputs}

    def _known(self, node: ShapedNode, name: str, found: Any) -> TensorType:
        tensor = None if found is None else found.tensor_type
        if tensor is None or not tensor.HasField("shape"):
            raise self._unknown(node, f"nothing is known of its output {name!r}")
        if not all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            raise self._unknown(node, f"the shape of its output {name!r} depends on the data")
        return self._type(tensor.elem_type, tuple(axis.dim_value for axis in tensor.shape.dim))

    def _unknown(self, node: ShapedNode, reason: str) -> CountError:
        return CountError(
            f"the graph {self._name!r} cannot be counted: the shapes behind its {node.operator} "
            f"{node.name!r} are not known: {reason}. Export it at a fixed size."
        )

    def _proto_of(self, kind: TensorType) -> Any:
        onnx = self._onnx
        names = {"float32": "FLOAT", "float64": "DOUBLE"}
        code = onnx.TensorProto.DataType.Value(names.get(kind.dtype, kind.dtype.upper()))
        return onnx.helper.make_tensor_type_proto(code, kind.shape)

    def _follow(self, proto: Any, node: ShapedNode) -> None:
        """Note which outputs are known before the graph runs, and the values of the small ones."""
        of_shape = node.operator in SHAPE_OPERATORS
        present = [name for name in node.inputs if name]
        if not of_shape and not set(present) <= self._constants:
            return
        self._constants.update(node.outputs)
        small = all(self._types[name].size <= MAX_KNOWN for name in node.outputs)
        if of_shape:
            shape = self._types[present[0]].shape
            feeds = {present[0]: np.broadcast_to(np.False_, shape)}  # takes no memory
        elif small and set(present) <= set(self._values) and "." not in node.operator:
            feeds = {name: self._values[name] for name in present}
        else:
            return
        evaluator = self._onnx.reference.ReferenceEvaluator(proto, opsets=self._opsets)
        self._values.update(zip(node.outputs, evaluator.run(None, feeds), strict=True))


def _attribute(onnx: Any, attribute: Any) -> Attribute | None:
    """Return the value of an attribute that counting may ask for; None for others."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (int, float)):
        return value
    if attribute.type == onnx.AttributeProto.INTS:
        return tuple(value)
    return None
