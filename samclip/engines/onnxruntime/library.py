"""ONNX Runtime as a library: its import, its installation, and its TensorRT provider's options.

The TensorRT provider builds engines by itself while a session starts or a graph first runs. That
takes minutes, so "auto" never takes it. Its engines are kept in a folder for each graph and version
of ONNX Runtime, where those of each GPU and TensorRT have separate names. It builds again when an
input leaves the range of shapes that it has met. The graph sets the precision, not an option.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from samclip.disk.cache_folder import make_private_folder, open_cache, warn_unusable
from samclip.engines import base
from samclip.engines.backend_names import ORT_TENSORRT
from samclip.engines.base import REMEDY, GraphSource
from samclip.engines.machine.device import find_driver
from samclip.engines.machine.jetson import find_jetson
from samclip.engines.plans.sidecar import identify
from samclip.engines.process_edges import skip_destructors_in_children
from samclip.errors import BackendUnavailableError

NAME = "onnxruntime"
# Read when the library is imported. Without it, builds from 1.29 on write an id of this machine
# into the home folder, and send events to Microsoft. A value that the user sets is kept.
TELEMETRY_VARIABLE, OFF, OFF_VALUES = "ORT_DISABLE_TELEMETRY", "1", frozenset({"1", "true", "yes"})
CPU_PACKAGE, GPU_PACKAGE = "onnxruntime", "onnxruntime-gpu"
CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
INTERNALS = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : "  # its own prefix
    r"|/\S+\.(?:cc|h|cpp)\S*( \S+\(.*?\))?"  # source files and signatures
    r"|\b\w+\.(?:cc|h|cpp):\d+ \w+"
    r"|0x[0-9a-fA-F]+"
)
ARM = frozenset({"aarch64", "arm64"})
ARM_GPUS = "8.9, 9.0, 12.0 and 12.1"  # of the kernels in 1.31.1's wheel for cp312 on aarch64
# The one way to CUDA, here and in docs/deploy/engines.md. The CPU package stays known to pip,
# because samclip requires it; its files are overwritten.
CUDA_RECIPE = f"pip install --force-reinstall --no-deps {GPU_PACKAGE}"
REINSTALL = f"pip uninstall -y {CPU_PACKAGE} {GPU_PACKAGE}, then pip install {CPU_PACKAGE}"


def import_library() -> ModuleType:
    """Import ONNX Runtime without its telemetry.

    Raises BackendUnavailableError when it is absent or broken.
    """
    try:
        library = _import_quietly()
    except ImportError as error:
        raise BackendUnavailableError(
            f"ONNX Runtime cannot be imported: {error}. {REMEDY}{reinstall()}."
        ) from error
    if not hasattr(library, "InferenceSession"):  # an emptied folder imports as a namespace
        raise BackendUnavailableError(
            f"ONNX Runtime's files are incomplete. {REMEDY}{reinstall()}."
        )
    return library


def _import_quietly() -> ModuleType:
    """Import the library; its telemetry stays off unless the user switched it on.

    Where other code has imported it before, it sends what it has collected so far, and its uploader
    goes on running.
    """
    given = os.environ.get(TELEMETRY_VARIABLE)
    if not given:
        os.environ[TELEMETRY_VARIABLE] = OFF
    was_here = NAME in sys.modules
    library = importlib.import_module(NAME)
    if given not in OFF_VALUES and (given or was_here):
        skip_destructors_in_children()  # they would wait for the uploader's thread
        if not given and hasattr(library, "disable_telemetry_events"):
            library.disable_telemetry_events()
    return library


def import_cuda_library(provider: str = CUDA_PROVIDER) -> ModuleType:
    """Import an ONNX Runtime that has its CUDA or TensorRT provider; loads no CUDA library yet.

    Raises BackendUnavailableError when the build has no such provider or there is no driver.
    """
    library = import_library()
    if provider not in library.get_available_providers():
        lacks = "CUDA" if provider == CUDA_PROVIDER else "TensorRT"
        raise BackendUnavailableError(
            f"onnxruntime {library.__version__} is a build without {lacks}. "
            f"{REMEDY}{get_gpu_build()}."
        )
    if find_driver() is None:
        raise BackendUnavailableError(
            f"there is no NVIDIA driver here. {REMEDY}install it, start the container with its "
            "GPU, or use backend='onnxruntime'."
        )
    return library


def preload(library: ModuleType) -> None:
    """Load the CUDA libraries of pip's packages, which ONNX Runtime itself does not find.

    Only for where there is a driver. Before 1.21 it has no such function.
    """
    if hasattr(library, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            library.preload_dlls()


def installed_packages() -> dict[str, str]:
    """Return the versions of the packages that provide `onnxruntime`."""
    found = {}
    for name in (CPU_PACKAGE, GPU_PACKAGE):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def conflict(library: ModuleType) -> str:
    """Return a message when two packages overwrite each other's files; "" when all is well.

    The loaded `library` shows which of them came last: all is well when it has CUDA, because
    samclip itself requires the CPU package, so a GPU user always has both.
    """
    found = installed_packages()
    if len(found) < 2 or CUDA_PROVIDER in library.get_available_providers():
        return ""
    names = " and ".join(f"{name} {number}" for name, number in found.items())
    return f"{names} are both installed, and the files in place are the CPU build's"


def get_gpu_build() -> str:
    """Return how to get a build for NVIDIA GPUs on this machine: the recipe where PyPI has one.

    PyPI's build for ARM has code for the GPUs of servers and workstations, none for a Jetson's.
    """
    if platform.machine().lower() not in ARM:
        return CUDA_RECIPE
    if find_jetson() is None:
        return (
            f"{CUDA_RECIPE}, which PyPI has for ARM with Python 3.12, and for GPUs of compute "
            f"capability {ARM_GPUS}; or run TensorRT plans without it: backend='tensorrt'"
        )
    return (
        f"PyPI's {GPU_PACKAGE} has no code for a Jetson's GPU: get NVIDIA's wheel for this JetPack "
        "and this Python, then pip install --force-reinstall --no-deps its file; or run TensorRT "
        "plans without it: backend='tensorrt'"
    )


def reinstall() -> str:
    """Return the commands that repair the installation, with CUDA where that was installed."""
    has_gpu_build = GPU_PACKAGE in installed_packages()
    return f"{REINSTALL}, then {CUDA_RECIPE}" if has_gpu_build else REINSTALL


def clean_message(error: BaseException) -> str:
    """Return its message in one line, without its source files, addresses and codes."""
    return base.clean_message(error, INTERNALS)


def is_initializer(onnx: bytes, name: str) -> bool:
    """Whether the bytes of an ONNX graph hold a tensor of this name.

    Looks for TensorProto's field 8, its name, as protobuf writes it: tag, length, UTF-8.
    """
    encoded, length = name.encode(), bytearray()
    rest = len(encoded)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return b"\x42" + bytes([*length, rest]) + encoded in onnx


def tensorrt_options(library: Any, source: GraphSource, device: int) -> dict[str, str]:
    """Return the TensorRT provider's options, and make the folder for its engines.

    Engines are programs, so they are kept only in a folder of this user that is closed to others.
    Where there is none, each process builds its own.
    """
    folder = _engine_folder(library, source)
    options = {"device_id": str(device)}
    if folder is None:
        return options
    return options | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def _engine_folder(library: Any, source: GraphSource) -> Path | None:
    """Return the folder of a graph's engines; None, with one warning, where it cannot be used."""
    root = open_cache(ORT_TENSORRT)
    if root is None:
        return None
    graph = identify(source)
    digests = f"{graph.onnx_sha256}-{graph.weights_sha256 or 'none'}"
    folder = root / f"{source.name}-{library.__version__}-{digests}"
    try:
        make_private_folder(folder)
        for place in (root, folder):
            place.chmod(0o700)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "it may not be written to", str(folder))
    except OSError as error:
        warn_unusable(root.parent, error)
        return None
    return folder
