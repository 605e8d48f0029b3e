"""NVIDIA's management library, through `nvidia-ml-py`: the memory and energy of GPUs.

Imported only where a driver is. A Jetson's library answers neither question.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from samclip.engines.machine.device import find_driver, jetson_model
from samclip.errors import CapabilityError

PACKAGE = "nvidia-ml-py"
SM_CLOCK, MEMORY_CLOCK = 1, 2  # nvmlClockType_t
SLOWDOWNS = {  # bits of nvmlClocksThrottleReasons; others, as of an idle GPU, are fine
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "temperature, by the driver",
    0x40: "temperature, by the hardware",
    0x80: "power brake",
}


@dataclass(frozen=True)
class GpuState:
    """One reading: clocks in hertz, degrees Celsius, watts; None for what is not reported.

    `slowed_by`: what slows the clocks down now, in words of SLOWDOWNS; empty for nothing.
    """

    clock: float | None
    memory_clock: float | None
    temperature: float | None
    watts: float | None
    slowed_by: tuple[str, ...] | None


class Nvml:
    """The GPU of number `index`, as the driver counts them; use `open_nvml`."""

    def __init__(self, library: Any, index: int) -> None:
        self._library = library
        self._handle = library.nvmlDeviceGetHandleByIndex(index)

    @property
    def name(self) -> str:
        """The GPU's name."""
        found = self._library.nvmlDeviceGetName(self._handle)
        return found.decode() if isinstance(found, bytes) else str(found)

    def joules(self) -> float:
        """Read the GPU's energy since its driver was loaded; raises CapabilityError.

        The counter is in millijoules and moves some ten times a second.
        """
        with translated(self._library, "its energy counter, which GPUs have from Volta on"):
            return float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def process_memory(self, process: int | None = None) -> int:
        """Read the bytes that a process, this one by default, holds; raises CapabilityError."""
        wanted = os.getpid() if process is None else process
        with translated(self._library, "the memory of its processes"):
            found = self._library.nvmlDeviceGetComputeRunningProcesses(self._handle)
        used = {entry.pid: entry.usedGpuMemory for entry in found}
        if used.get(wanted) is None:
            raise CapabilityError(
                "the driver does not list this process, as in a container with separate "
                "process numbers. Run it with --pid=host."
            )
        return int(used[wanted])

    def state(self) -> GpuState:
        """Read clocks, temperature, power and what slows the GPU down; None for what it hides."""
        library, gpu = self._library, self._handle

        def ask(function: str, *arguments: int) -> float | None:
            try:
                return float(getattr(library, function)(gpu, *arguments))
            except (library.NVMLError, AttributeError):  # not this GPU, or an older package
                return None

        clock, memory = (ask("nvmlDeviceGetClockInfo", kind) for kind in (SM_CLOCK, MEMORY_CLOCK))
        power = ask("nvmlDeviceGetPowerUsage")
        reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return GpuState(
            clock=None if clock is None else clock * 1e6,
            memory_clock=None if memory is None else memory * 1e6,
            temperature=ask("nvmlDeviceGetTemperature", 0),
            watts=None if power is None else power / 1e3,
            slowed_by=None
            if reasons is None
            else tuple(name for bit, name in SLOWDOWNS.items() if int(reasons) & bit),
        )


@contextmanager
def translated(library: Any, what: str) -> Iterator[None]:
    """Turn errors of the library into CapabilityError."""
    try:
        yield
    except library.NVMLError as error:
        raise CapabilityError(f"the GPU does not report {what}: {error}.") from error


@contextmanager
def open_nvml(index: int = 0) -> Iterator[Nvml]:
    """Open the library for one GPU; raises CapabilityError, which says what is missing."""
    if find_driver() is None:
        raise CapabilityError("there is no NVIDIA GPU here.")
    if jetson_model() is not None:
        raise CapabilityError("a Jetson's GPU has no separate memory and no energy counter.")
    try:
        library: Any = importlib.import_module("pynvml")
    except ImportError as error:
        raise CapabilityError(
            f"{PACKAGE} is not installed. Install it: pip install {PACKAGE}"
        ) from error
    with translated(library, "anything"):
        library.nvmlInit()
        try:
            gpu = Nvml(library, index)
        except BaseException:
            library.nvmlShutdown()
            raise
    try:
        yield gpu
    finally:
        library.nvmlShutdown()
