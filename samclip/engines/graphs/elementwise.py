"""Rules for operators that compute each element from the elements in its place, or along an axis.

A rule returns the outputs of a node, or raises `RefusedError`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping

from samclip.engines.graphs.parsed import BOOL, DTYPES, FLOAT, INT8, UINT8, Node
from samclip.engines.graphs.sizes import Dim, least, quotient, stays_within
from samclip.engines.graphs.tensors import (
    FLOATS,
    WHOLE,
    Call,
    RefusedError,
    Span,
    Tensor,
    axis_of,
    broadcast,
    fraction,
    integer,
    joined,
    not_bool,
    of_type,
    required,
    same_type,
    shown,
    text,
)


def as_first(call: Call) -> list[Tensor]:
    """Return the shape and type of the first input, numbers."""
    (first,) = required(call.inputs, 1)
    not_bool(first)
    return [Tensor(first.dtype, first.dims)]


def of_floats(call: Call) -> list[Tensor]:
    """Return the same of floating-point numbers."""
    (first,) = required(call.inputs, 1)
    of_type(first, *FLOATS)
    return [Tensor(first.dtype, first.dims)]


def gelu(call: Call) -> list[Tensor]:
    """Gelu."""
    if text(call.node, "approximate", "none") not in {"none", "tanh"}:
        raise RefusedError("its approximation is unknown")
    return of_floats(call)


def softmax(call: Call) -> list[Tensor]:
    """Softmax along an axis."""
    (first,) = required(call.inputs, 1)
    axis_of(integer(call.node, "axis", -1), first.rank)
    return of_floats(call)


def layer_normalization(call: Call) -> list[Tensor]:
    """LayerNormalization over the last axes, with a scale and perhaps a bias of their shape."""
    data, scale = required(call.inputs, 2)
    of_type(data, *FLOATS)
    first = axis_of(integer(call.node, "axis", -1), data.rank)
    fraction(call.node, "epsilon", 1e-5)
    if integer(call.node, "stash_type", 1) != FLOAT:
        raise RefusedError("its statistics are not float32")
    for tensor in (scale, call.optional(2)):
        if tensor is None:
            continue
        same_type(data, tensor)
        if tensor.rank > data.rank - first or broadcast(data.dims, tensor.dims) != data.dims:
            raise RefusedError(f"its scale or bias is of the shape {shown(tensor.dims)}")
    return [Tensor(data.dtype, data.dims)]


def _divide(first: Dim, second: Dim) -> Dim | None:
    if isinstance(first, int) and isinstance(second, int):
        return int(first / second) if second and abs(first) < 2**50 else None  # towards zero
    return quotient(first, second)


FOLLOWED: Mapping[str, Callable[[Dim, Dim], Dim | None]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divide,
}


def arithmetic(call: Call) -> list[Tensor]:
    """Add, Sub, Mul, Div of two tensors."""
    first, second = required(call.inputs, 2)
    dtype = same_type(first, second)
    not_bool(first)
    if call.node.operator == "Div" and dtype not in FLOATS:
        _check_divisor(second)
    dims = broadcast(first.dims, second.dims)
    return [Tensor(dtype, dims, _followed(call.node.operator, first, second, len(dims)))]


def _check_divisor(divisor: Tensor) -> None:
    """Refuse whole numbers that may be 0 or -1: dividing by them ends the process, or is wrong."""
    lowest: float
    if divisor.values is not None:
        lowest = min((least(value) for value in divisor.values), default=1)
    else:
        lowest = 0 if divisor.span is None else divisor.span[0]
    if lowest < 1:
        raise RefusedError("it divides whole numbers by what may be less than 1")


def _followed(name: str, first: Tensor, second: Tensor, rank: int) -> tuple[Dim, ...] | None:
    """Return the values of a result, where those of both operands are known."""
    if first.dtype not in WHOLE or first.values is None or second.values is None or rank > 1:
        return None
    a, b = first.values, second.values
    if len(a) != len(b):
        a, b = (v * max(len(a), len(b)) if len(v) == 1 else v for v in (a, b))
    compute = FOLLOWED[name]
    found = [compute(x, y) for x, y in zip(a, b, strict=True)]
    if not all(value is not None and stays_within(value, WHOLE[first.dtype]) for value in found):
        return None  # engines wrap around
    return tuple(found)  # type: ignore[arg-type]


def compare(call: Call) -> list[Tensor]:
    """Equal, Greater and so on of two tensors."""
    first, second = required(call.inputs, 2)
    same_type(first, second)
    return [Tensor(BOOL, broadcast(first.dims, second.dims))]


def logical(call: Call) -> list[Tensor]:
    """And, Or, Not."""
    present = required(call.inputs, len(call.inputs))
    of_type(present[0], BOOL)
    same_type(*present)
    return [Tensor(BOOL, broadcast(*(tensor.dims for tensor in present)))]


def where(call: Call) -> list[Tensor]:
    """Where: elements of one of two tensors."""
    condition, first, second = required(call.inputs, 3)
    of_type(condition, BOOL)
    dtype = same_type(first, second)
    dims = broadcast(condition.dims, first.dims, second.dims)
    return [Tensor(dtype, dims, limits=joined(first.span, second.span))]


def extremum(call: Call) -> list[Tensor]:
    """Max and Min of any number of tensors."""
    present = [tensor for tensor in call.inputs if tensor is not None]
    if len(present) != len(call.inputs) or not present:
        raise RefusedError("an input is missing")
    not_bool(present[0])
    return [Tensor(same_type(*present), broadcast(*(tensor.dims for tensor in present)))]


def clip(call: Call) -> list[Tensor]:
    """Clip between two numbers, of which either may be missing."""
    (data,) = required(call.inputs, 1)
    not_bool(data)
    for bound in call.inputs[1:]:
        if bound is not None:
            same_type(data, bound)
            if bound.rank:
                raise RefusedError("its bounds are not single numbers")
    low, high = call.optional(1), call.optional(2)
    span = None
    if data.dtype in WHOLE and low is not None and high is not None and low.span and high.span:
        span = (low.span[0], high.span[1]) if low.span[1] <= high.span[0] else None
    return [Tensor(data.dtype, data.dims, limits=span)]


def cast(call: Call) -> list[Tensor]:
    """Cast to another type of numbers."""
    (data,) = required(call.inputs, 1)
    wanted = integer(call.node, "to", 0)
    if wanted not in DTYPES:
        raise RefusedError(f"it casts to the type {wanted}, which exports never have")
    if wanted == data.dtype:
        return [Tensor(wanted, data.dims, data.values, data.limits)]
    if wanted in WHOLE and data.dtype in WHOLE:
        return [Tensor(wanted, data.dims, *_without_larger(data, WHOLE[wanted]))]
    return [Tensor(wanted, data.dims, limits=data.limits if wanted in FLOATS else None)]


def _without_larger(data: Tensor, limit: int) -> tuple[tuple[Dim, ...] | None, Span | None]:
    """Return values and span of whole numbers, None where a type with this limit wraps them."""
    values, span = data.values, data.span
    if values is not None and not all(stays_within(value, limit) for value in values):
        values = None
    if span is not None and not -limit <= span[0] <= span[1] < limit:
        span = None
    return values, span


def quantize(call: Call) -> list[Tensor]:
    """QuantizeLinear with a zero point, whose type is the result's."""
    data, scale, zero = required(call.inputs, 3)
    of_type(data, *FLOATS)
    of_type(zero, INT8, UINT8)
    _check_scale(call.node, data, scale, zero)
    return [Tensor(zero.dtype, data.dims)]


def dequantize(call: Call) -> list[Tensor]:
    """DequantizeLinear with a zero point; the scale's type is the result's."""
    data, scale, zero = required(call.inputs, 3)
    of_type(data, INT8, UINT8)
    same_type(data, zero)
    _check_scale(call.node, data, scale, zero)
    return [Tensor(scale.dtype, data.dims)]


def _check_scale(node: Node, data: Tensor, scale: Tensor, zero: Tensor) -> None:
    """Check a scale for all elements, or one for each along an axis; not for blocks."""
    of_type(scale, *FLOATS)
    if scale.span is None or not 0 < scale.span[0] <= scale.span[1] < math.inf:
        raise RefusedError("its scale is not known to be above 0 and finite")
    if scale.dims != zero.dims:
        raise RefusedError(
            f"its scale is {shown(scale.dims)}, its zero point {shown(zero.dims)}: expected alike"
        )
    if scale.dims in {(), (1,)}:
        if data.rank and "axis" in node.attributes:
            axis_of(integer(node, "axis", 1), data.rank)
        return
    axis = axis_of(integer(node, "axis", 1), data.rank)
    if scale.dims != (data.dims[axis],):
        raise RefusedError(
            f"its scale is {shown(scale.dims)}, expected one number for each of "
            f"{data.dims[axis]} along axis {axis}"
        )
