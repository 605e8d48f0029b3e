"""The library that builds here, examined before it is imported, and without a crash."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
from plan_samples import ORIN, fake_library
from recorded_tensorrt import FakeTensorRT, Script

from samclip.engines.plans import library
from samclip.engines.plans import library as gpu
from samclip.engines.plans.library import (
    KINDS,
    DriverState,
    Library,
    choose_targets,
    examine_gpu,
    full_version,
    is_official,
    open_library,
    parse_target,
)
from samclip.engines.steps import BuildPlans
from samclip.errors import BackendUnavailableError, InputError

NO_GPU = DriverState(None, None, "there is no NVIDIA driver here")


def install(monkeypatch: pytest.MonkeyPatch, module: Any, state: DriverState) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(library, "examine_gpu", lambda _: state)


def rtx(state: DriverState = NO_GPU) -> Library:
    members = dict.fromkeys(("NONE", "CURRENT", "SM75", "SM86", "SM120"))
    module = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=members))
    capabilities = library.ahead_of_time(module)
    return Library(KINDS["tensorrt-rtx"], module, "1.7", state, capabilities)


def test_without_a_driver_tensorrt_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None, NO_GPU)  # None: an import would raise
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver here") as caught:
        open_library("tensorrt")
    assert "Build on that machine" in str(caught.value)
    assert "or build here for RTX GPUs, with tensorrt-rtx" in str(caught.value)
    assert caught.value.steps == (BuildPlans(backend="tensorrt-rtx", targets=("8.6",)),)


def test_with_a_gpu_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeTensorRT("10.3.0", Script()), DriverState(ORIN, "540", ""))
    opened = open_library("tensorrt")
    assert (opened.name, opened.version, opened.capabilities) == ("tensorrt", "10.3.0", ())


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"__version__": "8.6.1", "Builder": 1}, "TensorRT 8.6.1, and plans need 10 or newer"),
        ({"__version__": "10.3.0"}, "has no builder"),
        ({}, "has no builder"),
    ],
)
def test_libraries_that_cannot_build_are_refused(
    attributes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("tensorrt")
    vars(module).update(attributes)
    install(monkeypatch, module, DriverState(ORIN, "540", ""))
    with pytest.raises(BackendUnavailableError, match=message) as caught:
        open_library("tensorrt")
    assert "JetPack" in str(caught.value)


def test_a_library_that_is_absent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendUnavailableError, match="pip install tensorrt-rtx-cu13"):
        open_library("tensorrt-rtx")


def test_another_name_is_bad_input() -> None:
    with pytest.raises(InputError, match="tensorrt or tensorrt-rtx"):
        open_library("openvino")


@pytest.mark.parametrize(
    ("text", "capability"),
    [("sm86", "8.6"), ("SM_87", "8.7"), ("8.9", "8.9"), ("sm120", "12.0"), ("12.1", "12.1")],
)
def test_targets_are_read(text: str, capability: str) -> None:
    assert parse_target(text) == capability


@pytest.mark.parametrize("text", ["", "ampere", "8", "sm8600", "8.6.1"])
def test_texts_that_are_not_targets_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="sm86"):
        parse_target(text)


def test_tensorrt_builds_for_the_gpu_that_is_here() -> None:
    here = fake_library(Script())
    assert choose_targets(here, ()) == ("8.7",)
    assert choose_targets(here, ("sm87",)) == ("8.7",)
    with pytest.raises(InputError, match=r"capability 8\.7; asked for 8\.6"):
        choose_targets(here, ("sm86",))


def test_rtx_builds_for_what_is_named() -> None:
    assert choose_targets(rtx(), ("sm86", "8.6", "sm120")) == ("8.6", "12.0")
    with pytest.raises(InputError, match="only for sm75, sm86, sm120"):
        choose_targets(rtx(), ("sm87",))
    with pytest.raises(InputError, match="no GPU here to build for"):
        choose_targets(rtx(), ())
    here = replace(rtx(), state=DriverState(ORIN, "580", ""))
    assert choose_targets(here, ()) == ("8.7",)  # has no name there, and is built for as "current"
    assert [is_official(here, name) for name in ("8.6", "8.7")] == [True, False]


@pytest.mark.parametrize(
    ("version", "build", "full"),
    [
        ("10.3.0", 30, "10.3.0.30"),  # JetPack 6.2
        ("10.3.0", None, "10.3.0"),
        ("1.7.1.116", 5, "1.7.1.116"),
    ],
)
def test_a_version_has_the_number_of_its_build(
    version: str, build: int | None, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, mode: int) -> Any:
        assert mode == os.RTLD_NOLOAD
        if build is None or name != "libnvinfer.so.10":
            raise OSError("cannot open shared object file")
        return SimpleNamespace(getInferLibBuildVersion=lambda: build)

    monkeypatch.setattr("ctypes.CDLL", load)
    assert full_version(SimpleNamespace(__version__=version)) == full


def test_the_driver_is_asked_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_driver", lambda: "/dev/nvidiactl")
    monkeypatch.setattr(gpu, "list_gpus", lambda: ())
    answer = msgspec.json.encode(ORIN).decode()
    monkeypatch.setattr(gpu, "QUERY", f"print('{answer}')")
    assert examine_gpu() == DriverState(ORIN, None, "")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "exit code -11"),
        ("import sys; sys.exit('cuInit reports error 999')", "cuInit reports error 999"),
    ],
)
def test_a_driver_that_crashes_is_a_reason_and_no_crash(
    query: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "find_driver", lambda: "/dev/nvidiactl")
    monkeypatch.setattr(gpu, "list_gpus", lambda: ())
    monkeypatch.setattr(gpu, "QUERY", query)
    state = examine_gpu()
    assert state.gpu is None
    assert reason in state.reason


def test_the_real_query_ends_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_driver", lambda: None)
    assert examine_gpu().reason == "there is no NVIDIA driver here"
    monkeypatch.setattr(gpu, "find_driver", lambda: "/dev/nvidiactl")
    monkeypatch.setattr(gpu, "list_gpus", lambda: ())
    state = examine_gpu(99)
    assert state.gpu is None  # no driver's library, or no GPU of that number
    assert "cannot be used" in state.reason
