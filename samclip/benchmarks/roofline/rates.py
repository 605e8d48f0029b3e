"""Measured rates of this machine: products of matrices, and copies of memory.

The best of many runs counts, because other work on the machine only makes it slower. Products are
run as small ONNX graphs on the backends whose graphs are timed, in sizes and forms that models
have, and by numpy's BLAS; the fastest gives the rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.measurements import Arithmetic, Rate
from samclip.benchmarks.roofline.read_graph import import_onnx
from samclip.engines.base import Backend, EngineOptions, GraphSource
from samclip.progress import Progress, track

OPSET = 20  # every backend reads it
CHANNELS, SIDE = 256, 64  # of SAM's neck: 3x3 over 64 x 64 tokens
SIZES = (1024, 2048)
ROUNDS = 30
COPIED = 2**28  # bytes: beyond every cache


@dataclass(frozen=True)
class RateGraph:
    """A graph and what it takes: `operations` a run, two a multiply-accumulate."""

    how: str
    source: GraphSource
    feeds: dict[str, NDArray[np.float32]]
    operations: int


def matrix_product(size: int) -> RateGraph:
    """Two square matrices; the second is a constant, as weights are."""
    onnx, weight = import_onnx(), _noise(size, size)
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = _source(onnx, nodes, (size, size), (size, size), {"w": weight})
    how = f"MatMul, {size} x {size}"
    return RateGraph(how, source, {"x": _noise(size, size)}, 2 * size**3)


def convolution() -> RateGraph:
    """Make the 3x3 convolution of SAM's neck."""
    onnx = import_onnx()
    weight = _noise(CHANNELS, CHANNELS, 3, 3)
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    shape = (1, CHANNELS, SIDE, SIDE)
    source = _source(onnx, nodes, shape, shape, {"w": weight})
    operations = 2 * 9 * CHANNELS * CHANNELS * SIDE * SIDE
    how = f"Conv 3x3, {CHANNELS} channels, {SIDE} x {SIDE}"
    return RateGraph(how, source, {"x": _noise(*shape)}, operations)


def quantised_product(size: int) -> RateGraph:
    """Multiply 8-bit values by 8-bit weights between Q/DQ pairs, as INT8 graphs do."""
    onnx, make = import_onnx(), import_onnx().helper.make_node
    constants: dict[str, NDArray[Any]] = {
        "s": np.array(0.02, np.float32),
        "z": np.array(128, np.uint8),
        "w": np.rint(_noise(size, size) * 40).clip(-127, 127).astype(np.int8),
        "t": np.full(size, 0.02, np.float32),
        "u": np.array(2.0, np.float32),
    }
    nodes = [
        make("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make("DequantizeLinear", ["q", "s", "z"], ["a"]),
        make("DequantizeLinear", ["w", "t"], ["b"], axis=1),
        make("MatMul", ["a", "b"], ["c"]),
        make("QuantizeLinear", ["c", "u", "z"], ["r"]),
        make("DequantizeLinear", ["r", "u", "z"], ["y"]),
    ]
    source = _source(onnx, nodes, (size, size), (size, size), constants)
    how = f"MatMul between Q/DQ pairs, {size} x {size}"
    return RateGraph(how, source, {"x": _noise(size, size)}, 2 * size**3)


def _noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _source(
    onnx: Any,
    nodes: list[Any],
    given: tuple[int, ...],
    made: tuple[int, ...],
    constants: dict[str, NDArray[Any]],
) -> GraphSource:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "rate",
        [helper.make_tensor_value_info("x", kind, given)],
        [helper.make_tensor_value_info("y", kind, made)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return GraphSource("rate", model.SerializeToString())


@dataclass(frozen=True)
class Trial:
    """One way to measure a rate: `amount` operations or bytes a run."""

    arithmetic: Arithmetic
    how: str
    amount: int
    run: Callable[[], object]


def measure_rates(
    backends: Sequence[Backend], threads: int, progress: Progress, rounds: int = ROUNDS
) -> tuple[Rate, ...]:
    """Measure products in FP32 and INT8 on `backends`, and copies; all with `threads` threads.

    Ways take turns, so that a busy second meets all of them. Raises EngineError.
    """
    with ExitStack() as held:
        trials = [*_products(backends, threads, held), _blas(), _copy(threads, held)]
        best = dict.fromkeys(range(len(trials)), float("inf"))
        for _ in track(progress, range(rounds), "rates of this machine"):
            for place, trial in enumerate(trials):
                start = time.perf_counter()
                trial.run()
                best[place] = min(best[place], time.perf_counter() - start)
    speeds = [(trial.amount / best[place], trial) for place, trial in enumerate(trials)]
    kinds: tuple[Arithmetic, ...] = ("fp32", "int8", "copy")
    found = []
    for kind in kinds:
        speed, trial = max((s for s in speeds if s[1].arithmetic == kind), key=lambda s: s[0])
        rate = Rate(arithmetic=kind, per_second=speed, how=trial.how, threads=threads, runs=rounds)
        found.append(rate)
    return tuple(found)


def _products(backends: Sequence[Backend], threads: int, held: ExitStack) -> Iterator[Trial]:
    floats = [*map(matrix_product, SIZES), convolution()]
    for backend in backends:
        for graph in floats:
            yield _on_backend(backend, graph, "fp32", threads, held)
        for graph in map(quantised_product, SIZES):
            yield _on_backend(backend, graph, "int8", threads, held)


def _on_backend(
    backend: Backend, graph: RateGraph, kind: Arithmetic, threads: int, held: ExitStack
) -> Trial:
    engine = backend.load(graph.source, EngineOptions(threads=threads))
    held.callback(engine.close)
    how = f"{graph.how}, {backend.name}"
    return Trial(kind, how, graph.operations, lambda: engine.run(graph.feeds))


def _blas() -> Trial:
    """Numpy's product, with as many threads as its BLAS takes."""
    size = SIZES[-1]
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    out = np.empty_like(a)
    how = f"MatMul, {size} x {size}, numpy's BLAS"
    return Trial("fp32", how, 2 * size**3, lambda: np.matmul(a, b, out=out))


def _copy(threads: int, held: ExitStack) -> Trial:
    """Copy memory, a part in each thread; numpy lets go of the interpreter meanwhile."""
    source, target = np.ones((2, COPIED), np.uint8)
    pool = held.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="samclip-copy"))
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))

    def run() -> None:
        for done in [pool.submit(np.copyto, to, what) for to, what in parts]:
            done.result()

    return Trial("copy", f"numpy copy of {COPIED >> 20} MiB", 2 * COPIED, run)
