"""OpenVINO as a library: its import, its `Core`, and graphs read from verified bytes alone.

OpenVINO takes external data of ONNX only from files next to a graph file; for a graph in memory it
looks in the current folder. Reading the bundle's own files by their path would read bytes that
nobody verified. So the verified bytes are written to a private folder, which is removed at once.
OpenVINO maps the files for as long as the compiled model lives; so the folder is in memory where
the system offers that and has room, because a disk would write and free them for nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from samclip.engines import base
from samclip.engines.base import EnginePrecision, GraphSource, Probe
from samclip.engines.external_data import external_fault, external_locations
from samclip.engines.machine.device import processor_features
from samclip.engines.process_edges import keep_in_children
from samclip.errors import BackendUnavailableError, EngineRunError

PACKAGE, DEVICE = "openvino", "CPU"
PRECISION_HINT = "INFERENCE_PRECISION_HINT"
HINTS: dict[EnginePrecision, str] = {"fp32": "f32", "bf16": "bf16"}  # OpenVINO's names
INSTALL = "pip install 'samclip[openvino]'"
OLDEST = (2025, 0)  # before it, settings that are pinned here are unknown or have other names
IMPORTS_MAPS = (2025, 4)  # the first that imports a compiled model from memory without copying it
MEASURED_ON = frozenset({"x86_64", "amd64"})  # docs/evidence/cpu.md
# Its kernels for AMX end the process with an illegal instruction on a virtual Xeon that says it has
# AMX (versions 2025.0 to 2026.4.1; INT8 and BF16), and FP32 has no use for it: this is the widest
# set of instructions without AMX. A value that the user sets is kept.
ISA_VARIABLE, ISA_WITHOUT_AMX = "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16"
# Inside OpenVINO, oneDNN keeps the last 1,024 kernels that it made for shapes of inputs, of all
# models together: prompts of a hundred shapes held 270 MB.
KERNELS_VARIABLE, KERNELS_KEPT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32"
# Imported with OpenVINO's converter of models, and with it with OpenVINO: it writes an id of this
# machine into the home folder, and sends an event to Google Analytics at once.
TELEMETRY = "openvino_telemetry"
PROCESSOR_FILES = ("/proc/cpuinfo", "/sys/devices/system/cpu/possible")  # it reads either
INTERNALS = re.compile(
    r"Exception from \S+:\d+:"  # source files and lines
    r"|Check '.*?' failed at \S+:\d+:"
    r"|\S+\.(?:cpp|hpp|h):\d+:?"
    r"|0x[0-9a-fA-F]+"
)
_cores: dict[Any, tuple[int, _KeptCore]] = {}  # of a library: the process, and its Core
_opening = threading.RLock()

GRAPH_FILE = "graph.onnx"
PREFIX = "samclip-openvino-"
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of random name is made there
ROOM = 2  # times what is written must be free there: other processes load models too


def _forget_lock() -> None:
    """Take a new lock in a forked child: a thread of the parent may hold the old one."""
    global _opening  # noqa: PLW0603 - one per process
    _opening = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def find_library() -> Probe:
    """Return whether a version that is new enough is installed; import nothing."""
    if importlib.util.find_spec(PACKAGE) is None:
        return Probe(False, "openvino is not installed", INSTALL)
    if sys.platform.startswith("linux") and not _sees_processor():
        detail = "openvino searches without end for the processor where neither /proc nor /sys is"
        return Probe(False, detail, "mount one of them, or use backend='onnxruntime'")
    try:
        number = version(PACKAGE)
    except PackageNotFoundError:  # built from its sources
        return Probe(True, "openvino, CPU")
    if _parsed(number) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return Probe(False, f"openvino {number} is too old: {wanted} is the least", INSTALL)
    return Probe(True, f"openvino {number}, CPU")


def _sees_processor() -> bool:
    return any(os.access(place, os.R_OK) for place in PROCESSOR_FILES)


def import_library() -> ModuleType:
    """Import OpenVINO; raises BackendUnavailableError when it is absent, too old or broken."""
    probe = find_library()
    if not probe.available:
        raise BackendUnavailableError(f"{probe.detail}. To do: {probe.remedy}.")
    try:
        with _without_telemetry():
            library = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise BackendUnavailableError(
            f"OpenVINO cannot be imported: {error}. To do: {_reinstall()}."
        ) from error
    if not hasattr(library, "Core"):  # an emptied folder imports as a namespace
        raise BackendUnavailableError(f"OpenVINO's files are incomplete. To do: {_reinstall()}.")
    return library


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry while it is imported: it then takes its own stand-in for it.

    Nothing changes where other code has imported OpenVINO before.
    """
    if PACKAGE in sys.modules:
        yield
        return
    hidden = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # as for a package that is absent
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]
        if hidden is not None:
            sys.modules[TELEMETRY] = hidden


def suits_processor() -> bool:
    """Whether OpenVINO was measured on this kind of processor."""
    return platform.machine().lower() in MEASURED_ON


def open_core(library: Any) -> Any:
    """Return the `Core` of this process; raises BackendUnavailableError in a forked child.

    The threads of a `Core` stay in the parent: the child would wait for them forever.
    """
    with _opening:
        if library not in _cores:
            _cores[library] = (os.getpid(), _KeptCore(_new_core(library)))
        process, core = _cores[library]
    if process != os.getpid():
        raise BackendUnavailableError(
            "OpenVINO was started before this process forked, and does not work here. To do: start "
            "processes with multiprocessing's 'spawn', or use backend='onnxruntime'."
        )
    return core.core


class _KeptCore:
    """OpenVINO's `Core`, which no forked child destroys."""

    def __init__(self, core: Any) -> None:
        self.core = core
        keep_in_children(self)


def _new_core(library: Any) -> Any:
    """Return a new `Core` that compiles for safe instructions, and keeps few kernels.

    It reads both variables from the environment: the instructions when it first reports its
    capabilities, the number of kernels when it first makes one. Afterwards the variables are
    restored, because torch reads them too.
    """
    ours = {ISA_VARIABLE: ISA_WITHOUT_AMX, KERNELS_VARIABLE: KERNELS_KEPT}
    added = {name: value for name, value in ours.items() if name not in os.environ}
    os.environ.update(added)
    try:
        core = library.Core()
        core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        _make_kernel(library, core)
        return core
    finally:
        for name in added:
            os.environ.pop(name, None)


def _make_kernel(library: Any, core: Any) -> None:
    """Compile the product of two small matrices."""
    opset = library.opset8
    rows = opset.parameter([1, 4], np.float32)
    product = opset.matmul(rows, opset.constant(np.eye(4, dtype=np.float32)), False, False)
    settings = {PRECISION_HINT: "f32"}  # not every set of instructions has its default
    core.compile_model(library.Model([product], [rows], "product"), DEVICE, settings)


def imports_maps(library: Any) -> bool:
    """Whether this version imports compiled models from memory without copying them."""
    return _parsed(library.__version__) >= IMPORTS_MAPS


def describe_processor(core: Any) -> list[str]:
    """Return the processor's name, its sets of instructions, and which of them may be used."""
    return [
        platform.machine(),
        core.get_property(DEVICE, "FULL_DEVICE_NAME"),
        *sorted(core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")),
        os.environ.get(ISA_VARIABLE, ISA_WITHOUT_AMX),
        processor_features(),
    ]


def clean_message(error: BaseException) -> str:
    """Return OpenVINO's message in one line, without its source files and addresses."""
    return base.clean_message(error, INTERNALS)


def _parsed(number: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (2026, 4) of "2026.4.1-22982"."""
    return tuple(int(part) for part in re.findall(r"\d+", number)[:2])


def _reinstall() -> str:
    return f"pip uninstall -y {PACKAGE}, then {INSTALL}"


@contextmanager
def read_graph(core: Any, source: GraphSource) -> Iterator[Any]:
    """Read a graph within the block, in which it must be compiled; the compiled model may stay.

    Raises EngineRunError for a graph that names files whose bytes it does not come with, or
    tensors that they do not hold, and whatever `core` raises for a broken one.
    """
    locations = external_locations(source.onnx)
    if not locations:
        yield core.read_model(source.onnx)
        return
    _check_locations(source, locations)
    size = len(source.onnx) + sum(len(source.files[location]) for location in locations)
    with _private_folder(size) as folder:
        graph = _write(folder, source, locations)
        source.release()  # the mapped files hold all that is needed
        yield core.read_model(graph)


@contextmanager
def _private_folder(size: int) -> Iterator[Path]:
    """Make a folder that only this user can enter for `size` bytes, removed after the block.

    Raises BackendUnavailableError, so that "auto" takes another backend, where none can be made.
    """
    try:
        # Windows cannot remove a file that is still mapped: there it is left to the system.
        made = tempfile.TemporaryDirectory(
            prefix=PREFIX, dir=_place(size), ignore_cleanup_errors=os.name == "nt"
        )
    except OSError as error:
        raise BackendUnavailableError(
            f"openvino reads weights from a temporary folder, and none can be made: "
            f"{error.strerror}. Set TMPDIR to a folder that you can write to, or choose another "
            "backend."
        ) from error
    with made as folder:
        yield Path(folder)


def _place(size: int) -> Path | None:
    """Choose the folder in memory when `size` bytes leave room there, else None, the system's."""
    try:
        free = shutil.disk_usage(IN_MEMORY).free
    except OSError:  # not Linux
        return None
    return IN_MEMORY if os.access(IN_MEMORY, os.W_OK) and free >= ROOM * size else None


def _check_locations(source: GraphSource, locations: set[str]) -> None:
    """Refuse a graph whose external data is not among the verified files, or outside."""
    for location in sorted(locations):
        place = Path(location)
        inside = not place.is_absolute() and ".." not in place.parts and location != GRAPH_FILE
        if location not in source.files or not inside:
            known = ", ".join(source.files) or "none"
            raise EngineRunError(
                f"the graph {source.name!r} could not be loaded by openvino: it keeps weights at "
                f"{location[:100]!r}, and comes with the files {known}. Export the bundle again."
            )
    fault = external_fault(source)
    if fault is not None:
        raise EngineRunError(
            f"the graph {source.name!r} could not be loaded by openvino: {fault}. Export the "
            "bundle again."
        )


def _write(folder: Path, source: GraphSource, locations: set[str]) -> Path:
    """Write the graph and its weights into a folder that only this user can enter."""
    graph = folder / GRAPH_FILE
    try:
        graph.write_bytes(source.onnx)
        for location in locations:
            file = folder / location
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.files[location])
    except OSError as error:
        raise EngineRunError(
            f"the graph {source.name!r} could not be written to {folder} for openvino: "
            f"{error.strerror}. Free some room there, or set TMPDIR to a larger disk."
        ) from error
    return graph
