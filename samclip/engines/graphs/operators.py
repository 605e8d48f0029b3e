"""The operators that exports write: an engine sees no others.

The list is what the exporters of all families write, in every lowering, opset, precision and form
of storage; `tests/engines/graphs/test_exported_graphs.py` writes such graphs and compares. What is
not in it is refused: control flow, operators of other domains, whatever makes sizes from data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from samclip.engines.graphs import elementwise, layout, products
from samclip.engines.graphs.tensors import Call, Shape, Tensor

OPSETS = range(18, 24)  # of ONNX's own operators
Rule = Callable[[Call], list[Tensor]]
Work = Callable[[Call], Shape]


@dataclass(frozen=True)
class Operator:
    """What is accepted of an operator, and what it computes.

    `rule` returns its outputs; `work` the sizes whose product is the numbers that it multiplies
    or reads, where that is more than its first output has; `least` and `most` count inputs;
    `since` is the first opset that has it.
    """

    rule: Rule
    least: int = 1
    most: int = 1
    attributes: frozenset[str] = frozenset()
    work: Work | None = None
    outputs: int = 1
    since: int = OPSETS.start


def _unary(rule: Rule, *attributes: str, since: int = OPSETS.start) -> Operator:
    return Operator(rule, attributes=frozenset(attributes), since=since)


def _binary(rule: Rule) -> Operator:
    return Operator(rule, 2, 2)


def _reduced(*attributes: str) -> Operator:
    names = frozenset({"keepdims", *attributes})
    return Operator(products.reduce, 1, 2, names, products.input_work)


WINDOW = frozenset({"auto_pad", "dilations", "kernel_shape", "pads", "strides"})
OPERATORS: Mapping[str, Operator] = {
    "Add": _binary(elementwise.arithmetic),
    "And": _binary(elementwise.logical),
    "ArgMax": Operator(
        products.arg_max, 1, 1, frozenset({"axis", "keepdims", "select_last_index"}),
        products.input_work,
    ),
    "Attention": Operator(
        products.attention, 3, 4,
        frozenset({"is_causal", "qk_matmul_output_mode", "scale", "softcap"}),
        products.attention_work, since=23,
    ),
    "AveragePool": Operator(
        products.average_pool, 1, 1, (WINDOW - {"dilations"}) | {"ceil_mode", "count_include_pad"},
        products.pool_work,
    ),
    "Cast": _unary(elementwise.cast, "to"),
    "Clip": Operator(elementwise.clip, 1, 3),
    "Concat": Operator(layout.concat, 1, 64, frozenset({"axis"})),
    "Conv": Operator(products.conv, 2, 3, WINDOW | {"group"}, products.conv_work),
    "ConvTranspose": Operator(
        products.conv_transpose, 2, 3, WINDOW | {"group", "output_padding"},
        products.conv_transpose_work,
    ),
    "Cos": _unary(elementwise.of_floats),
    "DequantizeLinear": Operator(elementwise.dequantize, 3, 3, frozenset({"axis"})),
    "Div": _binary(elementwise.arithmetic),
    "Einsum": Operator(products.einsum, 2, 2, frozenset({"equation"}), products.einsum_work),
    "Equal": _binary(elementwise.compare),
    "Erf": _unary(elementwise.of_floats),
    "Exp": _unary(elementwise.of_floats),
    "Expand": _binary(layout.expand),
    "Gather": Operator(layout.gather, 2, 2, frozenset({"axis"})),
    "GatherElements": Operator(layout.gather_elements, 2, 2, frozenset({"axis"})),
    "Gelu": _unary(elementwise.gelu, "approximate", since=20),
    "Gemm": Operator(
        products.gemm, 2, 3, frozenset({"alpha", "beta", "transA", "transB"}), products.gemm_work
    ),
    "Greater": _binary(elementwise.compare),
    "GreaterOrEqual": _binary(elementwise.compare),
    "LayerNormalization": Operator(
        elementwise.layer_normalization, 2, 3, frozenset({"axis", "epsilon", "stash_type"})
    ),
    "MatMul": Operator(products.matmul, 2, 2, work=products.matmul_work),
    "Max": Operator(elementwise.extremum, 1, 2),
    "Mul": _binary(elementwise.arithmetic),
    "Neg": _unary(elementwise.as_first),
    "Not": _unary(elementwise.logical),
    "Pad": Operator(layout.pad, 2, 4, frozenset({"mode"})),
    "QuantizeLinear": Operator(elementwise.quantize, 3, 3),
    "ReduceL2": _reduced("noop_with_empty_axes"),
    "ReduceMax": _reduced(),
    "ReduceMean": _reduced("noop_with_empty_axes"),
    "ReduceMin": _reduced(),
    "ReduceSum": _reduced("noop_with_empty_axes"),
    "Relu": _unary(elementwise.as_first),
    "Reshape": Operator(layout.reshape, 2, 2, frozenset({"allowzero"})),
    "Resize": Operator(
        layout.resize, 3, 4,
        frozenset({
            "antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside",
            "extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode",
        }),
        products.input_work,
    ),
    "RoiAlign": Operator(
        products.roi_align, 3, 3,
        frozenset({
            "coordinate_transformation_mode", "mode", "output_height", "output_width",
            "sampling_ratio", "spatial_scale",
        }),
        products.roi_align_work,
    ),
    "Shape": _unary(layout.shape, "end", "start"),
    "Sigmoid": _unary(elementwise.of_floats),
    "Sin": _unary(elementwise.of_floats),
    "Slice": Operator(layout.slice_, 3, 5),
    "Softmax": _unary(elementwise.softmax, "axis"),
    "Split": Operator(
        layout.split, 1, 2, frozenset({"axis", "num_outputs"}), products.input_work, outputs=64
    ),
    "Squeeze": Operator(layout.squeeze, 1, 2),
    "Sub": _binary(elementwise.arithmetic),
    "Transpose": _unary(layout.transpose, "perm"),
    "Unsqueeze": _binary(layout.unsqueeze),
    "Where": Operator(elementwise.where, 3, 3),
}  # fmt: skip

# Operators that engines fuse into one another. OpenVINO takes the square of a chain's length.
POINTWISE = frozenset(OPERATORS) & {
    "Add", "And", "Cast", "Clip", "Cos", "DequantizeLinear", "Div", "Equal", "Erf", "Exp",
    "Gelu", "Greater", "GreaterOrEqual", "Max", "Mul", "Neg", "Not", "QuantizeLinear", "Relu",
    "Sigmoid", "Sin", "Sub", "Where",
}  # fmt: skip
