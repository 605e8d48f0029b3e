"""Messages when TensorRT lacks something, in the order in which it must be repaired."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from samclip.engines.base import EngineOptions, GraphSource, library_version
from samclip.engines.cuda import device as cuda_device
from samclip.engines.plans.library import KINDS, DriverState, Library
from samclip.engines.plans.match import PlanHost
from samclip.engines.tensorrt import library as trt_library
from samclip.engines.tensorrt.backend import TENSORRT, TENSORRT_RTX, TensorRtBackend
from samclip.errors import BackendUnavailableError, DeviceMemoryError, EngineRunError

BOTH = pytest.mark.parametrize("backend", [TENSORRT, TENSORRT_RTX])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What is there: "driver", and names of modules."""
    there = {"driver", "tensorrt", "tensorrt_rtx", "pycuda.driver", "cuda.bindings.driver"}
    driver = "/dev/nvidiactl"
    monkeypatch.setattr(cuda_device, "find_driver", lambda: driver if "driver" in there else None)
    spec = importlib.util.find_spec
    found = spec("json")
    monkeypatch.setattr(
        trt_library.importlib.util, "find_spec", lambda name: found if name in there else None
    )
    return there


@BOTH
def test_all_is_there(backend: TensorRtBackend, machine: set[str]) -> None:
    probe = backend.probe()
    assert probe.available
    assert "pycuda" in probe.detail
    machine.remove("pycuda.driver")
    assert "cuda-python" in backend.probe().detail


@pytest.mark.usefixtures("machine")
def test_the_version_is_that_of_the_package_or_of_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"tensorrt_lean": "10.9", "tensorrt-cu13": "10.14.1"}

    def packaged(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(trt_library, "version", packaged)
    assert library_version(TENSORRT) == "10.14.1"
    assert library_version(TENSORRT_RTX) is None  # no package, and no driver answers here
    host = PlanHost("tensorrt-rtx", "1.7.1", "8.6")
    monkeypatch.setattr(trt_library, "open_for_running", lambda *_, **__: (None, host))
    assert library_version(TENSORRT_RTX) == "1.7.1"


@BOTH
@pytest.mark.parametrize(
    ("gone", "detail", "remedy"),
    [
        ({"driver"}, "no NVIDIA driver here; tensorrt", "--gpus all"),
        ({"tensorrt", "tensorrt_rtx"}, "is not installed", "pip install"),
        (
            {"pycuda.driver", "cuda.bindings.driver"},
            "neither pycuda nor cuda-python is installed",
            "pip install cuda-python",
        ),
    ],
)
def test_the_first_missing_part_is_named(
    backend: TensorRtBackend, machine: set[str], gone: set[str], detail: str, remedy: str
) -> None:
    machine -= gone
    probe = backend.probe()
    assert not probe.available
    assert detail in probe.detail
    assert remedy in probe.remedy
    ready = backend.ready([], EngineOptions())
    assert not ready.available
    assert detail in ready.detail
    with pytest.raises(BackendUnavailableError, match="To do: "):
        backend.load(GraphSource("graph", b""), EngineOptions())


@BOTH
@pytest.mark.usefixtures("machine")
def test_a_driver_that_does_not_answer(
    backend: TensorRtBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = DriverState(None, "580", "the NVIDIA driver cannot be used: cuInit reports error 100")
    monkeypatch.setattr(
        trt_library,
        "open_library",
        lambda name, device: Library(KINDS[name], None, "10.3.0", state, ()),
    )
    with pytest.raises(BackendUnavailableError, match="cuInit reports error 100"):
        backend.load(GraphSource("graph", b""), EngineOptions())


def test_probing_without_a_driver_loads_nothing() -> None:
    code = (
        "import sys\n"
        "from samclip.engines.base import EngineOptions, GraphSource\n"
        "from samclip.engines.cuda.device import open_device\n"
        "from samclip.engines.tensorrt.backend import TENSORRT\n"
        "from samclip.errors import BackendUnavailableError\n"
        "assert not TENSORRT.probe().available\n"
        "for attempt in (open_device, lambda: TENSORRT.load(GraphSource('g', b''), "
        "EngineOptions())):\n"
        "    try:\n"
        "        attempt()\n"
        "    except BackendUnavailableError:\n"
        "        continue\n"
        "    sys.exit('opened')\n"
        "sys.exit(bool({'tensorrt', 'pycuda', 'cuda.bindings.driver'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (["[allocator] OutOfMemory: Cuda failure: 2"], DeviceMemoryError),
        (["CUDA error: out of memory"], DeviceMemoryError),
        (["shapes do not agree"], EngineRunError),
        ([], EngineRunError),
    ],
)
def test_messages_of_tensorrt_become_an_error(said: list[str], kind: type[Exception]) -> None:
    error = trt_library.explain(EngineRunError("TensorRT refuses to be run."), "encoder", said)
    assert type(error) is kind
    assert "'encoder'" in str(error)
    assert (said[0].rsplit("] ", maxsplit=1)[-1] if said else "nothing") in str(error)


def test_a_package_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> Any:
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cuda_device, "find_driver", lambda: "/dev/nvidiactl")
    monkeypatch.setattr(cuda_device, "cuda_package", lambda: "pycuda")
    monkeypatch.setattr(cuda_device.importlib, "import_module", fail)
    with pytest.raises(BackendUnavailableError, match=r"pycuda is installed but .*libcuda\.so"):
        cuda_device.open_device()
