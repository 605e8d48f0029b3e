"""Records of a roofline: what graphs do, how fast machines are, and what follows from both.

What a graph could take at the machine's rates, and how much of that it reaches.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from samclip.benchmarks.record import Record

Arithmetic = Literal["fp32", "int8", "copy"]


class OperatorShare(Record, frozen=True, kw_only=True):
    """The part that the nodes of one operator have in a graph; as in `OperatorWork`."""

    operator: str
    arithmetic: str
    nodes: int
    macs: int
    weight_bytes: int
    activation_bytes: int


class GraphRoofline(Record, frozen=True, kw_only=True):
    """One graph of one model: its work, and how long its runs took.

    `sizes`: the dynamic axes that it was run and counted at. `macs`: multiply-accumulates by the
    type of the factors ("float32", "int8"). `samples`: seconds. `ideal`: seconds that the products
    alone take at the machine's measured rates, and `reached` that divided by the median; None
    where the graph does not run on the host.
    """

    model: str
    graph: str
    backend: str
    precision: str
    sizes: dict[str, int]
    macs: dict[str, int]
    parameters: int
    weight_bytes: int
    activation_bytes: int
    io_bytes: int
    samples: tuple[float, ...]
    ideal: float | None
    reached: float | None
    operators: tuple[OperatorShare, ...]

    @property
    def reached_at_best(self) -> float | None:
        """The fraction that the fastest run reaches: rates are of the best runs too."""
        return None if self.ideal is None else self.ideal / min(self.samples)

    @property
    def all_macs(self) -> int:
        """Multiply-accumulates of all types."""
        return sum(self.macs.values())


class Rate(Record, frozen=True, kw_only=True):
    """How fast this machine did one thing at best.

    `per_second`: floating-point or integer operations (two a multiply-accumulate), or, of copies,
    bytes read and bytes written together. `how`: what was run. `runs`: out of how many the best
    is kept.
    """

    arithmetic: Arithmetic
    per_second: float
    how: str
    threads: int
    runs: int


class DeviceEstimate(Record, frozen=True, kw_only=True):
    """ESTIMATE, nothing measured: how long a graph would take on a device, from published rates.

    `not_below`: seconds that no engine can beat: the products at the published dense rate, or what
    must be read and written at the published bandwidth, whichever is longer, as `limit` says.
    `at_fraction`: seconds at the `fraction` of that bound that was reached elsewhere.
    """

    model: str
    graph: str
    device: str
    precision: Literal["fp16", "int8"]
    not_below: float
    limit: Literal["products", "memory"]
    fraction: float
    at_fraction: float
    source: str


class Roofline(Record, frozen=True, kw_only=True):
    """All of a roofline; `estimate_note` says what the estimates are worth."""

    graphs: tuple[GraphRoofline, ...]
    rates: tuple[Rate, ...]
    estimates: tuple[DeviceEstimate, ...] = ()
    estimate_note: str = ""


def rate_of(kind: Arithmetic, rates: Sequence[Rate]) -> float:
    """Give one of the measured rates, per second."""
    return next(rate.per_second for rate in rates if rate.arithmetic == kind)


def ideal_seconds(macs: Mapping[str, int], rates: Sequence[Rate]) -> float:
    """Give the time of the products alone, two operations a MAC.

    What is not INT8 counts at the FP32 rate: CPUs compute FP16 graphs in FP32.
    """
    integer = macs.get("int8", 0)
    floats = sum(macs.values()) - integer
    return 2 * (floats / rate_of("fp32", rates) + integer / rate_of("int8", rates))


def reached(ideal: float, samples: Sequence[float]) -> float:
    """Give the fraction of the rate that the median run reaches."""
    return ideal / statistics.median(samples)


def traffic_seconds(graph: GraphRoofline, rates: Sequence[Rate]) -> float:
    """Give the time of all that is read and written, node by node, at the rate of copies.

    Longer than the products take, it says that a graph run without fusion and caches would wait
    for memory.
    """
    moved = graph.weight_bytes + graph.activation_bytes
    return moved / rate_of("copy", rates)
