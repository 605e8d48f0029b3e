"""How fast this machine multiplies matrices and copies memory, measured: the best of many runs.

The best, because a rate is what the machine can do: whatever else runs only makes it less.
Products are tried on the backends whose graphs are timed, in sizes and forms that models have, and
in numpy's BLAS; the fastest names the rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from samclip.benchmarks.progress import Track
from samclip.benchmarks.roofline.rate_graphs import (
    RateGraph,
    convolution,
    matrix_product,
    quantised_product,
)
from samclip.benchmarks.roofline.records import Arithmetic, Rate
from samclip.engines.base import Backend, EngineOptions

SIZES = (1024, 2048)
ROUNDS = 30
COPIED = 2**28  # bytes: beyond every cache


@dataclass(frozen=True)
class Trial:
    """One way to measure a rate: `amount` operations or bytes a run."""

    arithmetic: Arithmetic
    how: str
    amount: int
    run: Callable[[], object]


def measure_rates(
    backends: Sequence[Backend], threads: int, track: Track, rounds: int = ROUNDS
) -> tuple[Rate, ...]:
    """Measure products in FP32 and INT8 on `backends`, and copies; all with `threads` threads.

    Ways take turns, so that a busy second meets all of them. Raises EngineError.
    """
    with ExitStack() as held:
        trials = [*_products(backends, threads, held), _blas(), _copy(threads, held)]
        best = dict.fromkeys(range(len(trials)), float("inf"))
        for _ in track(range(rounds), "rates of this machine"):
            for place, trial in enumerate(trials):
                start = time.perf_counter()
                trial.run()
                best[place] = min(best[place], time.perf_counter() - start)
    speeds = [(trial.amount / best[place], trial) for place, trial in enumerate(trials)]
    kinds: tuple[Arithmetic, ...] = ("fp32", "int8", "copy")
    return tuple(_best(kind, speeds, threads, rounds) for kind in kinds)


def _best(kind: Arithmetic, speeds: list[tuple[float, Trial]], threads: int, rounds: int) -> Rate:
    speed, trial = max((s for s in speeds if s[1].arithmetic == kind), key=lambda s: s[0])
    return Rate(arithmetic=kind, per_second=speed, how=trial.how, threads=threads, runs=rounds)


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
