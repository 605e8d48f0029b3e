"""The GPU that plans are built for, asked of the driver in a process of its own.

Where the driver is broken, its library may crash the process that calls it: this one must not be
it. Functions and attribute numbers are those of the CUDA driver API (cuda.h).
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import msgspec

from samclip.engines.machine.nvidia import find_driver, list_gpus
from samclip.errors import BackendUnavailableError

TIMEOUT = 30.0  # seconds; a Jetson's GPU may have to wake up
MAX_MESSAGE = 300
QUERY = """
import ctypes, json, sys
names = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
for name in names:
    try:
        cuda = ctypes.CDLL(name)
        break
    except OSError as error:
        reason = str(error)
else:
    sys.exit(f"the driver's library cannot be loaded: {reason}")

def call(function, *arguments):
    status = getattr(cuda, function)(*arguments)
    if status:
        sys.exit(f"{function} reports error {status}")

def attribute(number):
    value = ctypes.c_int()
    call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
    return value.value

call("cuInit", 0)
device, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
name = ctypes.create_string_buffer(256)
call("cuDeviceGet", ctypes.byref(device), int(sys.argv[1]))
call("cuDeviceGetName", name, 256, device)
call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
call("cuDriverGetVersion", ctypes.byref(version))
print(json.dumps({
    "name": name.value.decode(errors="replace"),
    "capability": f"{attribute(75)}.{attribute(76)}",
    "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
    "memory": memory.value,
}))
"""


class PlanGpu(msgspec.Struct, frozen=True):
    """A GPU: compute capability "8.7", the CUDA version of its driver, memory in bytes."""

    name: str
    capability: str
    cuda: str
    memory: int


@dataclass(frozen=True)
class DriverState:
    """What the driver says of a GPU; `gpu` is None where it cannot be used, `reason` says why."""

    gpu: PlanGpu | None
    driver: str | None
    reason: str


def examine_gpu(index: int = 0) -> DriverState:
    """Ask the driver for the GPU number `index`; never loads a CUDA library into this process."""
    if find_driver() is None:
        return DriverState(None, None, "there is no NVIDIA driver here")
    try:
        gpu = _ask(index)
    except BackendUnavailableError as error:
        return DriverState(None, _driver_version(), str(error))
    return DriverState(gpu, _driver_version(), "")


def _ask(index: int) -> PlanGpu:
    command = [sys.executable, "-c", QUERY, str(index)]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendUnavailableError(f"the NVIDIA driver does not answer: {error}") from error
    if answer.returncode:
        said = " ".join(answer.stderr.split())[:MAX_MESSAGE]
        raise BackendUnavailableError(
            f"the NVIDIA driver cannot be used: {said or f'exit code {answer.returncode}'}"
        )
    return msgspec.json.decode(answer.stdout, type=PlanGpu)


def _driver_version() -> str | None:
    return next((gpu.driver for gpu in list_gpus() if gpu.driver), None)
