"""A Jetson's power mode and clocks, which decide how fast it computes.

nvpmodel keeps the number of the mode in a status file, and its configuration describes every mode;
jetson_clocks sets the lowest frequency of each clock to the highest. All of it is readable without
root, and nothing is run.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from samclip.engines.machine.kernel_files import MachineFiles

STATUS_FILE = "/var/lib/nvpmodel/status"  # "pmode:0002 fmode:quiet"
MODES_FILE = "/etc/nvpmodel.conf"
CPU_CLOCKS = "/sys/devices/system/cpu/cpufreq"
DEVICE_CLOCKS = "/sys/class/devfreq"
KILOHERTZ = 1e3
# 17000000.ga10b in JetPack 5, 17000000.gpu in JetPack 6, gpu-gpc-0 on a Thor
_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b")
_STATUS = re.compile(r"pmode:\s*(\d+)")
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)\s*>")
_LIMIT = re.compile(r"^(GPU|EMC)\w*\s+MAX_FREQ\s+(-?\d+)\s*$")
_CORE = re.compile(r"^CPU_ONLINE\s+CORE_\d+\s+1\s*$")


@dataclass(frozen=True)
class PowerMode:
    """A mode of nvpmodel: the highest GPU and memory frequencies in Hz (inf: no limit), and cores.

    A frequency is None where the mode does not set it.
    """

    number: int
    name: str
    gpu: float | None = None
    memory: float | None = None
    cores: int = 0

    @property
    def speed(self) -> tuple[float, float, int]:
        """The rank of a mode: by GPU, memory, then cores, because graphs run on the GPU."""
        return self.gpu or 0.0, self.memory or 0.0, self.cores


@dataclass(frozen=True)
class Clock:
    """A clock and the range it moves in, in Hz for a device and kHz for a CPU.

    `current` is its frequency when it was read, None where that is not reported.
    """

    name: str
    lowest: int
    highest: int
    current: int | None = None

    @property
    def unit(self) -> float:
        """Hertz of its unit."""
        return KILOHERTZ if self.name.startswith("policy") else 1.0

    @property
    def pinned(self) -> bool:
        """Whether it cannot move."""
        return self.lowest == self.highest


@dataclass(frozen=True)
class Power:
    """The mode in force, None when unknown, all modes there are, and clocks that can be read."""

    mode: PowerMode | None
    modes: tuple[PowerMode, ...] = ()
    clocks: tuple[Clock, ...] = field(default=())

    @property
    def fastest(self) -> PowerMode | None:
        """The least limited mode, which need not have the highest or the lowest number.

        None when the configuration tells too little to rank the modes.
        """
        ranked = [mode for mode in self.modes if mode.gpu is not None]
        if len(ranked) < len(self.modes):
            return None
        return max(ranked, key=lambda mode: mode.speed, default=None)

    @property
    def pinned(self) -> bool | None:
        """Whether jetson_clocks has pinned every clock; None when none can be read."""
        return all(clock.pinned for clock in self.clocks) if self.clocks else None


def read_power(files: MachineFiles) -> Power:
    """Read the power mode and the clocks."""
    modes = parse_modes(files.text(MODES_FILE))
    match = _STATUS.search(files.text(STATUS_FILE))
    mode = None
    if match is not None:
        number = int(match[1])
        known = {entry.number: entry for entry in modes}
        mode = known.get(number, PowerMode(number, f"mode {number}"))
    return Power(mode, modes, read_clocks(files))


def parse_modes(text: str) -> tuple[PowerMode, ...]:
    """Read the modes of nvpmodel's configuration, in its order."""
    pieces = _MODE.split(text)
    described = zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True)
    return tuple(_read_mode(int(number), name, body) for number, name, body in described)


def read_clocks(files: MachineFiles) -> tuple[Clock, ...]:
    """Read the ranges of the CPU's and the GPU's clocks."""
    policies = [name for name in files.folders(CPU_CLOCKS) if "/policy" in name]
    gpus = [name for name in files.folders(DEVICE_CLOCKS) if _GPU.search(name.rpartition("/")[2])]
    cpu_files = ("scaling_min_freq", "scaling_max_freq", "scaling_cur_freq")
    found = [_read_clock(files, name, *cpu_files) for name in policies]
    found += [_read_clock(files, name, "min_freq", "max_freq", "cur_freq") for name in gpus]
    return tuple(clock for clock in found if clock is not None)


def read_governors(files: MachineFiles) -> str | None:
    """Return the CPU's frequency governor, all of them where cores differ; None when unknown."""
    policies = [name for name in files.folders(CPU_CLOCKS) if "/policy" in name]
    found = {files.text(f"{name}/scaling_governor").strip() for name in policies} - {""}
    return ", ".join(sorted(found)) or None


def _read_mode(number: int, name: str, body: str) -> PowerMode:
    limits: dict[str, float] = {}
    lines = [line.strip() for line in body.splitlines()]
    for match in filter(None, map(_LIMIT.match, lines)):
        hertz = int(match[2])
        # -1 and 0 both lift the limit
        limits.setdefault(match[1], float(hertz) if hertz > 0 else math.inf)
    cores = sum(_CORE.match(line) is not None for line in lines)
    return PowerMode(number, name, limits.get("GPU"), limits.get("EMC"), cores)


def _read_clock(
    files: MachineFiles, folder: str, lowest: str, highest: str, current: str
) -> Clock | None:
    low, high = files.number(f"{folder}/{lowest}"), files.number(f"{folder}/{highest}")
    if low is None or high is None:
        return None
    return Clock(folder.rpartition("/")[2], low, high, files.number(f"{folder}/{current}"))
