"""A Jetson's model, release and set-up, as its files describe them; nothing is run, or needs root.

No file names the JetPack release itself. `/etc/nv_tegra_release` names Jetson Linux (L4T), and so
does the version of the package nvidia-l4t-core; the table that maps it to a JetPack is that of
NVIDIA's JetPack archive. The contents of each release are from its release notes:
https://developer.nvidia.com/embedded/jetpack-archive
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from samclip.engines.machine.jetson_power import Power, read_power
from samclip.engines.machine.kernel_files import MachineFiles, bytes_of_kib

RELEASE_FILE = "/etc/nv_tegra_release"
PACKAGE_LIST = "/var/lib/dpkg/status"
CORE_PACKAGE, JETPACK_PACKAGE = "nvidia-l4t-core", "nvidia-jetpack"
JETPACKS = {
    "34.1.0": "5.0 DP",
    "34.1.1": "5.0.1 DP",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
SERIES = {32: "4.x", 34: "5.x", 35: "5.x", 36: "6.x", 38: "7.x", 39: "7.x"}
# The TensorRT that a JetPack comes with, longest prefix first, and its system's Python.
TENSORRTS = (("5.0", "8.4"), ("5.1", "8.5"), ("6.0", "8.6"), ("6.", "10.3"))
PYTHONS = {"5": "3.8", "6": "3.10", "7": "3.12"}  # of Ubuntu 20.04, 22.04 and 24.04
_RELEASE = re.compile(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")
_NUMBERS = re.compile(r"\d+(?:\.\d+)+")

MODEL_FILES = ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model")
MEMORY_FILE, SWAPS_FILE = "/proc/meminfo", "/proc/swaps"
TARGET_LINK = "/etc/systemd/system/default.target"
CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
MEMORY_DEVICE = "/dev/nvmap"  # what a process of the GPU must open; for the group `video`
TENSORRT_LIBRARIES = ("libnvinfer11", "libnvinfer10", "libnvinfer8")
TENSORRT_PYTHON = "python3-libnvinfer"


@dataclass(frozen=True)
class JetPack:
    """An installed Jetson Linux: `l4t` as "36.4.3", `version` of its JetPack as "6.2".

    `version` is a series, as "6.x", for a release that the table does not know; both are None where
    no file tells. `tensorrt` and `python` are the versions that it comes with, None when unknown.
    """

    l4t: str | None
    version: str | None
    tensorrt: str | None
    python: str | None


def find_jetpack(files: MachineFiles, packages: dict[str, str]) -> JetPack:
    """Identify the JetPack by its files and its installed Debian packages."""
    l4t = parse_release(files.text(RELEASE_FILE)) or _numbers(packages.get(CORE_PACKAGE, ""))
    version = JETPACKS.get(l4t or "") or _numbers(packages.get(JETPACK_PACKAGE, ""))
    if version is None and l4t is not None:
        version = SERIES.get(int(l4t.partition(".")[0]))
    known = version or ""
    tensorrt = next((number for prefix, number in TENSORRTS if known.startswith(prefix)), None)
    return JetPack(l4t, version, tensorrt, PYTHONS.get(known.partition(".")[0]))


def parse_release(text: str) -> str | None:
    """Read "# R36 (release), REVISION: 4.3, GCID: ..." as "36.4.3", None for any other text."""
    match = _RELEASE.search(text)
    if match is None:
        return None
    numbers = [match[1], *match[2].split("."), "0", "0"]
    return ".".join(numbers[:3])


def installed_packages(files: MachineFiles) -> dict[str, str]:
    """Return the installed Debian packages and their versions, from dpkg's list."""
    found: dict[str, str] = {}
    name, installed = "", False
    for line in files.text(PACKAGE_LIST).splitlines():
        heading, _, value = line.partition(": ")
        if heading == "Package":
            name, installed = value.strip(), False
        elif heading == "Status":  # a removed package may leave its entry behind
            installed = value.split()[-1:] == ["installed"]
        elif heading == "Version" and name and installed:
            found[name] = value.strip()
    return found


def _numbers(text: str) -> str | None:
    """Return the leading numbers of a version: "36.4.3" of "36.4.3-20250107174145"."""
    match = _NUMBERS.match(text)
    return None if match is None else match[0]


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
