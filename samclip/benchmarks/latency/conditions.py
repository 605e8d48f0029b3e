"""What the machine's speed hangs on: its power mode and its clocks, as files tell them."""

from __future__ import annotations

from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.timing import ClockRange, Conditions, Settings, Timing
from samclip.engines.base import EngineOptions
from samclip.engines.machine.files import MachineFiles
from samclip.engines.machine.jetson_power import CPU_CLOCKS, Clock, read_power

CUDA_GRAPHS = frozenset({"tensorrt", "tensorrt-rtx"})  # backends that capture them
KILOHERTZ = 1e3


def describe_conditions(order: str, files: MachineFiles | None = None) -> Conditions:
    """Read the power mode, or the CPU's governor, and the ranges of the clocks.

    Most containers and virtual machines tell nothing: then all is None or empty.
    """
    files = MachineFiles() if files is None else files
    power = read_power(files)
    mode = power.mode.name if power.mode is not None else _governor(files)
    clocks = tuple(_in_hertz(clock) for clock in power.clocks)
    return Conditions(power_mode=mode, clocks=clocks, clocks_pinned=power.pinned, order=order)


def describe_settings(contender: Contender, warm_up: int, timings: list[Timing]) -> Settings:
    """Say how a model was run; how often is counted in its warm timings."""
    options = EngineOptions(threads=contender.variant.threads)
    name, backend = contender.name, contender.backend
    kept = [len(t.samples) for t in timings if t.model == name and t.state == "warm"]
    return Settings(
        model=name,
        backend=backend.name,
        precisions=dict(backend.precisions),
        threads=options.threads,
        device=options.device,
        cuda_graphs=options.cuda_graphs if backend.name in CUDA_GRAPHS else None,
        transfers="none" if backend.on_host else "included",
        warm_up=warm_up,
        repeats=max(kept, default=0),
    )


def _governor(files: MachineFiles) -> str | None:
    """Give the CPU's frequency governor, all of them where cores differ."""
    policies = [name for name in files.folders(CPU_CLOCKS) if "/policy" in name]
    found = {files.text(f"{name}/scaling_governor").strip() for name in policies} - {""}
    return ", ".join(sorted(found)) or None


def _in_hertz(clock: Clock) -> ClockRange:
    unit = KILOHERTZ if clock.name.startswith("policy") else 1.0  # of CPUs in kHz, else in Hz
    return ClockRange(name=clock.name, lowest=clock.lowest * unit, highest=clock.highest * unit)
