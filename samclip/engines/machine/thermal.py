"""The state that a machine is in: temperatures, clocks, power, and what slows it down.

All of it is read from files of Linux, without root, and nothing is run. What the system does not
report is None. Sources: the kernel's `Documentation/ABI/testing/sysfs-class-thermal`,
`Documentation/hwmon/ina3221.rst`, and for a Jetson its hwmon device `soctherm_oc`, whose counters
`ocN_event_cnt` are those of the Jetson Linux Developer Guide: on an Orin 1 is under-voltage, 2 the
average and 3 the instantaneous over-current.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from samclip.engines.machine.free_memory import available_memory
from samclip.engines.machine.jetson_power import Clock, read_clocks
from samclip.engines.machine.kernel_files import MachineFiles

THERMAL = "/sys/class/thermal"
SENSORS = "/sys/class/hwmon"
CPUS = "/sys/devices/system/cpu"
OVERCURRENT, POWER_MONITOR = "soctherm_oc", "ina3221"
TOTAL_RAIL = "VDD_IN"  # the input of an Orin NX's or Nano's module: all that it takes
CHANNELS = (1, 2, 3)  # of a power monitor
COLDEST = -100.0  # degrees: a zone that is switched off reports less, as -256
_CPU = re.compile(r"/cpu\d+$")
T = TypeVar("T")


@dataclass(frozen=True)
class MachineState:
    """One reading. Names are the kernel's; the same name again ends in #2, #3, ...

    `temperatures`: degrees Celsius by thermal zone. `clocks`: of CPU and GPU. `cooling`: the state
    of each cooling device but fans, 0 where it does not slow down anything; `fans` alike.
    `overcurrent`: events of a Jetson since it started, by counter. `core_throttles`: how often x86
    cores were slowed down for their heat since the start. `rails`: watts of a Jetson by rail.
    `memory`: bytes that a process may still take.
    """

    temperatures: dict[str, float] | None
    clocks: tuple[Clock, ...]
    cooling: dict[str, int] | None
    fans: dict[str, int] | None
    overcurrent: dict[str, int] | None
    core_throttles: int | None
    rails: dict[str, float] | None
    memory: int | None


def read_state(files: MachineFiles | None = None) -> MachineState:
    """Read the state of this machine, or of the one that `files` describe; takes milliseconds."""
    files = MachineFiles() if files is None else files
    cooling, fans = _read_cooling(files)
    return MachineState(
        temperatures=_named(_temperatures(files)),
        clocks=read_clocks(files),
        cooling=cooling,
        fans=fans,
        overcurrent=_read_overcurrent(files),
        core_throttles=_read_core_throttles(files),
        rails=read_rails(files),
        memory=available_memory(files),
    )


def read_rails(files: MachineFiles) -> dict[str, float] | None:
    """Return the watts of each rail that a Jetson's power monitors measure, None for none."""
    return _named(_rails(files))


def _temperatures(files: MachineFiles) -> Iterator[tuple[str, float]]:
    for zone in _entries(files, THERMAL, "thermal_zone"):
        text, name = files.text(f"{zone}/temp"), files.text(f"{zone}/type")
        if name and re.fullmatch(r"-?\d{1,9}", text) and int(text) / 1e3 > COLDEST:
            yield name, int(text) / 1e3


def _read_cooling(files: MachineFiles) -> tuple[dict[str, int] | None, dict[str, int] | None]:
    found = []
    for device in _entries(files, THERMAL, "cooling_device"):
        state, name = files.number(f"{device}/cur_state"), files.text(f"{device}/type")
        if name and state is not None:
            found.append((name, state))
    is_fan = ["fan" in name.lower() for name, _ in found]
    return (
        _named(one for one, fan in zip(found, is_fan, strict=True) if not fan),
        _named(one for one, fan in zip(found, is_fan, strict=True) if fan),
    )


def _read_overcurrent(files: MachineFiles) -> dict[str, int] | None:
    for sensor in _monitors(files, OVERCURRENT):
        counts = {f"oc{n}": files.number(f"{sensor}/oc{n}_event_cnt") for n in CHANNELS}
        known = {name: count for name, count in counts.items() if count is not None}
        return known or None
    return None


def _read_core_throttles(files: MachineFiles) -> int | None:
    cores = [name for name in files.folders(CPUS) if _CPU.search(name)]
    counts = [files.number(f"{core}/thermal_throttle/core_throttle_count") for core in cores]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _rails(files: MachineFiles) -> Iterator[tuple[str, float]]:
    for sensor in _monitors(files, POWER_MONITOR):
        for channel in CHANNELS:
            name = files.text(f"{sensor}/in{channel}_label")
            millivolts = files.number(f"{sensor}/in{channel}_input")
            milliamperes = files.number(f"{sensor}/curr{channel}_input")
            if name and millivolts is not None and milliamperes is not None:
                yield name, millivolts * milliamperes / 1e6


def _monitors(files: MachineFiles, name: str) -> Iterator[str]:
    """Yield the hwmon devices of a driver; their numbers differ from start to start."""
    for sensor in _entries(files, SENSORS, "hwmon"):
        if files.text(f"{sensor}/name") == name:
            yield sensor


def _entries(files: MachineFiles, folder: str, prefix: str) -> list[str]:
    """Return the numbered entries of a folder in the order of their numbers."""
    found = [name for name in files.folders(folder) if name.startswith(f"{folder}/{prefix}")]
    return sorted(found, key=lambda name: (len(name), name))


def _named(pairs: Iterable[tuple[str, T]]) -> dict[str, T] | None:
    """Put pairs into a dictionary, names that come again numbered; None for no pairs."""
    found: dict[str, T] = {}
    counts: dict[str, int] = {}
    for name, value in pairs:
        counts[name] = counts.get(name, 0) + 1
        found[name if counts[name] == 1 else f"{name}#{counts[name]}"] = value
    return found or None
