"""Graphs with every shape known, and the multiply-accumulates of each operator in them.

There is one rule for each operator that multiplies matrices. The others are listed by what they do
to memory, and operators in neither list are refused: an unknown one must not count as nothing.

One multiply-accumulate (MAC) is two floating-point operations. Additions of biases, norms,
activations and softmax are not counted, as is usual (and as torch's FlopCounterMode does not). A
causal or masked attention is counted whole. The shapes are those of the operators' definitions:
https://onnx.ai/onnx/operators and ONNX Runtime's docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from samclip.errors import CountError

Attribute = int | float | str | tuple[int, ...]
# Give another shape to the same bytes: no engine moves them.
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})
# From 8 or 4 bits to floating point: engines compute in what stands before it.
DEQUANTIZE = frozenset({"DequantizeLinear", "com.microsoft.DequantizeLinear"})
# Read no more than they write: rows of a table, a part of a tensor.
PICKING = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
# Read their inputs and write their outputs once, at most a few operations an element. Resize,
# GridSample and RoiAlign weigh a few neighbours, which is not a product of matrices; a
# RoiAlign that chooses its samples by the size of a region does work that depends on the data.
PLAIN_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Concat
Constant ConstantOfShape Cos Cosh CumSum DepthToSpace Div DynamicQuantizeLinear Elu Equal Erf
Exp Expand EyeLike Floor Gather GatherElements GatherND Gelu GlobalAveragePool GlobalMaxPool
Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax
InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax LpNormalization LpPool Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul
Neg Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL1
ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Resize RoiAlign RotaryEmbedding Round ScatterElements ScatterND Selu Shape
Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Sub Sum SwiGLU
Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Upsample Where Xor
com.microsoft.BiasGelu com.microsoft.FastGelu com.microsoft.Gelu com.microsoft.QuantizeLinear
com.microsoft.QuickGelu
"""
PLAIN = frozenset(PLAIN_NAMES.split())


@dataclass(frozen=True)
class TensorType:
    """A tensor's shape and element type, named as numpy does ("float32", "int4", "bool")."""

    shape: tuple[int, ...]
    dtype: str
    bits: int  # of one element as it is stored

    @property
    def size(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes the elements take."""
        return (self.size * self.bits + 7) // 8


@dataclass(frozen=True)
class ShapedNode:
    """One operator: `operator` is its type, with its domain before it unless it is ONNX's own.

    An input that is left out is the empty string.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    name: str = ""

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else default


@dataclass(frozen=True)
class ShapedGraph:
    """One graph, its nodes in an order in which they can run.

    `tensors` has the type of every tensor that a node reads or writes. `distinct` names
    those stored with the graph, and how many elements of each are not repetitions;
    `constants` are known before it runs: those stored, and what nodes make of nothing else.
    """

    name: str
    nodes: tuple[ShapedNode, ...]
    tensors: Mapping[str, TensorType]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    distinct: Mapping[str, int]
    constants: frozenset[str]


Tensors = Mapping[str, TensorType]
Rule = Callable[[ShapedNode, Tensors], int]


def macs_of(node: ShapedNode, tensors: Tensors) -> int:
    """Count the MACs of a node, whose operator is one of `PRODUCTS`; raises CountError."""
    return PRODUCTS[node.operator][0](node, tensors)


def operands_of(node: ShapedNode) -> tuple[str, str]:
    """Name the two tensors that a product multiplies, which say in what it computes."""
    first, second = PRODUCTS[node.operator][1]
    return node.inputs[first], node.inputs[second]


def _matmul(node: ShapedNode, tensors: Tensors) -> int:
    return _output(node, tensors).size * tensors[node.inputs[0]].shape[-1]


def _gemm(node: ShapedNode, tensors: Tensors) -> int:
    summed = 0 if node.integer("transA", 0) else 1
    return _output(node, tensors).size * tensors[node.inputs[0]].shape[summed]


def _conv(kernel: int) -> Rule:
    """Each output takes a kernel of (Cin / groups) x k..., where `kernel` is Cout x that."""

    def count(node: ShapedNode, tensors: Tensors) -> int:
        return _output(node, tensors).size * math.prod(tensors[node.inputs[kernel]].shape[1:])

    return count


def _conv_transpose(node: ShapedNode, tensors: Tensors) -> int:
    """Each input goes to a kernel of (Cout / groups) x k..., where the weight is Cin x that."""
    weight = tensors[node.inputs[1]]
    return tensors[node.inputs[0]].size * math.prod(weight.shape[1:])


def _einsum(node: ShapedNode, tensors: Tensors) -> int:
    """Two operands: every combination of the indices is one MAC."""
    equation = str(node.attributes["equation"]).replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if "." in equation or len(terms) != 2 or any(max(Counter(t).values()) > 1 for t in terms):
        raise CountError(
            f"the Einsum {node.name!r} is {equation!r}; only products of two operands, all axes "
            "named and each once, are counted. Export it as MatMul."
        )
    sides: dict[str, int] = {}
    for term, name in zip(terms, node.inputs, strict=True):
        for index, side in zip(term, tensors[name].shape, strict=True):
            sides[index] = max(side, sides.get(index, 1))  # a side of 1 is broadcast
    return math.prod(sides.values())


def _attention(node: ShapedNode, tensors: Tensors) -> int:
    """Scores of Q x Dk x L and values of Q x L x Dv, for each image and query head."""
    query, key, value = (tensors[name].shape for name in node.inputs[:3])
    if len(query) == 4:  # images, heads, length, width
        images, heads, queries, width = query
        length, value_width = key[2], value[3]
    else:  # images, length, heads * width
        images, queries, heads = query[0], query[1], node.integer("q_num_heads", 0)
        width = query[2] // heads
        length, value_width = key[1], value[2] // node.integer("kv_num_heads", 0)
    if len(node.inputs) > 4 and node.inputs[4]:
        length += tensors[node.inputs[4]].shape[2]  # past keys
    return images * heads * queries * length * (width + value_width)


def _multi_head_attention(node: ShapedNode, tensors: Tensors) -> int:
    """Of ONNX Runtime: query BxQx(N*Dk); key, value BxLx(N*D) or BxNxLxD."""
    query, key, value = (tensors[name].shape for name in node.inputs[:3])
    length = key[2] if len(key) == 4 else key[1]
    widths = query[2] + (value[1] * value[3] if len(value) == 4 else value[2])
    return query[0] * query[1] * length * widths


def _output(node: ShapedNode, tensors: Tensors) -> TensorType:
    return tensors[node.outputs[0]]


# By operator: its rule, and which of its inputs are multiplied.
PRODUCTS: dict[str, tuple[Rule, tuple[int, int]]] = {
    "MatMul": (_matmul, (0, 1)),
    "MatMulInteger": (_matmul, (0, 1)),
    "QLinearMatMul": (_matmul, (0, 3)),
    "Gemm": (_gemm, (0, 1)),
    "Conv": (_conv(1), (0, 1)),
    "ConvInteger": (_conv(1), (0, 1)),
    "QLinearConv": (_conv(3), (0, 3)),
    "ConvTranspose": (_conv_transpose, (0, 1)),
    "Einsum": (_einsum, (0, 1)),
    "Attention": (_attention, (0, 1)),
    "com.microsoft.MultiHeadAttention": (_multi_head_attention, (0, 1)),
}
