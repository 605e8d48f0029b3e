"""The inputs and outputs of a graph, as its bytes declare and compute them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSignature:
    """One input or output: `dtype` as numpy names it ("float32", "bool").

    `dims` holds a number for each fixed axis. A dynamic one is the name of its size ("prompts"),
    or an expression of such names ("2*prompts + 1").
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSignature:
    """The inputs and outputs of one graph, in its order; stored tensors are not among them.

    `working_bytes`: the most that intermediates take at once, in the largest run. `token_rows`: all
    elements of the input `tokens` must be below it, None where it chooses no rows of a table.
    """

    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    working_bytes: int = 0
    token_rows: int | None = None
