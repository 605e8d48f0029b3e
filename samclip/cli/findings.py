"""Findings of `samclip doctor`: faults of this machine, or of a Jetson, and remedies.

Nothing is changed: commands that need root are shown, never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from samclip.cli.advice import remedy_to_type
from samclip.cli.tables import format_bytes
from samclip.engines.backend_names import OPENVINO
from samclip.engines.base import Probe
from samclip.engines.machine.device import PythonHere
from samclip.engines.machine.jetpacks import OLDEST_TENSORRT, RECOMMENDED, SHARED_VERSION
from samclip.engines.machine.jetson import Jetson
from samclip.engines.openvino.library import suits_processor
from samclip.engines.plans.store import list_plans, search_folders
from samclip.engines.registry import backends

LEAST_FREE = 2 * 10**9  # bytes on disk: the plans of one bundle, and files written during a build
SMALL_MEMORY = 10 * 10**9  # bytes: boards of 4 and 8 GB need swap for builds, and no desktop
LOW_MEMORY = 1_500_000_000  # free bytes, below which a build of a ViT-B's encoder may fail
NAMED = 3  # plans in a finding
FULL_VERSION = 4  # parts of a version of TensorRT; the last is the number of the build
SWAP_COMMANDS = (
    "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
    "sudo swapon /swapfile"
)


@dataclass(frozen=True)
class Finding:
    """Something to do: a "problem" keeps a part from working, "advice" makes it faster."""

    about: str
    level: Literal["problem", "advice"]
    detail: str
    remedy: str


def judge_backends(probes: Mapping[str, Probe]) -> list[Finding]:
    """Report backends that work but have a fault, as when two packages hold the same files."""
    return [
        Finding(name, "problem", probe.detail, remedy_to_type(probe.remedy, probe.steps))
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
    return [Finding(OPENVINO, "advice", detail, remedy_to_type(missing.remedy, missing.steps))]


def judge_cache(cache: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that the cache folder, as `examine_folder` describes it, is writable and has space."""
    if not cache["writable"]:
        detail = f"{cache['path'] or 'the folder of caches'} is unusable"
        yield Finding("cache", "problem", detail, cache["remedy"])
    free = cache["free"]
    if free is not None and free < LEAST_FREE:
        detail = f"{free / 1e9:.1f} GB are free on the disk of {cache['path']}"
        remedy = "free at least 2 GB, or set SAMCLIP_CACHE_DIR to a folder on a larger disk"
        yield Finding("disk", "problem", detail, remedy)


def judge_plans() -> Iterator[Finding]:
    """Report the plans in the user's cache that were never compared with FP32, or are wrong."""
    stored = list_plans(search_folders())
    for state, detail in (("skipped", "were built without the gate"), ("failed", "are wrong")):
        found = [plan for plan in stored if plan.sidecar and plan.sidecar.gate.state == state]
        if found:
            names = ", ".join(plan.path.stem for plan in found[:NAMED])
            remedy = "samclip engine check, or build them again"
            yield Finding("plans", "problem", f"{len(found)} plans {detail}: {names}", remedy)


def judge_jetson(jetson: Jetson, python: PythonHere) -> list[Finding]:
    """List the faults of this Jetson and the advice on its speed, problems first."""
    found = [
        *_judge_release(jetson),
        *_judge_tensorrt(jetson, python),
        *_judge_access(jetson),
        *_judge_power(jetson),
        *_judge_memory(jetson),
    ]
    return sorted(found, key=lambda finding: finding.level != "problem")


def _judge_release(jetson: Jetson) -> Iterator[Finding]:
    """Check that JetPack's release is known, and what its TensorRT is known for."""
    jetpack = jetson.jetpack
    release = jetpack.release
    if jetpack.version is None:
        detail = "no file says which JetPack this is"
        remedy = "look at /etc/nv_tegra_release"
        if jetson.container:
            remedy = "start the container with -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
        yield Finding("jetpack", "advice", detail, remedy)
    elif release is not None and not release.builds_plans:
        detail = (
            f"JetPack {jetpack.version} has TensorRT {release.tensorrt}, and plans need "
            f"{OLDEST_TENSORRT} or newer"
        )
        remedy = (
            f"on an Orin install JetPack {RECOMMENDED} or newer, or 6.2; a Xavier ends with "
            "JetPack 5: use backend='onnxruntime' there"
        )
        yield Finding("jetpack", "problem", detail, remedy)
    elif release is not None and release.known and _has_tensorrt_of(jetson):
        detail = f"JetPack {jetpack.version}: its TensorRT {release.tensorrt} {release.known}"
        remedy = (
            f"install JetPack {RECOMMENDED} or newer; until then build no plan with --no-gate, "
            "since the gate compares each with FP32"
        )
        yield Finding("jetpack", "advice", detail, remedy)


def _has_tensorrt_of(jetson: Jetson) -> bool:
    """Whether the TensorRT that is installed may be of the version that JetPack came with."""
    here, came = jetson.tensorrt.library, jetson.jetpack.tensorrt
    return here is None or came is None or _minor(here) == _minor(came)


def _judge_tensorrt(jetson: Jetson, python: PythonHere) -> Iterator[Finding]:
    """Check that this Python imports TensorRT, and that it is the system's."""
    system = jetson.tensorrt
    if python.tensorrt is None:
        yield _explain_missing_tensorrt(jetson, python)
        return
    if python.tensorrt and system.library and _minor(python.tensorrt) != _minor(system.library):
        detail = (
            f"this Python imports TensorRT {python.tensorrt} from {python.location}, and JetPack's "
            f"libraries are {system.library}: a package of pip hides JetPack's"
        )
        remedy = (
            "pip uninstall -y tensorrt tensorrt-cu12 tensorrt-cu13, then "
            f"{_advise_system_packages(python)}"
        )
        yield Finding("tensorrt", "problem", detail, remedy)
    elif jetson.container and _is_other_build(system.library, jetson.jetpack.tensorrt):
        detail = (
            f"the container's TensorRT is {system.library}, that of JetPack "
            f"{jetson.jetpack.version} is {jetson.jetpack.tensorrt}: they cannot share plans"
        )
        remedy = (
            f"build plans in the container alone, in a separate volume; or pin its packages, as "
            f"docker/jetson.Dockerfile does to {SHARED_VERSION}"
        )
        yield Finding("tensorrt", "advice", detail, remedy)


def _minor(version: str) -> list[str]:
    """Return the parts that Python's module and the libraries must share: "10", "3"."""
    return version.split(".")[:2]


def _is_other_build(here: str | None, host: str | None) -> bool:
    """Whether two versions with the number of their build, as "10.3.0.30", differ."""
    numbers = [(text or "").split(".") for text in (here, host)]
    return all(len(parts) == FULL_VERSION for parts in numbers) and numbers[0] != numbers[1]


def _explain_missing_tensorrt(jetson: Jetson, python: PythonHere) -> Finding:
    """Find out why this Python cannot import TensorRT."""
    system = jetson.tensorrt
    jetpack = jetson.jetpack
    if system.library is None and system.python is None:
        detail = "TensorRT is not installed on this system"
        remedy = "sudo apt-get update && sudo apt-get install nvidia-jetpack"
        if jetson.container:
            remedy = "start from an image that has it, as docker/jetson.Dockerfile does"
    elif system.python is None:
        detail = f"TensorRT {system.library} is installed without its Python module"
        remedy = "sudo apt-get install python3-libnvinfer"
    elif jetpack.python and jetpack.python != python.version:
        detail = (
            f"JetPack's TensorRT {system.python} is for Python {jetpack.python}, and this is "
            f"Python {python.version}"
        )
        remedy = "make the environment with /usr/bin/python3 -m venv --system-site-packages ENV"
    else:
        detail = f"JetPack's TensorRT {system.python} cannot be seen from {python.prefix}"
        remedy = _advise_system_packages(python)
    return Finding("tensorrt", "problem", detail, remedy)


def _advise_system_packages(python: PythonHere) -> str:
    """Return the remedy that lets this Python see the system's packages."""
    if python.virtual and not python.sees_system:
        return (
            f"set include-system-site-packages = true in {python.prefix}/pyvenv.cfg, or make the "
            "environment again with /usr/bin/python3 -m venv --system-site-packages"
        )
    return "run samclip doctor again: it should see JetPack's; else reinstall python3-libnvinfer"


def _judge_access(jetson: Jetson) -> Iterator[Finding]:
    """Check that this user may use the GPU."""
    if jetson.gpu_allowed is False:
        detail = "this user may not open /dev/nvmap, so CUDA fails with `Permission denied`"
        remedy = "sudo usermod -aG video,render $USER, then log in again"
        if jetson.container:
            remedy = "start the container with --runtime nvidia --group-add video"
        yield Finding("gpu", "problem", detail, remedy)


def _judge_power(jetson: Jetson) -> Iterator[Finding]:
    """Check power mode and clocks. Both are advice: a slower mode may be intended."""
    power = jetson.power
    fastest = power.fastest
    if power.mode is not None and fastest is not None and fastest.speed > power.mode.speed:
        detail = f"power mode {power.mode.name} ({power.mode.number}) limits the clocks"
        remedy = f"for full speed: sudo nvpmodel -m {fastest.number} ({fastest.name})"
        if fastest.cores != power.mode.cores:
            remedy += f", which needs a restart for its {fastest.cores} cores"
        yield Finding("power", "advice", detail, remedy)
    if power.pinned is False:
        detail = "clocks follow the load, so times vary, those that a build chooses kernels by too"
        remedy = "before building plans and before measuring: sudo jetson_clocks"
        yield Finding("clocks", "advice", detail, remedy)


def _judge_memory(jetson: Jetson) -> Iterator[Finding]:
    """Check the memory, which CPU and GPU share: space for a build, swap, and the desktop."""
    memory = jetson.memory
    if not 0 < memory.total < SMALL_MEMORY:
        return
    if memory.swap - memory.zram < 2**30:
        detail = f"no swap on a disk, and {format_bytes(memory.total)} of memory for all"
        yield Finding("swap", "advice", detail, f"for builds: {SWAP_COMMANDS}")
    if jetson.desktop:
        detail = "the graphical desktop takes memory that a model could use"
        remedy = "sudo systemctl set-default multi-user.target, then restart"
        yield Finding("desktop", "advice", detail, remedy)
    if 0 < memory.available < LOW_MEMORY:
        detail = f"{format_bytes(memory.available)} of memory are free"
        yield Finding("memory", "advice", detail, "close programs before building plans")
