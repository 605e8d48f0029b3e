"""Operators that multiply no matrices, by what they do to memory; all others are refused.

The list is closed on purpose: an operator that nobody has looked at must not count as nothing.
"""

from __future__ import annotations

# Give another shape to the same bytes: no engine moves them.
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})

# From 8 or 4 bits to floating point: engines compute in what stands before it.
DEQUANTIZE = frozenset({"DequantizeLinear", "com.microsoft.DequantizeLinear"})

# Read no more than they write: rows of a table, a part of a tensor.
PICKING = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})

# Read their inputs and write their outputs once, at most a few operations an element. Resize,
# GridSample and RoiAlign weigh a few neighbours, which is no product of matrices either; a
# RoiAlign that chooses its samples by the size of a region does what only the data tells.
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
