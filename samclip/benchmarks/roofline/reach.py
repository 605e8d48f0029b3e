"""What a graph could take at the machine's rates, and how much of that it reaches."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from samclip.benchmarks.roofline.records import Arithmetic, GraphRoofline, Rate


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
