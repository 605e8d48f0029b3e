"""The machine's processor, memory, GPUs and Python, for benchmarks, bug reports and cache keys.

No CUDA library is loaded: it may crash the process when there is no driver, so the driver's files
are looked for. TensorRT is looked up and never imported, for the same reason.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from samclip.engines.machine.host import logical_cores, usable_cores
from samclip.engines.machine.kernel_files import MachineFiles

DRIVER_FILES = (
    "/proc/driver/nvidia/version",
    "/dev/nvidiactl",
    "/dev/nvhost-gpu",  # Jetson
    "/dev/nvgpu",  # Jetson, JetPack 6
    "/dev/dxg",  # Windows Subsystem for Linux
    "C:/Windows/System32/nvcuda.dll",
)
MODEL_FILE = Path("/proc/device-tree/model")  # names a Jetson
QUERY = ("name", "memory.total", "driver_version", "compute_cap")
TIMEOUT = 5.0  # seconds

VNNI = frozenset({"avx512_vnni", "avx_vnni"})  # as Linux lists them
CPU_INFO = Path("/proc/cpuinfo")
RELEASE_INFO = Path("/etc/os-release")
PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "opencv-python",
    "pillow",
)
TENSORRT = "tensorrt"
PIP_PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")


@dataclass(frozen=True)
class Gpu:
    """One GPU; `memory` in bytes; None for what the driver does not report."""

    name: str
    memory: int | None = None
    driver: str | None = None
    compute_capability: str | None = None


def find_driver() -> str | None:
    """Return the file that shows that an NVIDIA driver is here, or None."""
    return next((name for name in DRIVER_FILES if os.path.lexists(name)), None)


def jetson_model() -> str | None:
    """Return the board's name on a Jetson, None elsewhere."""
    try:
        model = MODEL_FILE.read_bytes().rstrip(b"\0").decode(errors="replace")
    except OSError:  # no device tree: a PC
        return None
    return model if "NVIDIA" in model or "Jetson" in model else None


def list_gpus() -> tuple[Gpu, ...]:
    """Ask `nvidia-smi` for the GPUs; empty when there is no driver or it does not answer."""
    command = shutil.which("nvidia-smi")
    if command is None or find_driver() is None:
        return ()
    arguments = [command, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            arguments, capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(parse_gpu(line) for line in answer.stdout.splitlines() if line.strip())


def parse_gpu(line: str) -> Gpu:
    """Read one line of `nvidia-smi`'s answer to QUERY, whose memory is in MiB."""
    fields = [_known(field.strip()) for field in line.split(",")]
    name, memory, driver, capability = [*fields, None, None, None, None][: len(QUERY)]
    size = int(memory) * 2**20 if memory and memory.isdecimal() else None
    return Gpu(name or "NVIDIA GPU", size, driver, capability)


def _known(field: str) -> str | None:
    """Return a field, None for the likes of "[N/A]" and "[Not Supported]"."""
    return None if not field or field.startswith("[") else field


@dataclass(frozen=True)
class DeviceInfo:
    """A machine: `memory` in bytes, 0 if unknown; `packages`: versions of what is installed.

    `logical_cores` and `usable_cores` count those that this process may use, with and without
    the second threads of physical cores.
    """

    cpu: str
    logical_cores: int
    usable_cores: int
    memory: int
    system: str
    machine: str
    python: str
    jetson: str | None
    gpus: tuple[Gpu, ...]
    packages: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "packages": dict(self.packages)}


def describe_device() -> DeviceInfo:
    """Describe this machine; takes up to five seconds where `nvidia-smi` is slow."""
    return DeviceInfo(
        cpu=processor_name(),
        logical_cores=logical_cores(),
        usable_cores=usable_cores(),
        memory=_memory(),
        system=_system(),
        machine=platform.machine(),
        python=platform.python_version(),
        jetson=jetson_model(),
        gpus=list_gpus(),
        packages=_packages(),
    )


def processor_features() -> str:
    """Return the processor's sets of instructions as Linux lists them; "" elsewhere."""
    fields = _fields(CPU_INFO, ":")
    return fields.get("flags") or fields.get("Features") or ""


@cache
def saturates_int8() -> bool:
    """Whether INT8 products of ONNX Runtime and OpenVINO lose bits on this processor.

    Without VNNI, x86 adds pairs of 8-bit products (unsigned x signed) into 16 bits, and
    255 * 127 * 2 > 32,767. An x86 processor whose features cannot be read counts as one without.
    """
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return x86 and VNNI.isdisjoint(processor_features().split())


@cache
def computes_bf16_on_arm() -> bool:
    """Whether this is a Linux on an Arm processor that multiplies BF16 matrices."""
    on_arm = platform.system() == "Linux" and platform.machine() == "aarch64"
    return on_arm and "bf16" in processor_features().split()


def describe_processor() -> tuple[str, ...]:
    """Return what kernels are chosen by: the architecture, the processor's name and features."""
    return platform.machine(), processor_name(), processor_features()


def processor_name() -> str:
    """Read the processor's name, which x86 and Arm put under different headings."""
    fields = _fields(CPU_INFO, ":")
    for heading in ("model name", "Model", "Hardware"):
        if heading in fields:
            return fields[heading]
    return platform.processor() or platform.machine()


def _system() -> str:
    name = _fields(RELEASE_INFO, "=").get("PRETTY_NAME", "").strip('"')
    kernel = f"{platform.system()} {platform.release()}"
    return f"{name} ({kernel})" if name else kernel


def _fields(path: Path, separator: str) -> dict[str, str]:
    """Read `heading separator value` lines; the first of each heading counts."""
    fields: dict[str, str] = {}
    try:
        text = path.read_text(errors="replace")
    except OSError:  # not Linux
        return fields
    for line in text.splitlines():
        heading, found, value = line.partition(separator)
        if found:
            fields.setdefault(heading.strip(), value.strip())
    return fields


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return 0


def _packages() -> tuple[tuple[str, str], ...]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


@dataclass(frozen=True)
class PythonHere:
    """A Python: `version` as "3.10", the folder `prefix` of its environment.

    `virtual`: it is a virtual environment; `sees_system`: it can import the system's packages.
    `tensorrt` is the version of the TensorRT that can be imported, "" when that is not known, None
    when there is none; `location` is the folder of its module.
    """

    version: str
    prefix: str
    virtual: bool
    sees_system: bool
    tensorrt: str | None
    location: str = ""


def describe_python() -> PythonHere:
    """Describe the Python that runs this."""
    virtual = sys.prefix != sys.base_prefix
    settings = MachineFiles(Path(sys.prefix)).fields("/pyvenv.cfg", "=")
    shows_system = settings.get("include-system-site-packages", "").lower() == "true"
    location = _location()
    return PythonHere(
        version=f"{sys.version_info.major}.{sys.version_info.minor}",
        prefix=sys.prefix,
        virtual=virtual,
        sees_system=not virtual or shows_system,
        tensorrt=None if location is None else _tensorrt_version(),
        location=location or "",
    )


def _location() -> str | None:
    """Return the folder of TensorRT's module, None when there is none."""
    try:
        found = importlib.util.find_spec(TENSORRT)
    except (ImportError, ValueError):  # a stand-in without a specification
        return None
    if found is None:
        return None
    return str(Path(found.origin).parents[1]) if found.origin else ""


def _tensorrt_version() -> str:
    for name in PIP_PACKAGES:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
