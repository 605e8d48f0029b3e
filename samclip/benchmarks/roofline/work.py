"""How much work a graph is: by operator, and in all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OperatorWork:
    """What the nodes of one operator, computing in one type, do in one run.

    `arithmetic` is the type of the factors of a product ("float32", "int8"), else of what is
    computed. `weight_bytes` are constants read, `activation_bytes` everything else that is read
    or written, as if every node went to memory.
    """

    operator: str
    arithmetic: str
    nodes: int
    macs: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Work:
    """The work of one run of one graph; see `count`.

    `io_bytes`: its inputs and outputs, which move however well it is computed.
    """

    graph: str
    parameters: int
    io_bytes: int
    operators: tuple[OperatorWork, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all products; twice that are floating-point operations."""
        return sum(entry.macs for entry in self.operators)

    @property
    def weight_bytes(self) -> int:
        """Constants read, each once, as an engine holds them after loading."""
        return sum(entry.weight_bytes for entry in self.operators)

    @property
    def activation_bytes(self) -> int:
        """What nodes read and write beside constants, if every node goes to memory."""
        return sum(entry.activation_bytes for entry in self.operators)

    @property
    def least_bytes(self) -> int:
        """What moves even if nothing between the inputs and the outputs leaves the caches."""
        return self.weight_bytes + self.io_bytes

    def macs_in(self, arithmetic: str) -> int:
        """MACs of the products that compute in this type."""
        return sum(entry.macs for entry in self.operators if entry.arithmetic == arithmetic)

    def by_arithmetic(self) -> dict[str, int]:
        """MACs by the type of the factors, the largest share first."""
        kinds = {entry.arithmetic for entry in self.operators if entry.macs}
        return dict(sorted(((k, self.macs_in(k)) for k in kinds), key=lambda kind: -kind[1]))
