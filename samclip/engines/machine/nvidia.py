"""Whether an NVIDIA driver is here, and its GPUs, without loading any CUDA library.

CUDA libraries may crash the process when there is no driver, so files are looked for first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Gpu:
    """One GPU; `memory` in bytes; None for what the driver does not tell."""

    name: str
    memory: int | None = None
    driver: str | None = None
    compute_capability: str | None = None


def find_driver() -> str | None:
    """Give the file that shows that an NVIDIA driver is here, or None."""
    return next((name for name in DRIVER_FILES if os.path.lexists(name)), None)


def jetson_model() -> str | None:
    """Give the board's name on a Jetson, None elsewhere."""
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
    """Give a field, None for the likes of "[N/A]" and "[Not Supported]"."""
    return None if not field or field.startswith("[") else field
