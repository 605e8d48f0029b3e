"""ESTIMATES for Jetson devices, from published rates alone: nothing here was measured on one.

A time is bounded below by the products at the dense rate of the GPU's tensor cores and by the
bytes that must move at the memory's rate; no engine is faster. What an engine reaches of that is
known of one published measurement: ViT-B/16 at 224 px, batch 1, FP16, takes 5.68 ms by TensorRT
10.3 on an Orin Nano 8GB (onnxsim, pull request 1742): 35 GFLOP in that time are 6.2 TFLOP/s, 36 %
of the 17 that it has in its fastest mode, or 62 % of the 10 of the 15 W mode. The source does
not say in which mode it ran. The smaller fraction is used for all devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from samclip.benchmarks.measurements import DeviceEstimate, GraphRoofline

FRACTION = 0.36
NOTE = (
    "ESTIMATE: no such device was measured. 'Not faster than' takes published dense rates, the GPU "
    "alone, in the fastest power mode, and published memory bandwidth, with weights and the "
    "graph's inputs and outputs moved once. 'At 36 %' is what is known to be reached: ViT-B/16 "
    "(224 px, FP16) by TensorRT 10.3 on an Orin Nano 8GB in 5.68 ms (onnxsim, pull request 1742). "
    "'int8' needs every product quantised that the INT8 graph has so, the rest in FP16."
)
# How much of its weights' bytes a graph has at least once it computes in FP16 or INT8.
WEIGHTS = {"fp32": 0.5, "int8": 0.5, "fp16": 1.0, "bf16": 1.0, "int8_fp16": 1.0}


@dataclass(frozen=True)
class Device:
    """Published dense rates, operations per second, and memory bandwidth, bytes per second.

    FP16 is half of INT8 on these tensor cores where the data sheet has INT8 alone.
    """

    name: str
    fp16: float
    int8: float
    bandwidth: float
    source: str


DEVICES = (
    Device(
        "Orin Nano 8GB (Super)",
        fp16=17e12,
        int8=33e12,
        bandwidth=102e9,
        source="Jetson Orin Nano Super Developer Kit data sheet: 67 sparse TOPS, 102 GB/s",
    ),
    Device(
        "Orin NX 16GB",
        fp16=15e12,
        int8=30e12,
        bandwidth=102.4e9,
        source="Jetson Orin NX Series Modules Data Sheet DS-10712-001: 1,024 cores and 32 tensor "
        "cores at 918 MHz, 102.4 GB/s; without the DLAs",
    ),
    Device(
        "AGX Orin 64GB",
        fp16=42.5e12,
        int8=85e12,
        bandwidth=204.8e9,
        source="Jetson AGX Orin Series Technical Brief v1.2: GPU 170 sparse INT8 TOPS, "
        "204.8 GB/s; without the DLAs",
    ),
    Device(
        "AGX Thor (T5000)",
        fp16=258.5e12,
        int8=517e12,
        bandwidth=273e9,
        source="Jetson T5000 module specifications: 1,035 sparse FP8 or INT8, 517 dense FP8 or "
        "sparse FP16 TFLOPS, 273 GB/s",
    ),
)


def estimate(graphs: Iterable[GraphRoofline]) -> tuple[DeviceEstimate, ...]:
    """Estimate each graph on each device: in INT8 where it has INT8 products, else in FP16."""
    return tuple(entry for graph in graphs for entry in _of_graph(graph))


def _of_graph(graph: GraphRoofline) -> Iterator[DeviceEstimate]:
    integer = graph.macs.get("int8", 0)
    precision: Literal["fp16", "int8"] = "int8" if integer else "fp16"
    moved = graph.weight_bytes * WEIGHTS[graph.precision] + graph.io_bytes
    for device in DEVICES:
        products = 2 * (integer / device.int8 + (graph.all_macs - integer) / device.fp16)
        memory = moved / device.bandwidth
        yield DeviceEstimate(
            model=graph.model,
            graph=graph.graph,
            device=device.name,
            precision=precision,
            not_below=max(products, memory),
            limit="products" if products >= memory else "memory",
            fraction=FRACTION,
            at_fraction=max(products, memory) / FRACTION,
            source=device.source,
        )
