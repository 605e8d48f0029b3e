"""What `samclip doctor` finds amiss on any machine, each with what to do about it.

What `samclip doctor` finds amiss on a Jetson, each with what to do about it.

Nothing is changed: commands that need root are told, never run.

The packages that samclip asks for, as its own metadata lists them, and what is installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from samclip.cli.tables import format_bytes
from samclip.engines.base import Probe
from samclip.engines.machine.device import PythonHere
from samclip.engines.machine.jetson import Jetson
from samclip.engines.names import OPENVINO
from samclip.engines.openvino.library import suits_processor
from samclip.engines.registry import backends

LEAST_FREE = 2 * 10**9  # bytes: the plans of one bundle, and what is written while they are built


@dataclass(frozen=True)
class Finding:
    """Something to do: a "problem" keeps something from working, "advice" makes it faster."""

    about: str
    level: Literal["problem", "advice"]
    detail: str
    remedy: str


def judge_backends(probes: Mapping[str, Probe]) -> list[Finding]:
    """List backends that work and yet have a fault, as two packages with the same files."""
    return [
        Finding(name, "problem", probe.detail, probe.remedy)
        for name, probe in probes.items()
        if probe.available and probe.remedy
    ]


def judge_cpu(probes: Mapping[str, Probe]) -> list[Finding]:
    """Recommend OpenVINO where the CPU computes, has been measured, and lacks it."""
    on_host = {backend.name for backend in backends() if backend.traits.on_host}
    on_gpu = any(probe.available for name, probe in probes.items() if name not in on_host)
    missing = probes.get(OPENVINO)
    if on_gpu or missing is None or missing.available or not suits_processor():
        return []
    detail = f"{missing.detail}; with ViT encoders it takes less memory than ONNX Runtime"
    return [Finding(OPENVINO, "advice", detail, missing.remedy)]


def judge_cache(cache: Mapping[str, Any]) -> list[Finding]:
    """Judge the cache folder as `examine_folder` describes it: writable, and with enough room."""
    found = []
    if not cache["writable"]:
        found.append(Finding("cache", "problem", f"{cache['path']} is unusable", cache["remedy"]))
    free = cache["free"]
    if free is not None and free < LEAST_FREE:
        detail = f"{free / 1e9:.1f} GB are free on the disk of {cache['path']}"
        remedy = "free at least 2 GB, or set SAMCLIP_CACHE_DIR to a folder on a larger disk"
        found.append(Finding("disk", "problem", detail, remedy))
    return found


OLDEST_TENSORRT = 10  # the first major version with strongly typed networks
SMALL = 10 * 10**9  # bytes: boards of 4 and 8 GB, where builds need swap and a desktop hurts
LOW = 1_500_000_000  # bytes: a build of a ViT-B's encoder may fail below
SWAP_COMMANDS = (
    "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
    "sudo swapon /swapfile"
)
HEADLESS = "sudo systemctl set-default multi-user.target, then restart"


def judge_jetson(jetson: Jetson, python: PythonHere) -> list[Finding]:
    """List what is wrong or slow on this Jetson, what keeps things from working first."""
    found = [
        *judge_release(jetson),
        *judge_tensorrt(jetson, python),
        *judge_access(jetson),
        *judge_power(jetson),
        *judge_memory(jetson),
    ]
    return sorted(found, key=lambda finding: finding.level != "problem")


def judge_release(jetson: Jetson) -> list[Finding]:
    """Judge the release of JetPack: known, and with a TensorRT that plans can be built with."""
    jetpack = jetson.jetpack
    if jetpack.version is None:
        detail = "no file tells which JetPack this is"
        remedy = "look at /etc/nv_tegra_release"
        if jetson.container:
            remedy = "start the container with -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
        return [Finding("jetpack", "advice", detail, remedy)]
    if jetpack.tensorrt is not None and _major(jetpack.tensorrt) < OLDEST_TENSORRT:
        detail = (
            f"JetPack {jetpack.version} has TensorRT {jetpack.tensorrt}, and plans need "
            f"{OLDEST_TENSORRT} or newer"
        )
        remedy = (
            "on an Orin install JetPack 6.1 or newer; a Xavier ends with JetPack 5: use "
            "backend='onnxruntime' there"
        )
        return [Finding("jetpack", "problem", detail, remedy)]
    return []


def judge_tensorrt(jetson: Jetson, python: PythonHere) -> list[Finding]:
    """Judge TensorRT: there, to be imported by this Python, and the system's own."""
    system = jetson.tensorrt
    if python.tensorrt is None:
        return [_unseen(jetson, python)]
    if python.tensorrt and system.library and _pair(python.tensorrt) != _pair(system.library):
        detail = (
            f"this Python imports TensorRT {python.tensorrt} from {python.location}, and JetPack's "
            f"libraries are {system.library}: a package of pip hides JetPack's"
        )
        remedy = f"pip uninstall -y tensorrt tensorrt-cu12 tensorrt-cu13, then {_show(python)}"
        return [Finding("tensorrt", "problem", detail, remedy)]
    return []


def judge_access(jetson: Jetson) -> list[Finding]:
    """Judge whether this user may use the GPU."""
    if jetson.gpu_allowed is not False:
        return []
    detail = "this user may not open /dev/nvmap, so CUDA fails with `Permission denied`"
    remedy = "sudo usermod -aG video,render $USER, then log in again"
    if jetson.container:
        remedy = "start the container with --runtime nvidia --group-add video"
    return [Finding("gpu", "problem", detail, remedy)]


def judge_power(jetson: Jetson) -> list[Finding]:
    """Judge power mode and clocks, both advice: a slower mode may be meant."""
    power = jetson.power
    found: list[Finding] = []
    fastest = power.fastest
    if power.mode is not None and fastest is not None and fastest.speed > power.mode.speed:
        detail = f"power mode {power.mode.name} ({power.mode.number}) limits the clocks"
        remedy = f"for full speed: sudo nvpmodel -m {fastest.number} ({fastest.name})"
        found.append(Finding("power", "advice", detail, remedy))
    if power.pinned is False:
        detail = "clocks follow the load, so times vary"
        found.append(Finding("clocks", "advice", detail, "before measuring: sudo jetson_clocks"))
    return found


def judge_memory(jetson: Jetson) -> list[Finding]:
    """Judge the memory, which the GPU shares: room for a build, swap, and the desktop."""
    memory = jetson.memory
    found: list[Finding] = []
    if not 0 < memory.total < SMALL:
        return found
    if memory.swap - memory.zram < 2**30:
        detail = f"no swap on a disk, and {format_bytes(memory.total)} of memory for all"
        found.append(Finding("swap", "advice", detail, f"for builds: {SWAP_COMMANDS}"))
    if jetson.desktop:
        detail = "the graphical desktop takes memory that a model could use"
        found.append(Finding("desktop", "advice", detail, HEADLESS))
    if 0 < memory.available < LOW:
        detail = f"{format_bytes(memory.available)} of memory are free"
        found.append(Finding("memory", "advice", detail, "close programs before building plans"))
    return found


def _unseen(jetson: Jetson, python: PythonHere) -> Finding:
    """Say why this Python has no TensorRT."""
    system, jetpack = jetson.tensorrt, jetson.jetpack
    if system.library is None and system.python is None:
        remedy = "sudo apt-get update && sudo apt-get install nvidia-jetpack"
        if jetson.container:
            remedy = "start from an image that has it, as docker/jetson.Dockerfile does"
        return Finding("tensorrt", "problem", "TensorRT is not installed on this system", remedy)
    if system.python is None:
        detail = f"TensorRT {system.library} is installed without its Python module"
        remedy = "sudo apt-get install python3-libnvinfer"
        return Finding("tensorrt", "problem", detail, remedy)
    if jetpack.python and jetpack.python != python.version:
        detail = (
            f"JetPack's TensorRT {system.python} is for Python {jetpack.python}, and this is "
            f"Python {python.version}"
        )
        remedy = "make the environment with /usr/bin/python3 -m venv --system-site-packages ENV"
        return Finding("tensorrt", "problem", detail, remedy)
    detail = f"JetPack's TensorRT {system.python} cannot be seen from {python.prefix}"
    return Finding("tensorrt", "problem", detail, _show(python))


def _show(python: PythonHere) -> str:
    """Say how this Python comes to see the system's packages."""
    if python.virtual and not python.sees_system:
        return (
            f"set include-system-site-packages = true in {python.prefix}/pyvenv.cfg, or make the "
            "environment anew with /usr/bin/python3 -m venv --system-site-packages"
        )
    return "run samclip doctor again: it should see JetPack's; else reinstall python3-libnvinfer"


def _pair(version: str) -> tuple[str, ...]:
    """Give major and minor version, which a TensorRT's module and libraries must share."""
    return tuple(version.split(".")[:2])


def _major(version: str) -> int:
    return int(version.partition(".")[0])


# Distributions that bring the same module: one of them is enough.
STAND_INS = {
    "onnxruntime": ("onnxruntime-gpu",),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless"),
}
# Those of backends have remedies of their own, told by the table of backends.
LEFT_OUT = frozenset({"dev", "fuzz", "gpu", "tensorrt", "openvino"})
_REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+).*?(?:extra == ['\"](?P<extra>[\w-]+)['\"])?$")


@dataclass(frozen=True)
class Package:
    """A package: `extra` is None for one that is always needed, `version` for one not there."""

    name: str
    extra: str | None
    version: str | None


def list_packages() -> list[Package]:
    """List the packages of samclip and of its extras; empty when samclip itself is not installed.

    Nothing is imported: versions come from the metadata of the installed packages.
    """
    try:
        requirements = metadata.requires("samclip") or []
    except metadata.PackageNotFoundError:  # run from a source folder
        return []
    found = [_REQUIREMENT.match(text) for text in requirements]
    pairs = [(match["name"], match["extra"]) for match in found if match is not None]
    return [
        Package(name, extra, installed_version(name))
        for name, extra in pairs
        if extra not in LEFT_OUT and name != "samclip"
    ]


def installed_version(name: str) -> str | None:
    """Return the version of a package, or of one that stands in for it; None when absent."""
    for candidate in (name, *STAND_INS.get(name, ())):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def remedy(package: Package) -> str:
    """Say how to get a package that is not there."""
    return f"pip install {'samclip' if package.extra is None else _quoted(package.extra)}"


def _quoted(extra: str) -> str:
    return f"'samclip[{extra}]'"
