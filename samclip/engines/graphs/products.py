"""Rules for operators that sum over axes: products, convolutions, pooling, attention.

`work` says by how many numbers each node multiplies; a rule is followed by its count.
"""

from __future__ import annotations

from samclip.engines.graphs.parsed import INT64, MAX_SIDE, Node
from samclip.engines.graphs.sizes import Dim, least, most
from samclip.engines.graphs.tensors import (
    FLOATS,
    Call,
    RefusedError,
    Shape,
    Tensor,
    axes_of,
    axis_of,
    broadcast,
    fraction,
    integer,
    integers,
    known,
    not_bool,
    numbers_only,
    of_type,
    required,
    same_type,
    shown,
    text,
)
from samclip.engines.limits import MAX_REGION

MAX_KERNEL = 2**10


def matmul(call: Call) -> list[Tensor]:
    """MatMul of stacks of matrices."""
    first, second = required(call.inputs, 2)
    dtype = same_type(first, second)
    of_type(first, *FLOATS)
    if first.rank < 1 or second.rank < 1 or (first.rank == second.rank == 1):
        raise RefusedError("it multiplies vectors or single numbers")
    a = first.dims if first.rank > 1 else (1, *first.dims)
    b = second.dims if second.rank > 1 else (*second.dims, 1)
    if a[-1] != b[-2]:
        raise RefusedError(f"it multiplies {shown(first.dims)} by {shown(second.dims)}")
    rows: Shape = (a[-2],) if first.rank > 1 else ()
    columns: Shape = (b[-1],) if second.rank > 1 else ()
    return [Tensor(dtype, (*broadcast(a[:-2], b[:-2]), *rows, *columns))]


def matmul_work(call: Call) -> Shape:
    """Each number of the result sums over the last axis of the first factor."""
    return (*call.made, call.inputs[0].dims[-1])  # type: ignore[union-attr]


def gemm(call: Call) -> list[Tensor]:
    """Gemm of two matrices, plus a third that is broadcast."""
    first, second = required(call.inputs, 2)
    third = call.optional(2)
    dtype = same_type(first, second, third)
    of_type(first, *FLOATS)
    if first.rank != 2 or second.rank != 2:
        raise RefusedError("it multiplies what are not matrices")
    fraction(call.node, "alpha", 1.0)
    fraction(call.node, "beta", 1.0)
    a = first.dims[::-1] if integer(call.node, "transA", 0) else first.dims
    b = second.dims[::-1] if integer(call.node, "transB", 0) else second.dims
    if a[1] != b[0]:
        raise RefusedError(f"it multiplies {shown(a)} by {shown(b)}")
    dims = (a[0], b[1])
    if third is not None and (third.rank > 2 or broadcast(dims, third.dims) != dims):
        raise RefusedError(f"it adds {shown(third.dims)} to {shown(dims)}")
    return [Tensor(dtype, dims)]


def gemm_work(call: Call) -> Shape:
    """As for MatMul."""
    dims = call.inputs[0].dims  # type: ignore[union-attr]
    return (*call.made, dims[0 if integer(call.node, "transA", 0) else 1])


def _window(node: Node, kernel: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Return stride, dilation and both pads for each axis of a kernel, within reason."""
    count = len(kernel)
    if count != 2 or any(not 1 <= side <= MAX_KERNEL for side in kernel):
        raise RefusedError(
            f"its kernel is {shown(kernel)}, expected two sides of 1 to {MAX_KERNEL:,}"
        )
    if integers(node, "kernel_shape", kernel, count) != kernel:
        raise RefusedError(f"its kernel is {shown(kernel)}, and it says otherwise")
    if text(node, "auto_pad", "NOTSET") != "NOTSET":
        raise RefusedError("it pads by itself")
    strides = integers(node, "strides", (1,) * count, count)
    dilations = integers(node, "dilations", (1,) * count, count)
    pads = integers(node, "pads", (0,) * 2 * count, 2 * count)
    if any(not 1 <= n <= MAX_KERNEL for n in (*strides, *dilations)):
        raise RefusedError("its strides or dilations are not from 1 on")
    if any(not 0 <= n <= MAX_KERNEL for n in pads):
        raise RefusedError(f"its pads are not from 0 to {MAX_KERNEL:,}")
    return list(zip(strides, dilations, pads, pads[count:], strict=False))


def _convolved(call: Call) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return input and weight, both of four axes, and the sizes of the weight."""
    data, weight = required(call.inputs, 2)
    same_type(data, weight, call.optional(2))
    of_type(data, *FLOATS)
    if data.rank != 4 or weight.rank != 4:
        raise RefusedError("its input or weight does not have four axes")
    return data, weight, numbers_only(weight.dims, "weight")


def conv(call: Call) -> list[Tensor]:
    """Conv over two axes."""
    data, weight, (outputs, per_group, *kernel) = _convolved(call)
    groups = integer(call.node, "group", 1)
    if groups < 1 or data.dims[1] != per_group * groups or outputs % groups or outputs < 1:
        raise RefusedError(
            f"its weight {shown(weight.dims)} in {groups} groups does not fit {shown(data.dims)}"
        )
    _check_bias(call.optional(2), outputs)
    window = _window(call.node, tuple(kernel))
    sides = [
        _covered(side, extent, *steps)
        for side, extent, steps in zip(data.dims[2:], kernel, window, strict=True)
    ]
    return [Tensor(data.dtype, (data.dims[0], outputs, *sides))]


def _check_bias(bias: Tensor | None, outputs: int) -> None:
    if bias is not None and bias.dims != (outputs,):
        raise RefusedError(f"its bias is {shown(bias.dims)}, expected {outputs}")


def _covered(side: Dim, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Return how often a window fits on an axis."""
    if not isinstance(side, int):
        raise RefusedError("the size of its input depends on the run")
    extent = dilation * (kernel - 1) + 1
    if side < 1 or side + before + after < extent:
        raise RefusedError(f"its window of {extent} does not fit on an axis of {side}")
    return (side + before + after - extent) // stride + 1


def conv_work(call: Call) -> Shape:
    """Each number of the result sums over a group's channels and the kernel."""
    return (*call.made, *call.inputs[1].dims[1:])  # type: ignore[union-attr]


def conv_transpose(call: Call) -> list[Tensor]:
    """ConvTranspose over two axes."""
    data, weight, (channels, per_group, *kernel) = _convolved(call)
    groups = integer(call.node, "group", 1)
    if groups < 1 or data.dims[1] != channels or channels % groups or channels < 1:
        raise RefusedError(f"its weight {shown(weight.dims)} does not fit {shown(data.dims)}")
    _check_bias(call.optional(2), per_group * groups)
    window = _window(call.node, tuple(kernel))
    extra = integers(call.node, "output_padding", (0, 0), 2)
    sides = []
    for side, extent, (stride, dilation, before, after), more in zip(
        numbers_only(data.dims[2:], "input"), kernel, window, extra, strict=True
    ):
        made = stride * (side - 1) + more + dilation * (extent - 1) + 1 - before - after
        if not 0 <= more < max(stride, dilation) or side < 1 or not 1 <= made <= MAX_SIDE:
            raise RefusedError("its output padding, or its output, is beyond reason")
        sides.append(made)
    return [Tensor(data.dtype, (data.dims[0], per_group * groups, *sides))]


def conv_transpose_work(call: Call) -> Shape:
    """Each number of the input goes to a group's channels and the kernel."""
    return (*call.inputs[0].dims, *call.inputs[1].dims[1:])  # type: ignore[union-attr]


def average_pool(call: Call) -> list[Tensor]:
    """AveragePool over two axes; pads are smaller than the kernel."""
    (data,) = required(call.inputs, 1)
    of_type(data, *FLOATS)
    if data.rank != 4:
        raise RefusedError("its input does not have four axes")
    kernel = integers(call.node, "kernel_shape", (), 2)
    window = _window(call.node, kernel)
    if integer(call.node, "ceil_mode", 0) or any(
        max(steps[2:]) >= side for side, steps in zip(kernel, window, strict=True)
    ):
        raise RefusedError("it rounds up, or pads by more than its kernel")
    integer(call.node, "count_include_pad", 0)
    sides = [
        _covered(side, extent, *steps)
        for side, extent, steps in zip(data.dims[2:], kernel, window, strict=True)
    ]
    return [Tensor(data.dtype, (*data.dims[:2], *sides))]


def pool_work(call: Call) -> Shape:
    """Each number of the result sums over the kernel."""
    return (*call.made, *integers(call.node, "kernel_shape", (), 2))


def reduce(call: Call) -> list[Tensor]:
    """ReduceSum, ReduceMax and so on over the axes that are given, else over all."""
    (data,) = required(call.inputs, 1)
    not_bool(data)
    given = call.optional(1)
    numbers = () if given is None else known(given, "axes")
    if not numbers and integer(call.node, "noop_with_empty_axes", 0):
        return [Tensor(data.dtype, data.dims)]
    summed = set(axes_of(numbers, data.rank)) if numbers else set(range(data.rank))
    if integer(call.node, "keepdims", 1):
        dims = tuple(1 if place in summed else side for place, side in enumerate(data.dims))
    else:
        dims = tuple(side for place, side in enumerate(data.dims) if place not in summed)
    return [Tensor(data.dtype, dims)]


def arg_max(call: Call) -> list[Tensor]:
    """ArgMax along an axis, which has at least one place."""
    (data,) = required(call.inputs, 1)
    not_bool(data)
    axis = axis_of(integer(call.node, "axis", 0), data.rank)
    integer(call.node, "select_last_index", 0)
    if least(data.dims[axis]) < 1:
        raise RefusedError("the axis that it looks along may be empty")
    kept: Shape = (1,) if integer(call.node, "keepdims", 1) else ()
    dims = (*data.dims[:axis], *kept, *data.dims[axis + 1 :])
    return [Tensor(INT64, dims, limits=(0, most((data.dims[axis],)) - 1))]


def input_work(call: Call) -> Shape:
    """All numbers of the input are read."""
    return call.inputs[0].dims  # type: ignore[union-attr]


def einsum(call: Call) -> list[Tensor]:
    """Einsum of two tensors, every axis named by a letter, each once in a tensor."""
    first, second = required(call.inputs, 2)
    dtype = same_type(first, second)
    of_type(first, *FLOATS)
    made, sides = _equation(call.node, first, second)
    return [Tensor(dtype, tuple(sides[letter] for letter in made))]


def _equation(node: Node, first: Tensor, second: Tensor) -> tuple[str, dict[str, Dim]]:
    """Return the letters of the result, and the size of each letter."""
    terms, arrow, made = text(node, "equation", "").replace(" ", "").partition("->")
    factors = terms.split(",")
    words = (*factors, made)
    sides: dict[str, Dim] = {}
    if not arrow or len(factors) != 2:
        raise RefusedError("its equation is not one of two tensors and a result")
    if any(len(set(word)) != len(word) or (word and not word.isascii()) for word in words):
        raise RefusedError("its equation names an axis twice")
    for word, tensor in zip(factors, (first, second), strict=True):
        if not (word.isalpha() or not word) or len(word) != tensor.rank:
            raise RefusedError("its equation does not name the axes of its inputs")
        for letter, side in zip(word, tensor.dims, strict=True):
            if sides.setdefault(letter, side) != side:
                raise RefusedError(f"its axis {letter!r} has two sizes")
    if not set(made) <= set(sides):
        raise RefusedError("its equation makes an axis from nothing")
    return made, sides


def einsum_work(call: Call) -> Shape:
    """Every combination of places is one product."""
    first, second = required(call.inputs, 2)
    return tuple(_equation(call.node, first, second)[1].values())


def attention(call: Call) -> list[Tensor]:
    """Attention of queries, keys and values BxNxLxD, perhaps with an additive mask."""
    query, key, value = required(call.inputs, 3)
    mask = call.optional(3)
    dtype = same_type(query, key, value, mask)
    of_type(query, *FLOATS)
    if any(tensor.rank != 4 for tensor in (query, key, value)):
        raise RefusedError("its queries, keys and values do not have four axes")
    if (
        query.dims[:2] != key.dims[:2]
        or key.dims[:3] != value.dims[:3]
        or query.dims[3] != key.dims[3]
    ):
        raise RefusedError(
            f"its queries {shown(query.dims)}, keys {shown(key.dims)} and values "
            f"{shown(value.dims)} do not fit together"
        )
    if integer(call.node, "is_causal", 0) or integer(call.node, "qk_matmul_output_mode", 0):
        raise RefusedError("it is causal, or gives its scores away")
    if fraction(call.node, "softcap", 0.0):
        raise RefusedError("it caps its scores")
    fraction(call.node, "scale", 1.0)
    scores = (*query.dims[:3], key.dims[2])
    if mask is not None and broadcast(scores, mask.dims) != scores:
        raise RefusedError(f"its mask is {shown(mask.dims)}, expected {shown(scores)}")
    return [Tensor(dtype, (*query.dims[:3], value.dims[3]))]


def attention_work(call: Call) -> Shape:
    """Scores of every query and key, and their sums of values."""
    key = call.inputs[1].dims  # type: ignore[union-attr]
    return (*call.made, key[2], 2)


def roi_align(call: Call) -> list[Tensor]:
    """RoiAlign of boxes that come from the graph's inputs; each in the one image that there is."""
    data, boxes, batch = required(call.inputs, 3)
    dtype = same_type(data, boxes)
    of_type(data, *FLOATS)
    of_type(batch, INT64)
    if data.rank != 4 or boxes.rank != 2 or boxes.dims[1] != 4 or batch.dims != boxes.dims[:1]:
        raise RefusedError("it does not take boxes Nx4 of a map with four axes")
    if text(call.node, "mode", "avg") != "avg":
        raise RefusedError("it does not average")
    if text(call.node, "coordinate_transformation_mode", "half_pixel") != "half_pixel":
        raise RefusedError("its coordinates are not those of exports")
    if batch.span is None or any(batch.span):
        raise RefusedError("it takes images by numbers that may not exist")
    _region_samples(call.node, boxes)
    high, wide = integer(call.node, "output_height", 1), integer(call.node, "output_width", 1)
    return [Tensor(dtype, (boxes.dims[0], data.dims[1], high, wide))]


def _region_samples(node: Node, boxes: Tensor) -> tuple[int, int]:
    """Return how many points each bin averages along both axes, at most."""
    scale, ratio = fraction(node, "spatial_scale", 1.0), integer(node, "sampling_ratio", 0)
    sides = integer(node, "output_height", 1), integer(node, "output_width", 1)
    if not 0 < scale <= 1 or ratio or any(not 1 <= side <= MAX_KERNEL for side in sides):
        raise RefusedError("its scale, its samples or the size of its result are beyond reason")
    if boxes.span is None or max(map(abs, boxes.span)) > MAX_REGION:
        raise RefusedError("its boxes are computed, so that the work they make is unknown")
    extent = int((boxes.span[1] - boxes.span[0]) * scale) + 1
    return -(-extent // sides[0]), -(-extent // sides[1])


def roi_align_work(call: Call) -> Shape:
    """Each number of the result averages points, each of four neighbours."""
    boxes = call.inputs[1]
    return (*call.made, *_region_samples(call.node, boxes), 4)  # type: ignore[arg-type]
