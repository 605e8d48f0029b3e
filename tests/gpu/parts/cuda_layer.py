"""The layer around a plan on a real driver, without TensorRT: `engines/cuda` and engines of plans.

Slots, pools, pinned memory, captured graphs, callers at once, growth, a shortage, and 20 cycles of
load and close, with torch in the same process. The network is y = 2 x + 1, which is exact.
"""

from __future__ import annotations

import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
from report import Row, attempt

from parts.affine import MOST, WIDE
from parts.loads import MIB, growth, shortage
from parts.machines import Machine, machine_of
from parts.timing import race
from parts.torch_here import need_torch
from samclip.engines.base import Engine
from samclip.engines.cuda.memory import CudaTensor
from samclip.engines.foreign import ForeignTensor, Keeper, take

THREADS, RUNS, CYCLES = 8, 50, 20
MOST_ENQUEUED = 2  # of five runs of a shape: the first, and the one that is captured
FRAME = (288, 511, 3)  # no pitch that CUDA would choose
MOST_CYCLE_GROWTH = 8.0  # MiB over all cycles; a leak of one engine's buffers is more


def check_cuda_layer(options: Namespace) -> Iterator[Row]:
    need_torch(options)
    machine = machine_of(options)
    yield Row("driven by", machine.package)
    steps: dict[str, Callable[[Machine, Namespace], Iterator[Row]]] = {
        "results, large and small": _results,
        "captured graph": _captured,
        "tensor of another engine": _handed_on,
        "photo of another library": _kept,
        "callers at once": _callers,
        "growth": _growth,
        "time of a call": _times,
        "load and close": _cycles,
        "shortage": _shortage,
        "torch afterwards": _torch_works,
    }
    for name, step in steps.items():
        yield from attempt(name, lambda step=step: step(machine, options))


def _results(machine: Machine, options: Namespace) -> Iterator[Row]:
    engine, _ = machine.affine(options.device)
    with closing(engine):
        for rows in (1, 3, MOST):
            yield Row(f"{rows} x {WIDE}: right", int(_is_right(engine, rows)), "", 1)
        feeds = {"x": machine.place(_made(3, 1.0), options.device)}
        y = engine.run(feeds)["y"].numpy()
        yield Row(
            "input on the device: right", int(np.array_equal(y, _made(3, 1.0) * 2 + 1)), "", 1
        )


def _captured(machine: Machine, options: Namespace) -> Iterator[Row]:
    engine, module = machine.affine(options.device)
    with closing(engine):
        right = all(_is_right(engine, 4, factor) for factor in range(5))
        yield Row("5 runs of a shape, other data each time: right", int(right), "", 1)
        count = module.contexts[0].enqueued
        what = "runs that were enqueued of the 5; the others replayed a captured graph"
        yield Row(what, count, "", MOST_ENQUEUED, at_most=True)
        right = all(_is_right(engine, rows, 1 + turn) for turn, rows in enumerate((9, 9, 9, 4, 9)))
        yield Row("another shape, and back: right", int(right), "", 1)
    engine, module = machine.affine(options.device, cuda_graphs=False)
    with closing(engine):
        right = all(_is_right(engine, 4, factor) for factor in range(5))
        yield Row(
            "without captured graphs: right", int(right and module.contexts[0].enqueued == 5), "", 1
        )


def _handed_on(machine: Machine, options: Namespace) -> Iterator[Row]:
    first, _ = machine.affine(options.device)
    second, _ = machine.affine(options.device)
    x = _made(3, 1.0)
    y = first.run({"x": x})["y"]
    first.close()
    with closing(second):
        found = second.run({"x": y})["y"].numpy()
    yield Row("right, after the first was closed", int(np.array_equal(found, x * 4 + 3)), "", 1)


class _Frame:
    """The left columns of a frame on the GPU, HxWx3 uint8, as another library shows them."""

    def __init__(self, whole: CudaTensor, columns: int, index: int) -> None:
        height, width, channels = whole.shape
        self.whole, self.device = whole, index
        self.__cuda_array_interface__ = {
            "shape": (height, columns, channels),
            "typestr": "|u1",
            "data": (whole.address, False),
            "strides": (width * channels, channels, 1),
            "version": 3,
            "stream": None,
        }


def _kept(machine: Machine, options: Namespace) -> Iterator[Row]:
    engine, _ = machine.affine(options.device)
    assert isinstance(engine, Keeper)
    pixels = np.random.default_rng(0).integers(0, 256, FRAME, dtype=np.uint8)
    whole = machine.place(pixels, options.device)
    width = FRAME[1]
    with closing(engine):
        for what, columns, wide in (
            ("rows without gaps", width, width),
            ("into wider rows", width, width + 101),
            ("a part of each row", width - 7, width + 101),
        ):
            given = take(_Frame(whole, columns, options.device))
            assert isinstance(given, ForeignTensor)
            kept = engine.keep(given, wide)
            right = kept is not None and np.array_equal(
                kept.numpy()[:, :columns], pixels[:, :columns]
            )
            yield Row(f"{what}: right", int(right), "", 1)


def _callers(machine: Machine, options: Namespace) -> Iterator[Row]:
    engine, module = machine.affine(options.device, contexts=4)
    runs = 5 if options.dry_run else RUNS
    wrong: list[str] = []

    def call(number: int) -> None:
        try:
            for turn in range(runs):
                if not _is_right(engine, 1 + (number + turn) % 2, number + turn):
                    wrong.append(f"thread {number}, run {turn}")
        except Exception as error:
            wrong.append(repr(error))

    with closing(engine):
        threads = [threading.Thread(target=call, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    what = f"{THREADS} threads, {runs} runs each, two shapes"
    yield Row(f"{what}: contexts", len(module.contexts))
    yield Row(f"{what}: wrong", len(wrong), "", 0, at_most=True)
    if wrong:
        yield Row(f"{what}: the first that was wrong", error="; ".join(wrong[:3]))


def _growth(machine: Machine, options: Namespace) -> Iterator[Row]:
    engine, _ = machine.affine(options.device)
    with closing(engine):
        yield growth("affine", engine, {"x": _made(16, 1.0)}, machine, options)


def _times(machine: Machine, options: Namespace) -> Iterator[Row]:
    torch, _ = need_torch(options)
    feeds = {"x": machine.place(_made(1, 1.0), options.device)}
    for graphs in (True, False):
        engine, _ = machine.affine(options.device, cuda_graphs=graphs)
        with closing(engine):
            taken = np.median(race([partial(engine.run, feeds)], options, torch)[0])
        how = "with" if graphs else "without"
        yield Row(f"one row, {how} a captured graph, on the device", 1e3 * float(taken), "us")


def _cycles(machine: Machine, options: Namespace) -> Iterator[Row]:
    torch, device = need_torch(options)
    cycles = 3 if options.dry_run else CYCLES
    tensor = torch.ones(8, device=device)
    right, before = True, 0.0
    for cycle in range(cycles):
        engine, _ = machine.affine(options.device)
        with closing(engine):
            right &= all(_is_right(engine, 2, cycle + turn) for turn in range(3))
        right &= float((tensor * 3).sum()) == 24
        if cycle == 0:
            before = machine.used(options.device)
    yield Row(f"{cycles} times, torch in between: right", int(right), "", 1)
    grown = machine.used(options.device) - before
    yield Row(f"{cycles} times: growth", grown, "MiB", MOST_CYCLE_GROWTH, at_most=True)


def _shortage(machine: Machine, options: Namespace) -> Iterator[Row]:
    feeds = {"x": _made(MOST if not options.dry_run else 64, 1.0)}

    def start(limited: Machine) -> Engine:
        return limited.affine(options.device)[0]

    yield from shortage("affine", start, feeds, machine, options)


def _torch_works(machine: Machine, options: Namespace) -> Iterator[Row]:
    torch, device = need_torch(options)
    made = torch.ones(MIB, device=device)
    yield Row("a sum", int(float(made.sum()) == MIB), "", 1)


def _made(rows: int, factor: float) -> Any:
    """Whole numbers, so that float32 is exact."""
    return np.float32(factor) * (np.arange(rows * WIDE, dtype=np.float32) % 1021).reshape(
        rows, WIDE
    )


def _is_right(engine: Engine, rows: int, factor: float = 1.0) -> bool:
    x = _made(rows, factor)
    return bool(np.array_equal(engine.run({"x": x})["y"].numpy(), x * 2 + 1))
