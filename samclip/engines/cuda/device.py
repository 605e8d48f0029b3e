"""GPUs opened through pycuda or, where that is absent, cuda-python; each imported only here.

CUDA libraries may crash the process where there is no driver, so the driver is looked for first.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from samclip.engines.cuda.bindings import CudaPythonDevice, PycudaDevice
from samclip.engines.cuda.driver import CudaDevice
from samclip.engines.machine.device import find_driver
from samclip.errors import BackendUnavailableError

PACKAGES = {"pycuda": "pycuda.driver", "cuda-python": "cuda.bindings.driver"}  # in this order
FREE_LOCK = (12, 9, 2)  # cuda-bindings from this version on wait without Python's lock
CUDA_REMEDY = "pip install cuda-python (or pycuda, where its build tools are)"
DRIVER_REMEDY = "install NVIDIA's driver, or start the container with its GPU (--gpus all)"

_logger = logging.getLogger("samclip")


def open_device(index: int = 0) -> CudaDevice:
    """Open a GPU; raises BackendUnavailableError, which says what is missing and what to do."""
    missing = missing_for_cuda()
    if missing is not None:
        raise BackendUnavailableError(f"{missing[0]}. To do: {missing[1]}.")
    if cuda_package() == "pycuda":
        return PycudaDevice(_import("pycuda"), index)
    driver = _import("cuda-python")
    _warn_of_held_lock()
    return CudaPythonDevice(driver, index)


def _warn_of_held_lock() -> None:
    """Log that other threads stand still during a run, which old bindings cause."""
    with suppress(PackageNotFoundError, ValueError):
        here = version("cuda-bindings")
        if tuple(int(part) for part in here.split(".")[:3]) < FREE_LOCK:
            _logger.warning(
                "cuda-bindings %s holds Python's lock while it waits for the GPU: other threads "
                "stand still meanwhile. Install 'cuda-python>=%s', of your CUDA's major version.",
                here,
                ".".join(map(str, FREE_LOCK)),
            )


def missing_for_cuda() -> tuple[str, str] | None:
    """Return what CUDA lacks here and what to do, None when nothing; imports and loads nothing."""
    if find_driver() is None:
        return "there is no NVIDIA driver here", DRIVER_REMEDY
    if cuda_package() is None:
        return "neither pycuda nor cuda-python is installed", CUDA_REMEDY
    return None


def cuda_package() -> str | None:
    """Return the package that drives CUDA here: "pycuda", "cuda-python", or None."""
    return next((name for name in PACKAGES if _is_installed(PACKAGES[name])), None)


def describe_cuda_package() -> str:
    """Return the package that drives CUDA with its version, "cuda-python 13.4.4"; "" for none."""
    name = cuda_package()
    if name is None:
        return ""
    for distribution in (name, "cuda-bindings"):
        try:
            return f"{name} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return name


def _is_installed(module: str) -> bool:
    """Look for a module's files; its parent packages are imported, not the module itself."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # no such parent package, or half of one
        return False


def _import(name: str) -> Any:
    try:
        return importlib.import_module(PACKAGES[name])
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailableError(
            f"{name} is installed but cannot be imported: {error}. To do: install it again for "
            f"this driver and Python; {CUDA_REMEDY}."
        ) from error
