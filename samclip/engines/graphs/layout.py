"""Rules for operators that move elements, repeat them or take some of them.

They follow the values of short lists of whole numbers, because graphs compute shapes in this way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from samclip.engines.graphs.parsed import FLOAT, INT64, MAX_SIDE
from samclip.engines.graphs.sizes import Dim, least, product, quotient
from samclip.engines.graphs.tensors import (
    MAX_FOLLOWED,
    WHOLE,
    Call,
    RefusedError,
    Shape,
    Tensor,
    axes_of,
    axis_of,
    broadcast,
    followed,
    integer,
    integers,
    joined,
    known,
    numbers_only,
    of_type,
    required,
    same_type,
    shown,
    text,
)

TOKENS = "tokens"  # the input of a text encoder
MAX_PAD = 2**16  # elements on one side of an axis


def moved(data: Tensor, dims: Shape, values: tuple[Dim, ...] | None = None) -> Tensor:
    """Return a tensor of elements of `data`."""
    return Tensor(data.dtype, dims, values, data.limits)


def shape(call: Call) -> list[Tensor]:
    """Shape: the sizes of some axes."""
    (data,) = required(call.inputs, 1)
    start, end = integer(call.node, "start", 0), integer(call.node, "end", data.rank)
    places = range(data.rank)[start:end]
    dims = tuple(data.dims[place] for place in places)
    return [Tensor(INT64, (len(dims),), dims)]


def reshape(call: Call) -> list[Tensor]:
    """Reshape; one size may be -1, and 0 stands for the input's own size."""
    data, asked = required(call.inputs, 2)
    of_type(asked, INT64)
    targets = list(followed(asked, "sizes"))
    if asked.rank != 1:
        raise RefusedError("its sizes are not a list")
    if not integer(call.node, "allowzero", 0):
        for place, target in enumerate(targets):
            if target == 0:
                if place >= data.rank:
                    raise RefusedError("it asks for the size of an axis that its input lacks")
                targets[place] = data.dims[place]
    if targets.count(-1) > 1:
        raise RefusedError("two of its sizes are to be found")
    dims = tuple(targets)
    if -1 in targets:
        rest = [target for target in targets if target != -1]
        dims = tuple(_missing(data.dims, rest) if t == -1 else t for t in targets)
    elif product(data.dims) != product(dims):
        raise RefusedError(f"it makes {shown(dims)} of {shown(data.dims)}")
    return [moved(data, dims, data.values if len(dims) < 2 else None)]


def _missing(dims: Shape, rest: Sequence[Dim]) -> Dim:
    """Return the size that completes `rest` to as many elements as `dims` has."""
    have, others = list(dims), []
    for target in rest:  # what is equal on both sides needs no division
        if target in have:
            have.remove(target)
        else:
            others.append(target)
    found = quotient(product(have), product(others))
    if found is None or product(rest) == 0:
        raise RefusedError(f"it divides {shown(dims)} into {shown(tuple(rest))}")
    return found


def transpose(call: Call) -> list[Tensor]:
    """Transpose."""
    (data,) = required(call.inputs, 1)
    backwards = tuple(reversed(range(data.rank)))
    order = integers(call.node, "perm", backwards, data.rank)
    if sorted(order) != list(range(data.rank)):
        raise RefusedError(f"its order of axes is {order}")
    values = data.values if data.rank < 2 else None
    return [moved(data, tuple(data.dims[place] for place in order), values)]


def squeeze(call: Call) -> list[Tensor]:
    """Squeeze axes of size 1: those that are given, else all."""
    (data,) = required(call.inputs, 1)
    axes = call.optional(1)
    if axes is None:
        numbers_only(data.dims, "axes to drop")
        dropped = {place for place, side in enumerate(data.dims) if side == 1}
    else:
        dropped = set(axes_of(known(axes, "axes"), data.rank))
    if any(data.dims[place] != 1 for place in dropped):
        raise RefusedError(f"it drops axes of {shown(data.dims)} that are not of size 1")
    dims = tuple(side for place, side in enumerate(data.dims) if place not in dropped)
    return [moved(data, dims, data.values)]


def unsqueeze(call: Call) -> list[Tensor]:
    """Unsqueeze: axes of size 1 at places of the result."""
    data, axes = required(call.inputs, 2)
    numbers = known(axes, "axes")
    rank = data.rank + len(numbers)
    new = set(axes_of(numbers, rank))
    old = iter(data.dims)
    dims = tuple(1 if place in new else next(old) for place in range(rank))
    return [moved(data, dims, data.values if rank < 2 else None)]


def concat(call: Call) -> list[Tensor]:
    """Concat along an axis; all other sizes are equal."""
    parts = [tensor for tensor in call.inputs if tensor is not None]
    if len(parts) != len(call.inputs) or not parts or any(p.rank != parts[0].rank for p in parts):
        raise RefusedError("its inputs have different numbers of axes")
    dtype = same_type(*parts)
    axis = axis_of(integer(call.node, "axis", parts[0].rank), parts[0].rank)
    first = parts[0].dims
    for part in parts:
        if part.dims[:axis] + part.dims[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise RefusedError(f"it joins {shown(first)} and {shown(part.dims)} along axis {axis}")
    total: Dim = sum(part.dims[axis] for part in parts)
    values: tuple[Dim, ...] | None = None
    if len(first) == 1 and all(part.values is not None for part in parts):
        values = tuple(value for part in parts for value in part.values or ())
        values = values if len(values) <= MAX_FOLLOWED else None
    dims = (*first[:axis], total, *first[axis + 1 :])
    return [Tensor(dtype, dims, values, joined(*(part.span for part in parts)))]


def split(call: Call) -> list[Tensor]:
    """Split an axis into given sizes, or into equal ones."""
    (data,) = required(call.inputs, 1)
    axis = axis_of(integer(call.node, "axis", 0), data.rank)
    count = len(call.node.outputs)
    side = data.dims[axis]
    given = call.optional(1)
    sizes: Sequence[Dim]
    if given is not None:
        sizes = followed(given, "sizes")
        if "num_outputs" in call.node.attributes or len(sizes) != count or sum(sizes) != side:
            raise RefusedError(f"it divides an axis of {side} into {len(sizes)} sizes")
    else:
        if integer(call.node, "num_outputs", count) != count or not count:
            raise RefusedError("it has another number of outputs than it says")
        equal = quotient(side, count)
        if equal is not None:
            sizes = [equal] * count
        elif isinstance(side, int):
            largest = -(-side // count)
            sizes = [largest] * (count - 1) + [side - largest * (count - 1)]
        else:
            raise RefusedError(f"it divides an axis of {side} into {count} parts")
    if any(least(size) < 0 for size in sizes):
        raise RefusedError("a part would be of negative size")
    return [moved(data, (*data.dims[:axis], size, *data.dims[axis + 1 :])) for size in sizes]


def slice_(call: Call) -> list[Tensor]:
    """Slice: from starts to ends along axes, in steps."""
    data, starts, ends = required(call.inputs, 3)
    first, last = known(starts, "starts"), followed(ends, "ends")
    given = call.optional(3)
    axes = axes_of(range(len(first)) if given is None else known(given, "axes"), data.rank)
    stepped = call.optional(4)
    steps = (1,) * len(first) if stepped is None else known(stepped, "steps")
    if not len(first) == len(last) == len(axes) == len(steps):
        raise RefusedError("its starts, ends, axes and steps are not equally many")
    dims = list(data.dims)
    for axis, start, end, step in zip(axes, first, last, steps, strict=True):
        dims[axis] = _sliced(data.dims[axis], start, end, step)
    values = data.values
    if values is not None and axes:
        stop = last[0]
        one = data.rank == 1 and isinstance(stop, int)
        values = values[first[0] : stop : steps[0]] if one and isinstance(stop, int) else None
    return [moved(data, tuple(dims), values)]


def _sliced(side: Dim, start: int, end: Dim, step: int) -> Dim:
    if step == 0 or abs(step) > MAX_SIDE:  # sums of larger ones wrap around
        raise RefusedError(f"its step is {step}")
    if isinstance(side, int) and isinstance(end, int):
        if step < 0 and end < -side:
            return len(range(side)[start::step])
        return len(range(side)[start:end:step])
    if step == 1 and start >= 0:
        if end == side or (isinstance(end, int) and end >= 2**31 - 1):
            result = side - start
            if least(result) >= 0:
                return result
        elif isinstance(end, int) and start <= end <= least(side):
            return end - start  # all of it lies within
        elif isinstance(end, int) and end < 0 and start == 0 and least(side) >= -end:
            return side + end
        elif not isinstance(end, int) and start == 0 and least(side - end) >= 0 <= least(end):
            return end
    raise RefusedError(f"it takes {start} to {end} of an axis of {side}, whose size is unknown")


def gather(call: Call) -> list[Tensor]:
    """Gather: slices along an axis at places that lie within it, as far as they are known."""
    data, places = required(call.inputs, 2)
    of_type(places, *WHOLE)
    axis = axis_of(integer(call.node, "axis", 0), data.rank)
    if places.fed and call.node.inputs[1] == TOKENS:
        call.token_rows = least(data.dims[axis])  # the runtime checks the tokens
    else:
        _check_places(places, data.dims[axis])
    dims = (*data.dims[:axis], *places.dims, *data.dims[axis + 1 :])
    values = None
    if data.values is not None and data.rank == 1 and places.values is not None and len(dims) < 2:
        chosen = known(places, "places")
        values = tuple(data.values[place] for place in chosen)
    return [moved(data, dims, values)]


def gather_elements(call: Call) -> list[Tensor]:
    """GatherElements: one element for each place."""
    data, places = required(call.inputs, 2)
    of_type(places, *WHOLE)
    axis = axis_of(integer(call.node, "axis", 0), data.rank)
    _check_places(places, data.dims[axis])
    if places.rank != data.rank:
        raise RefusedError("its places have another number of axes than its data")
    for place, (side, other) in enumerate(zip(places.dims, data.dims, strict=True)):
        fits = side == other or (isinstance(side, int) and side <= least(other))
        if place != axis and not fits:
            raise RefusedError(f"its places are {shown(places.dims)}, its data {shown(data.dims)}")
    return [moved(data, places.dims)]


def _check_places(places: Tensor, side: Dim) -> None:
    """Refuse places outside of an axis, or that may be: OpenVINO reads what lies there."""
    span = places.span
    if places.values and all(isinstance(value, int) for value in places.values):
        span = (min(places.values), max(places.values))  # type: ignore[type-var, assignment]
    if span is None:
        raise RefusedError("it takes places that may not exist")
    if not isinstance(side, int):
        side = least(side)
    if not -side <= span[0] <= span[1] < side:
        raise RefusedError(f"it takes the places {span[0]:g} to {span[1]:g} of an axis of {side}")


def expand(call: Call) -> list[Tensor]:
    """Expand: the input repeated to fill a shape."""
    data, asked = required(call.inputs, 2)
    of_type(asked, INT64)
    targets = followed(asked, "sizes")
    if any(least(target) < 0 for target in targets):
        raise RefusedError("it asks for a negative size")
    dims = broadcast(data.dims, targets)
    values = data.values
    if values is not None and dims != data.dims:
        small = len(dims) < 2 and all(isinstance(d, int) and d <= MAX_FOLLOWED for d in dims)
        values = values * int(dims[0]) if small and len(values) == 1 and dims else None  # type: ignore[arg-type]
    return [moved(data, dims, values)]


def pad(call: Call) -> list[Tensor]:
    """Pad with a constant; negative numbers cut off."""
    data, pads = required(call.inputs, 2)
    if text(call.node, "mode", "constant") != "constant":
        raise RefusedError("it pads with something else than a constant")
    constant = call.optional(2)
    if constant is not None:
        same_type(data, constant)
        if product(constant.dims) != 1:
            raise RefusedError("its constant is not a single number")
    given = call.optional(3)
    axes = axes_of(range(data.rank) if given is None else known(given, "axes"), data.rank)
    numbers = known(pads, "widths")
    if len(numbers) != 2 * len(axes) or any(not 0 <= n <= MAX_PAD for n in numbers):
        raise RefusedError(f"its widths are not two for each axis, from 0 to {MAX_PAD:,}")
    dims = list(data.dims)
    for axis, before, after in zip(axes, numbers, numbers[len(axes) :], strict=False):
        dims[axis] = dims[axis] + before + after
    return [Tensor(data.dtype, tuple(dims))]


def resize(call: Call) -> list[Tensor]:
    """Resize by stored scales, or to given sizes, of all axes."""
    (data,) = required(call.inputs, 1)
    for name, allowed in (
        ("mode", {"nearest", "linear"}),
        ("coordinate_transformation_mode", {"half_pixel", "asymmetric", "align_corners"}),
        ("nearest_mode", {"floor", "round_prefer_floor"}),
        ("keep_aspect_ratio_policy", {"stretch"}),
    ):
        if name in call.node.attributes and text(call.node, name, "") not in allowed:
            raise RefusedError(f"its {name} is not one that exports have")
    if integer(call.node, "antialias", 0) or integer(call.node, "exclude_outside", 0):
        raise RefusedError("it filters in a way that exports do not")
    region, scales, sizes = (call.optional(place) for place in (1, 2, 3))
    if region is not None and product(region.dims) != 0:
        raise RefusedError("it resizes a region")
    if (scales is None or scales.dims == (0,)) and sizes is not None:
        dims = followed(sizes, "sizes")
    elif scales is not None and sizes is None and scales.stored is not None:
        of_type(scales, FLOAT)
        numbers = scales.stored.numbers()
        if numbers is None or len(numbers) != data.rank or not np.isfinite(numbers).all():
            raise RefusedError("its scales are not one finite number for each axis")
        dims = tuple(_scaled(s, float(n)) for s, n in zip(data.dims, numbers, strict=True))
    else:
        raise RefusedError("its scales are not stored numbers")
    if len(dims) != data.rank or any(
        min(least(dim), least(s)) < 1 for s, dim in zip(data.dims, dims, strict=True)
    ):
        raise RefusedError(f"it makes {shown(dims)} of {shown(data.dims)}")
    return [Tensor(data.dtype, dims)]


def _scaled(side: Dim, scale: float) -> Dim:
    if scale == 1:
        return side
    if isinstance(side, int) and 0 < scale < 2**16:
        return math.floor(side * scale)
    raise RefusedError(f"it scales an axis of {side} by {scale:g}")
