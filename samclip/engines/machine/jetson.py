"""A Jetson's model and set-up, as its files describe them; nothing is run, or needs root."""

from __future__ import annotations

from dataclasses import dataclass

from samclip.engines.machine.jetpacks import (
    CORE_PACKAGE,
    RELEASE_FILE,
    JetPack,
    find_jetpack,
    installed_packages,
)
from samclip.engines.machine.jetson_power import Power, read_power
from samclip.engines.machine.kernel_files import MachineFiles, bytes_of_kib

MODEL_FILES = ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model")
MEMORY_FILE, SWAPS_FILE = "/proc/meminfo", "/proc/swaps"
TARGET_LINK = "/etc/systemd/system/default.target"
CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
MEMORY_DEVICE = "/dev/nvmap"  # what a process of the GPU must open; for the group `video`
TENSORRT_LIBRARIES = ("libnvinfer11", "libnvinfer10", "libnvinfer8")
TENSORRT_PYTHON = "python3-libnvinfer"


@dataclass(frozen=True)
class Memory:
    """The memory of a machine in bytes; a Jetson's GPU takes its share of the same memory.

    `swap` is all swap; `zram` is the part of it that is compressed memory, not a disk.
    """

    total: int
    available: int
    swap: int
    zram: int


@dataclass(frozen=True)
class SystemTensorRt:
    """Versions of the system's packages of TensorRT, None for one that is not installed."""

    library: str | None
    python: str | None


@dataclass(frozen=True)
class Jetson:
    """A Jetson; `model` is "" where a container hides it.

    `desktop`: whether a graphical desktop starts; `gpu_allowed`: whether this user may use the GPU.
    Both are None when unknown.
    """

    model: str
    jetpack: JetPack
    power: Power
    memory: Memory
    tensorrt: SystemTensorRt
    container: bool
    desktop: bool | None
    gpu_allowed: bool | None


def find_jetson(files: MachineFiles | None = None) -> Jetson | None:
    """Describe this Jetson by its files; None when the machine is not a Jetson."""
    files = MachineFiles() if files is None else files
    model = next(filter(None, map(files.text, MODEL_FILES)), "")
    if model and "NVIDIA" not in model and "Jetson" not in model:  # another Arm board
        return None
    packages = installed_packages(files)
    if not (model or files.exists(RELEASE_FILE) or CORE_PACKAGE in packages):
        return None
    library = next((packages[name] for name in TENSORRT_LIBRARIES if name in packages), None)
    target = files.link(TARGET_LINK)
    return Jetson(
        model=model,
        jetpack=find_jetpack(files, packages),
        power=read_power(files),
        memory=read_memory(files),
        tensorrt=SystemTensorRt(_version(library), _version(packages.get(TENSORRT_PYTHON))),
        container=any(map(files.exists, CONTAINER_FILES)),
        desktop=target.endswith("graphical.target") if target else None,
        gpu_allowed=files.usable(MEMORY_DEVICE) if files.exists(MEMORY_DEVICE) else None,
    )


def read_memory(files: MachineFiles) -> Memory:
    """Read the sizes of memory and swap; 0 for what the system does not report."""
    fields = files.fields(MEMORY_FILE)
    sizes = {name: bytes_of_kib(fields.get(name, "")) for name in ("MemTotal", "MemAvailable")}
    zram = 0
    for line in files.text(SWAPS_FILE).splitlines()[1:]:  # Filename Type Size Used Priority
        columns = line.split()
        if len(columns) > 2 and columns[0].rpartition("/")[2].startswith("zram"):
            zram += bytes_of_kib(columns[2])
    return Memory(
        sizes["MemTotal"], sizes["MemAvailable"], bytes_of_kib(fields.get("SwapTotal", "")), zram
    )


def _version(text: str | None) -> str | None:
    """Return the version proper: "10.3.0.30" of "10.3.0.30-1+cuda12.5"."""
    return None if text is None else text.partition("-")[0]
