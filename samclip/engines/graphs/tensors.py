"""Facts about a tensor before a graph runs, and the checks that rules of operators share."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from samclip.engines.graphs.parsed import (
    BFLOAT,
    BOOL,
    DTYPES,
    FLOAT,
    HALF,
    INT32,
    INT64,
    MAX_RANK,
    SHOWN,
    Attribute,
    Node,
    Stored,
)
from samclip.engines.graphs.sizes import Dim, least, most

Shape = tuple[Dim, ...]
Span = tuple[float, float]
MAX_FOLLOWED = 256  # elements of a tensor whose values are followed: shapes, pads, slices
FLOATS = (FLOAT, HALF, BFLOAT)
WHOLE = {INT32: 2**31, INT64: 2**63}  # the largest number of each type, and one


class Tensor(msgspec.Struct, gc=False):
    """A tensor: `dtype` as ONNX numbers it, the sizes of its axes.

    `values` are its elements, flat, where they are whole numbers that follow from stored ones and
    from shapes. `limits`: the least and the greatest element, or an array of elements among which
    `span` looks for them.
    `constant`: known before the graph runs, so that an engine may compute and keep it. `chain`: how
    many pointwise operators in a row made it. `fed`: an input of the graph.
    """

    dtype: int
    dims: Shape
    values: tuple[Dim, ...] | None = None
    limits: Span | NDArray[np.generic] | None = None
    constant: bool = False
    stored: Stored | None = None
    chain: int = 0
    fed: bool = False

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.dims)

    @property
    def span(self) -> Span | None:
        """The least and the greatest element, None where they are not known."""
        if isinstance(self.limits, np.ndarray):  # most are never asked for
            self.limits = (float(self.limits.min()), float(self.limits.max()))
        return self.limits

    @property
    def bytes(self) -> int:
        """The most bytes that it can take."""
        return most(self.dims) * DTYPES[self.dtype][1]


Inputs = Sequence[Tensor | None]


class Call(msgspec.Struct, gc=False):
    """A node with what it gets; `made` is the shape of its first output, once that is known.

    `token_rows`: how many rows it has for tokens to choose from, set by its rule.
    """

    node: Node
    inputs: Inputs
    made: Shape = ()
    token_rows: int | None = None

    def optional(self, place: int) -> Tensor | None:
        """Return the input at a place, None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None


class RefusedError(ValueError):
    """A node is refused; the message ends a sentence that begins with its name."""


def text(node: Node, name: str, default: str) -> str:
    """Return an attribute that is a word."""
    value = node.attributes.get(name, default)
    if not isinstance(value, str):
        raise RefusedError(f"its attribute {name!r} is not a word")
    return value


def integer(node: Node, name: str, default: int) -> int:
    """Return an attribute that is a whole number."""
    value = node.attributes.get(name, default)
    if not isinstance(value, int):
        raise RefusedError(f"its attribute {name!r} is not a whole number")
    return value


def fraction(node: Node, name: str, default: float) -> float:
    """Return an attribute that is a number."""
    value = node.attributes.get(name, default)
    if not isinstance(value, float):
        raise RefusedError(f"its attribute {name!r} is not a fraction")
    return value


def integers(node: Node, name: str, default: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return an attribute of `count` whole numbers."""
    value: Attribute = node.attributes.get(name, default)
    if not isinstance(value, tuple) or len(value) != count:
        raise RefusedError(f"its attribute {name!r} does not have {count} numbers")
    return value


def axis_of(number: int, rank: int) -> int:
    """Return the place of an axis, which may be counted from the end."""
    if not -rank <= number < rank:
        raise RefusedError(f"the axis {number} is asked of a tensor of {rank} axes")
    return number % rank


def axes_of(numbers: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return the places of different axes."""
    found = tuple(axis_of(number, rank) for number in numbers)
    if len(set(found)) != len(found):
        raise RefusedError("an axis is given twice")
    return found


def known(tensor: Tensor | None, what: str) -> tuple[int, ...]:
    """Return the values of a tensor that has to be known before the graph runs."""
    values = followed(tensor, what)
    if not all(isinstance(value, int) for value in values):
        raise RefusedError(f"its {what} depend on sizes of the input")
    return values  # type: ignore[return-value]


def followed(tensor: Tensor | None, what: str) -> tuple[Dim, ...]:
    """Return the values of a tensor, which may depend on the sizes of the input."""
    if tensor is None or tensor.values is None:
        raise RefusedError(f"its {what} are computed from data, so that its size is unknown")
    if tensor.rank > 1 or tensor.dtype not in WHOLE:
        raise RefusedError(f"its {what} are not a list of whole numbers")
    return tensor.values


def required(inputs: Inputs, count: int) -> list[Tensor]:
    """Return the first `count` inputs, all of which must be there."""
    found = [tensor for tensor in inputs[:count] if tensor is not None]
    if len(found) != count:
        raise RefusedError(f"it needs {count} inputs")
    return found


def same_type(*tensors: Tensor | None) -> int:
    """Return the type that all of these tensors have."""
    found = {tensor.dtype for tensor in tensors if tensor is not None}
    if len(found) != 1:
        raise RefusedError(
            f"its inputs have the types {', '.join(sorted(DTYPES[d][0] for d in found))}"
        )
    return found.pop()


def of_type(tensor: Tensor | None, *allowed: int) -> None:
    """Refuse a tensor of another type."""
    if tensor is not None and tensor.dtype not in allowed:
        raise RefusedError(f"an input is of the type {DTYPES[tensor.dtype][0]}")


def not_bool(tensor: Tensor) -> None:
    """Refuse truth values where numbers are expected."""
    if tensor.dtype == BOOL:
        raise RefusedError("an input holds truth values, expected numbers")


def numbers_only(dims: Sequence[Dim], what: str) -> tuple[int, ...]:
    """Return sizes that must not depend on the input."""
    if not all(isinstance(dim, int) for dim in dims):
        raise RefusedError(f"the sizes of its {what} depend on the input")
    return tuple(dims)  # type: ignore[arg-type]


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that shapes have together; axes are aligned at the end."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    rank = max(map(len, shapes))
    result = []
    for place in range(-rank, 0):
        side: Dim = 1
        for shape in shapes:
            other = shape[place] if -place <= len(shape) else 1
            side = _wider(side, other)
        result.append(side)
    return tuple(result)


def _wider(first: Dim, second: Dim) -> Dim:
    if second in (first, 1):
        return first
    if first == 1:
        return second
    if isinstance(first, int) != isinstance(second, int):
        return first if isinstance(first, int) else second  # or the run fails
    raise RefusedError(f"sizes {first} and {second} do not fit together")


def joined(*spans: Span | None) -> Span | None:
    """Return the span of elements that come from any of these tensors."""
    if not spans or any(span is None for span in spans):
        return None
    lows, highs = zip(*(span for span in spans if span is not None), strict=True)
    return min(lows), max(highs)


def shown(dims: Shape) -> str:
    """Write a shape."""
    return "x".join(map(str, dims)) or "a single number"


def check_dims(dims: Shape) -> None:
    """Refuse a shape with too many axes, or with one that can be negative."""
    if len(dims) > MAX_RANK:
        raise RefusedError(f"its result has {len(dims)} axes, at most {MAX_RANK} are accepted")
    for dim in dims:
        if dim == 0:
            raise RefusedError("its result has no elements")  # engines read past its end
        if (dim if isinstance(dim, int) else least(dim)) < 0:
            raise RefusedError(
                f"its result has an axis of {str(dim)[:SHOWN]}, which can be negative"
            )
