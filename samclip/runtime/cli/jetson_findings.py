"""What `samclip doctor` finds amiss on a Jetson, each with what to do about it.

Nothing is changed: commands that need root are told, never run.
"""

from __future__ import annotations

from samclip.engines.machine.jetson import Jetson
from samclip.engines.machine.python_here import PythonHere
from samclip.runtime.cli.findings import Finding
from samclip.runtime.cli.tables import format_bytes

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
