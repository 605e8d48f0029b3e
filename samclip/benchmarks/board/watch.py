"""The machine's state before, during and after a measurement, and what slowed it down.

During it a thread reads once a second: some dozens of small files, a few milliseconds.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean

from samclip.benchmarks.board.record import During, Range, Reading
from samclip.benchmarks.nvml import GpuState, Nvml
from samclip.engines.machine.kernel_files import MachineFiles
from samclip.engines.machine.thermal import read_state

SECONDS = 1.0
GPU, GPU_MEMORY = "gpu", "gpu memory"
Read = Callable[[], Reading]


def reader(files: MachineFiles, gpu: Nvml | None = None) -> Read:
    """Return a function that reads the state of the machine, and of its GPU where one answers."""
    return lambda: _read(files, gpu)


def _read(files: MachineFiles, gpu: Nvml | None) -> Reading:
    state = read_state(files)
    card = GpuState(None, None, None, None, None) if gpu is None else gpu.state()
    currents = {c.name: c.current * c.unit for c in state.clocks if c.current is not None}
    currents |= _known({GPU: card.clock, GPU_MEMORY: card.memory_clock})
    return Reading(
        temperatures=(state.temperatures or {}) | _known({GPU: card.temperature}) or None,
        clocks=currents or None,
        clock_limits={c.name: c.highest * c.unit for c in state.clocks} or None,
        cooling=state.cooling,
        fans=state.fans,
        overcurrent=state.overcurrent,
        core_throttles=state.core_throttles,
        rails=(state.rails or {}) | _known({GPU: card.watts}) or None,
        memory=state.memory,
        gpu_slowed_by=card.slowed_by,
    )


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


class Watch:
    """Reads again and again until it is closed; `during` then sums up what was read."""

    def __init__(self, read: Read, seconds: float = SECONDS) -> None:
        self._read = read
        self._seconds = seconds
        self._readings: list[Reading] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="samclip-watch")
        self._thread.start()

    def close(self) -> None:
        """Read a last time, and stop."""
        self._end.set()
        self._thread.join()

    def during(self) -> During:
        """Sum up the readings of a watch that is closed."""
        taken = self._readings
        slowed = [one.gpu_slowed_by for one in taken if one.gpu_slowed_by is not None]
        reasons = dict.fromkeys(reason for one in slowed for reason in one)
        cooling = _series([one.cooling for one in taken])
        memory = [float(one.memory) for one in taken if one.memory is not None]
        return During(
            readings=len(taken),
            seconds=self._seconds,
            temperatures=_ranges([one.temperatures for one in taken]),
            clocks=_ranges([one.clocks for one in taken]),
            rails=_ranges([one.rails for one in taken]),
            memory=_range(memory) if memory else None,
            cooling={name: int(max(states)) for name, states in cooling.items()} or None,
            gpu_slowed_by=tuple(reasons) if slowed else None,
        )

    def _follow(self) -> None:
        while True:
            ended = self._end.is_set()  # before the reading, so that the last one is of the end
            self._readings.append(self._read())
            if ended:
                return
            self._end.wait(self._seconds)


@contextmanager
def watching(read: Read, seconds: float = SECONDS) -> Iterator[Watch]:
    """Watch the machine while the block runs."""
    watch = Watch(read, seconds)
    try:
        yield watch
    finally:
        watch.close()


def what_throttled(before: Reading, during: During, after: Reading) -> tuple[str, ...] | None:
    """Name what slowed the machine down between two readings; None where nothing would tell.

    Events that were counted, cooling devices at work, limits of clocks that were lowered, and what
    the GPU's driver says. Fans do not count.
    """
    found = [
        f"{name}: {count - (before.overcurrent or {}).get(name, 0)} events"
        for name, count in (after.overcurrent or {}).items()
        if count > (before.overcurrent or {}).get(name, 0)
    ]
    throttles = (after.core_throttles or 0) - (before.core_throttles or 0)
    if throttles > 0:
        found.append(f"cores slowed down for their heat {throttles} times")
    found += [f"{name}: state {state}" for name, state in (during.cooling or {}).items() if state]
    limits = before.clock_limits or {}
    found += [
        f"{name}: limit lowered to {limit / 1e6:.0f} MHz"
        for name, limit in (after.clock_limits or {}).items()
        if limit < limits.get(name, limit)
    ]
    found += [f"gpu: {reason}" for reason in during.gpu_slowed_by or ()]
    told = (before.overcurrent, before.core_throttles, before.cooling, during.gpu_slowed_by)
    return None if not found and all(one is None for one in told) else tuple(found)


def _series(taken: Sequence[Mapping[str, float] | None]) -> dict[str, list[float]]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for one in taken:
        for name, value in (one or {}).items():
            found[name].append(value)
    return found


def _ranges(taken: Sequence[Mapping[str, float] | None]) -> dict[str, Range] | None:
    return {name: _range(values) for name, values in _series(taken).items()} or None


def _range(values: Sequence[float]) -> Range:
    return Range(lowest=min(values), mean=fmean(values), highest=max(values))
