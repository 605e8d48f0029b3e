"""A graph with every shape known: what the counting works on, free of ONNX's own classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Attribute = int | float | str | tuple[int, ...]


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
        """Give an integer attribute."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else default


@dataclass(frozen=True)
class ShapedGraph:
    """One graph, its nodes in an order in which they can run.

    `tensors` has the type of every tensor that a node reads or writes. `distinct` names
    those stored with the graph, and tells how many elements of each are no repetitions;
    `constants` are known before it runs: those stored, and what nodes make of nothing else.
    """

    name: str
    nodes: tuple[ShapedNode, ...]
    tensors: Mapping[str, TensorType]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    distinct: Mapping[str, int]
    constants: frozenset[str]
