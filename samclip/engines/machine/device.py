"""A description of this machine, for benchmarks, reports of faults and keys of caches."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from samclip.engines.machine.cores import logical_cores, usable_cores
from samclip.engines.machine.nvidia import Gpu, jetson_model, list_gpus

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
        """Give it as plain values, for JSON."""
        return {**asdict(self), "packages": dict(self.packages)}


def describe_device() -> DeviceInfo:
    """Look at this machine; takes up to five seconds where `nvidia-smi` is slow."""
    return DeviceInfo(
        cpu=_cpu_model(),
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
    """Name the processor's sets of instructions as Linux lists them; "" elsewhere."""
    fields = _fields(CPU_INFO, ":")
    return fields.get("flags") or fields.get("Features") or ""


def _cpu_model() -> str:
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
