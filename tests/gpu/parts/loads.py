"""What many calls, callers at once and a lack of memory do to an engine."""

from __future__ import annotations

import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from report import Row

from parts.machines import Machine
from samclip.engines.base import Engine
from samclip.errors import DeviceMemoryError

MIB = 2**20
MOST_GROWTH = 1.0  # MiB over all calls
CALLERS, REPEATS = (2, 8), 10
AGREEMENT = 1e-3  # of the largest value: kernels may add in another order


def growth(where: str, engine: Engine, feeds: Any, machine: Machine, options: Namespace) -> Row:
    """Device memory taken by many calls, as the driver counts it, after a warm-up."""
    calls = 20 if options.dry_run else options.calls
    for _ in range(5):
        engine.run(feeds)
    before = machine.used(options.device)
    for _ in range(calls):
        engine.run(feeds)
    grown = machine.used(options.device) - before
    return Row(f"{where}: growth over {calls} calls", grown, "MiB", MOST_GROWTH, at_most=True)


def callers(where: str, engine: Engine, feeds: Any, options: Namespace) -> Iterator[Row]:
    """Several threads at once give what one gives alone."""
    alone = {name: np.array(tensor.numpy()) for name, tensor in engine.run(feeds).items()}
    repeats = 2 if options.dry_run else REPEATS
    for threads in CALLERS[: 1 if options.dry_run else None]:
        gate = threading.Barrier(threads)

        def call(_: int, gate: threading.Barrier = gate) -> float:
            gate.wait()
            return max(largest_error(alone, engine.run(feeds)) for _ in range(repeats))

        with ThreadPoolExecutor(threads) as pool:
            worst = max(pool.map(call, range(threads)))
        what = f"{where}: {threads} callers at once differ by, of the largest value"
        yield Row(what, worst, "", AGREEMENT, at_most=True)


def largest_error(expected: Any, found: Any) -> float:
    """Return the worst error of all outputs, as a share of an output's largest value.

    Infinite for an answer that is not finite.
    """
    worst = 0.0
    for name, tensor in found.items():
        value = tensor.numpy()
        if not np.isfinite(value).all():
            return float("inf")
        scale = float(np.abs(expected[name]).max()) or 1.0
        worst = max(worst, float(np.abs(value - expected[name]).max()) / scale)
    return worst


def shortage(
    where: str,
    start: Callable[[Machine], Engine],
    feeds: Any,
    machine: Machine,
    options: Namespace,
) -> Iterator[Row]:
    """Without free memory a run works or fails with its own error; with memory again it works.

    On a GPU with memory of its own all of it is taken. Where it is the machine's memory, that would
    stop the machine: there a limit refuses memory instead.
    """
    with machine.limited(options) as (limited, opened):
        engine = start(limited)
        try:
            expected = {n: np.array(t.numpy()) for n, t in engine.run(feeds).items()}
            taken = [] if machine.integrated else _take_all(machine, options)
            for device in opened:
                device.is_short = machine.integrated
            kept: list[Any] = []
            outcome = "worked from memory that was kept"
            try:
                kept += [engine.run(feeds) for _ in range(4)]
            except DeviceMemoryError:
                outcome = "DeviceMemoryError"
            finally:
                _give_back(taken, machine, options)
                for device in opened:
                    device.is_short = False
            how = "refused by a limit" if machine.integrated else "all taken"
            yield Row(f"{where}: memory {how}", outcome)
            kept.clear()
            worst = largest_error(expected, engine.run(feeds))
            what = f"{where}: error after the shortage, of the largest value"
            yield Row(what, worst, "", AGREEMENT, at_most=True)
        finally:
            engine.close()


def _take_all(machine: Machine, options: Namespace) -> list[int]:
    device = machine.open_device(options.device)
    taken = []
    with device.active():
        for size in (256 * MIB, 16 * MIB, MIB, MIB // 16):
            try:
                while True:
                    taken.append(device.allocate(size))
            except DeviceMemoryError:
                continue
    return taken


def _give_back(taken: list[int], machine: Machine, options: Namespace) -> None:
    device = machine.open_device(options.device)
    with device.active():
        for address in taken:
            device.free(address)
