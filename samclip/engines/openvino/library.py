"""OpenVINO as a library: imported in this one place, looked up without importing it elsewhere."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from samclip.engines.base import Probe
from samclip.errors import BackendUnavailableError

PACKAGE, DEVICE = "openvino", "CPU"
INSTALL = "pip install 'samclip[openvino]'"
OLDEST = (2025, 0)  # before it, settings that are pinned here are unknown or have other names
MAX_MESSAGE = 300  # characters of its messages that are passed on
# Its INT8 kernels for AMX end the process with an illegal instruction (2025.0 to 2026.4.1, INT8
# convolutions, Xeon in a virtual machine), and FP32 has no use for AMX: this is the widest set of
# instructions without it. Whoever sets the variable decides otherwise.
ISA_VARIABLE, ISA_WITHOUT_AMX = "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16"
INTERNALS = re.compile(
    r"Exception from \S+:\d+:"  # source files and lines
    r"|Check '.*?' failed at \S+:\d+:"
    r"|\S+\.(?:cpp|hpp|h):\d+:?"
    r"|0x[0-9a-fA-F]+"
)


def find_library() -> Probe:
    """Look whether a version that serves is installed, without importing it."""
    if importlib.util.find_spec(PACKAGE) is None:
        return Probe(False, "openvino is not installed", INSTALL)
    try:
        number = version(PACKAGE)
    except PackageNotFoundError:  # built from its sources
        return Probe(True, "openvino, CPU")
    if _parsed(number) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return Probe(False, f"openvino {number} is too old: {wanted} is the least", INSTALL)
    return Probe(True, f"openvino {number}, CPU")


def import_library() -> ModuleType:
    """Import OpenVINO; raises BackendUnavailableError when it is absent, too old or broken."""
    probe = find_library()
    if not probe.available:
        raise BackendUnavailableError(f"{probe.detail}. To do: {probe.remedy}.")
    try:
        library = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise BackendUnavailableError(
            f"OpenVINO cannot be imported: {error}. To do: {_reinstall()}."
        ) from error
    if not hasattr(library, "Core"):  # an emptied folder imports as a namespace
        raise BackendUnavailableError(f"OpenVINO's files are incomplete. To do: {_reinstall()}.")
    return library


@functools.cache
def open_core(library: Any) -> Any:
    """Give the `Core` of this process, which compiles for the instructions that are safe.

    It reads them from the environment when it is first asked for what it can do, and keeps them:
    the variable is put back at once, because torch reads it too.
    """
    if ISA_VARIABLE in os.environ:
        return library.Core()
    os.environ[ISA_VARIABLE] = ISA_WITHOUT_AMX
    try:
        core = library.Core()
        core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        return core
    finally:
        os.environ.pop(ISA_VARIABLE, None)


def clean_message(error: BaseException) -> str:
    """Give OpenVINO's message in one line, without its source files and addresses."""
    text = " ".join(INTERNALS.sub(" ", str(error)).split())
    return text[:MAX_MESSAGE].rstrip(". ") or type(error).__name__


def _parsed(number: str) -> tuple[int, ...]:
    """Give the leading numbers of a version: (2026, 4) of "2026.4.1-22982"."""
    return tuple(int(part) for part in re.findall(r"\d+", number)[:2])


def _reinstall() -> str:
    return f"pip uninstall -y {PACKAGE}, then {INSTALL}"
