"""The libraries that build plans, TensorRT and TensorRT for RTX, and the GPU that they build for.

Both have the same Python API. TensorRT builds on the GPU that the plan will run on, by timing its
kernels. TensorRT for RTX builds ahead of time for named GPU architectures, on any machine. Neither
is imported before it is known whether it can work here: without a driver TensorRT's own calls may
crash the process.

The driver is asked for the GPU in a separate process, because a broken driver's library may crash
the process that calls it. Functions and attribute numbers are those of CUDA's driver API (cuda.h).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import re
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import msgspec

from samclip.engines.backend_names import TENSORRT, TENSORRT_RTX, LibraryName, target_name
from samclip.engines.cuda.device import missing_for_cuda, open_device
from samclip.engines.machine.device import find_driver, list_gpus
from samclip.engines.steps import BuildPlans, ChangeSettings
from samclip.errors import BackendUnavailableError, InputError

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
    "processors": attribute(16),
    "integrated": bool(attribute(18)),
}))
"""

BUILD_PLACE = 3  # the build's number is the fourth part of a version
MINIMUM = 10  # the first major version of TensorRT with strongly typed networks
_TARGET = re.compile(r"^SM([0-9]+)([0-9])$")


class PlanGpu(msgspec.Struct, frozen=True):
    """A GPU: compute capability "8.7", the CUDA version of its driver, memory in bytes.

    `processors`: its streaming multiprocessors; `integrated`: whether its memory is the machine's.
    """

    name: str
    capability: str
    cuda: str
    memory: int
    processors: int = 1
    integrated: bool = False


@dataclass(frozen=True)
class DriverState:
    """The driver's answer about a GPU; `gpu` is None where it cannot be used, `reason` says why."""

    gpu: PlanGpu | None
    driver: str | None
    reason: str


def examine_gpu(index: int = 0) -> DriverState:
    """Ask the driver for the GPU number `index`; never load a CUDA library into this process."""
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


@dataclass(frozen=True)
class Kind:
    """A library before it is imported.

    `needs_gpu`: it builds for the GPU of this machine, and keeps timings of its kernels.
    """

    name: LibraryName
    module: str
    needs_gpu: bool
    install: str


@dataclass(frozen=True)
class Library:
    """An imported library that can build here; `module` is typed as Any, having no stubs.

    `capabilities` are those that it can build for ahead of time: empty where it needs the GPU.
    `device`: the GPU's index.
    """

    kind: Kind
    module: Any
    version: str
    state: DriverState
    capabilities: tuple[str, ...]
    device: int = 0

    @property
    def name(self) -> LibraryName:
        """What `backend=` calls it."""
        return self.kind.name

    def on_device(self) -> AbstractContextManager[None]:
        """Make the context of the GPU current while TensorRT builds: it builds for that GPU.

        Without a CUDA package TensorRT itself takes the first GPU, and can build for no other.
        Raises BackendUnavailableError.
        """
        if not self.kind.needs_gpu or (self.device == 0 and missing_for_cuda() is not None):
            return nullcontext()
        return open_device(self.device).active()


KINDS: dict[str, Kind] = {
    TENSORRT: Kind(
        name=TENSORRT,
        module="tensorrt",
        needs_gpu=True,
        install="on a Jetson it comes with JetPack (apt install python3-libnvinfer; a virtual "
        "environment needs --system-site-packages); elsewhere pip install tensorrt",
    ),
    TENSORRT_RTX: Kind(
        name=TENSORRT_RTX,
        module="tensorrt_rtx",
        needs_gpu=False,
        install="pip install tensorrt-rtx-cu13",
    ),
}


def open_library(name: str, device: int = 0) -> Library:
    """Import the library called `name` to build for the GPU number `device`.

    Raises BackendUnavailableError, which says what to do, when it cannot build here; InputError
    for another name.
    """
    if name not in KINDS:
        raise InputError(f"plans are built by {' or '.join(KINDS)}, not by {name!r}. Choose one.")
    kind = KINDS[name]
    state = examine_gpu(device)
    if kind.needs_gpu and state.gpu is None:
        raise BackendUnavailableError(
            f"{state.reason}, and {kind.name} builds a plan on the GPU that it will run on. Build "
            "on that machine (in a container: start it with its GPU), or build here for RTX GPUs, "
            f"with {TENSORRT_RTX} for an architecture such as sm86.",
            steps=(BuildPlans(backend=TENSORRT_RTX, targets=("8.6",)),),
        )
    module = _import(kind)
    return Library(kind, module, full_version(module), state, ahead_of_time(module), device)


def full_version(module: Any) -> str:
    """Return a library's version with the number of its build: "10.3.0.30".

    Plans of two builds are incompatible, and `__version__` may leave the number out: on JetPack 6
    it is "10.3.0" for two of them. It is then asked of the library that is loaded
    (`getInferLibBuildVersion` of NvInferRuntime.h).
    """
    version = str(module.__version__)
    if version.count(".") >= BUILD_PLACE:
        return version
    major = version.partition(".")[0]
    for name in (f"libnvinfer.so.{major}", f"nvinfer_{major}.dll"):
        with contextlib.suppress(OSError, AttributeError, ValueError):
            # only a library that is loaded already
            loaded = ctypes.CDLL(name, mode=getattr(os, "RTLD_NOLOAD", 0))
            return f"{version}.{int(loaded.getInferLibBuildVersion())}"
    return version


def ahead_of_time(module: Any) -> tuple[str, ...]:
    """List the compute capabilities that a library builds for without a GPU: ("7.5", ...)."""
    listed = getattr(module, "ComputeCapability", None)
    names = () if listed is None else listed.__members__
    found = [_TARGET.match(name) for name in names]
    return tuple(f"{match[1]}.{match[2]}" for match in found if match is not None)


def choose_targets(library: Library, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the compute capabilities to build for: `asked` ("sm86" or "8.6"), else the GPU here's.

    The GPU here may have a capability that the library has no name for, see `is_official`. Raises
    InputError for one that is asked for and that the library cannot build for.
    """
    here = None if library.state.gpu is None else library.state.gpu.capability
    wanted = tuple(dict.fromkeys(parse_target(name) for name in asked))
    if library.kind.needs_gpu:
        return _only_here(library, wanted, str(here))
    known = ", ".join(map(target_name, library.capabilities))
    if not wanted and here is None:
        raise InputError(
            f"there is no GPU here to build for ({library.state.reason}). Say for which "
            f"architectures, as in sm86; {library.name} {library.version} has {known}.",
            steps=(ChangeSettings(("targets",)),),
        )
    if not wanted:  # the GPU here: built as "current" where the library has no name for it
        return (str(here),)
    unknown = [name for name in wanted if name not in library.capabilities]
    if unknown:
        raise InputError(
            f"{library.name} {library.version} cannot build for compute capability "
            f"{', '.join(unknown)}, only for {known}. Choose targets among those.",
            steps=(ChangeSettings(("targets",)),),
        )
    return wanted


def is_official(library: Library, capability: str) -> bool:
    """Whether a library names a compute capability among those that it builds for.

    TensorRT for RTX has code for more GPUs than it names, and builds for the one here as "current".
    """
    return library.kind.needs_gpu or capability in library.capabilities


def parse_target(text: str) -> str:
    """Read "sm86" or "8.6" as the compute capability "8.6"; raises InputError."""
    match = re.match(r"^(?:sm_?)?([0-9]{1,2})[.]?([0-9])$", text.strip().lower())
    if match is None:
        raise InputError(f"{text!r} is not a GPU architecture. Write it as sm86, or as 8.6.")
    return f"{match[1]}.{match[2]}"


def _only_here(library: Library, wanted: tuple[str, ...], here: str) -> tuple[str, ...]:
    if set(wanted) - {here}:
        raise InputError(
            f"{library.name} builds for the GPU of this machine alone, compute capability {here}; "
            f"asked for {', '.join(wanted)}. Name no target, build on the machine that has the "
            f"other GPU, or build with {TENSORRT_RTX}.",
            steps=(ChangeSettings(("targets", "backend")),),
        )
    return (here,)


def _import(kind: Kind) -> Any:
    try:
        module = importlib.import_module(kind.module)
    except (ImportError, OSError) as error:  # OSError: its libraries are missing or of another CUDA
        raise BackendUnavailableError(
            f"{kind.name} cannot be imported: {error}. To do: {kind.install}."
        ) from error
    version = str(getattr(module, "__version__", ""))
    if not hasattr(module, "Builder"):  # the lean runtime, or an emptied folder
        raise BackendUnavailableError(
            f"the module {kind.module} {version} has no builder. To do: {kind.install}."
        )
    if kind.needs_gpu and not int(version.partition(".")[0] or 0) >= MINIMUM:
        raise BackendUnavailableError(
            f"here is TensorRT {version}, and plans need {MINIMUM} or newer, whose networks keep "
            f"the types of the graph. To do: {kind.install}."
        )
    return module
