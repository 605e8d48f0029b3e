"""The choice of a backend, and the reasons why others do not work."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import types
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import onnxruntime
import pytest

from samclip.engines import registry
from samclip.engines.base import Backend, EngineOptions, GraphKey, GraphSource, Probe, Traits
from samclip.engines.onnxruntime import library as ort_library
from samclip.engines.onnxruntime.backend import CPU, CUDA
from samclip.engines.openvino import backend as ov_backend
from samclip.errors import BackendUnavailableError, UnknownBackendError


class Broken:
    """A backend that never works."""

    name = "broken"
    traits = Traits()

    def probe(self) -> Probe:
        return Probe(False, "no luck here", "try another machine")

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        raise AssertionError("must not be asked")

    def load(self, source: GraphSource, options: EngineOptions) -> None:
        raise AssertionError("must not be loaded")


@pytest.fixture(autouse=True)
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is not installed, whatever is here, unless a test says so."""
    monkeypatch.setattr(ov_backend, "find_library", lambda: Probe(False, "not there", "get it"))


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with CUDA and a driver."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort_library, "find_driver", lambda: "/dev/nvidiactl")


def test_names() -> None:
    names = [backend.name for backend in registry.backends()]
    cpus = ["openvino", "onnxruntime"]
    assert names == ["tensorrt", "tensorrt-rtx", "cuda", *cpus, "ort-tensorrt"]
    assert all(isinstance(backend.probe(), Probe) for backend in registry.backends())
    assert registry.get_backend("onnxruntime") is CPU
    assert registry.get_backend("cuda") is CUDA


def test_every_backend_declares_what_it_runs_best() -> None:
    for backend in registry.backends():
        assert len(set(backend.traits.lowerings)) == len(backend.traits.lowerings) > 1
        assert backend.traits.precisions
    on_host = [backend.name for backend in registry.backends() if backend.traits.on_host]
    assert on_host == ["openvino", "onnxruntime"]


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_library, "find_driver", lambda: None)
    assert registry.choose() is registry.choose("auto") is registry.choose("onnxruntime") is CPU
    assert registry.available_backends() == ("onnxruntime",)


def test_auto_is_openvino_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_library, "find_driver", lambda: None)
    with pytest.raises(BackendUnavailableError, match=r"'openvino': not there\. To do: get it"):
        registry.choose("openvino")
    monkeypatch.setattr(ov_backend, "find_library", lambda: Probe(True, "openvino 2026.4.1"))
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    assert registry.choose() is registry.choose("openvino") is ov_backend.OPENVINO
    assert registry.available_backends() == ("openvino", "onnxruntime")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")  # not measured: only by name
    assert registry.choose() is CPU
    assert registry.choose("openvino") is ov_backend.OPENVINO


@pytest.mark.usefixtures("with_cuda")
def test_auto_is_cuda_where_it_works() -> None:
    assert registry.choose() is registry.choose("cuda") is CUDA
    assert registry.available_backends() == ("cuda", "onnxruntime")


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort_library, "find_driver", lambda: None)
    assert registry.choose() is CPU
    with pytest.raises(BackendUnavailableError, match=r"no NVIDIA driver here\. To do: install"):
        registry.choose("cuda")


def test_build_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailableError, match=r"build without CUDA.*onnxruntime-gpu"):
        registry.choose("cuda")


def test_probing_loads_no_cuda_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a probe must not load anything")

    monkeypatch.setattr(onnxruntime, "preload_dlls", fail, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    monkeypatch.setattr(ort_library, "find_driver", lambda: "/dev/nvidiactl")
    registry.probes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cudo", "did you mean 'cuda'"),
        ("onnxruntme", "did you mean 'onnxruntime'"),
        ("zzz", r"'zzz'\. Choose among auto, tensorrt, tensorrt-rtx, cuda, openvino, on"),
        ("", "Choose among"),
        ("tensort", "did you mean 'tensorrt'"),
        ("openvin", "did you mean 'openvino'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    for use in (registry.get_backend, registry.choose):
        with pytest.raises(UnknownBackendError, match=message):
            use(name)


@pytest.mark.usefixtures("with_cuda")
def test_the_choice_says_why_faster_backends_were_not_taken() -> None:
    def suits(backend: Backend) -> Probe:
        return Probe(backend is CPU, "the bundle is not for it", "export it again")

    choice = registry.decide("auto", suits)
    assert choice.backend is CPU
    assert [passed.name for passed in choice.passed_over] == [
        "tensorrt",
        "tensorrt-rtx",
        "cuda",
        "openvino",
    ]
    assert str(choice.passed_over[2]) == ("cuda: the bundle is not for it. To do: export it again.")
    assert "tensorrt is not installed" in choice.passed_over[0].reason
    assert registry.decide("onnxruntime") == registry.Choice(CPU)


@pytest.mark.usefixtures("with_cuda")
def test_a_backend_that_builds_for_minutes_is_never_chosen_by_auto(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    providers = ["TensorrtExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert registry.choose("ort-tensorrt").name == "ort-tensorrt"
    assert registry.choose() is CPU


def test_nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    backends: tuple[Backend, ...] = (Broken(),)  # type: ignore[assignment]
    monkeypatch.setattr(registry, "BACKENDS", backends)
    assert registry.available_backends() == ()
    with pytest.raises(BackendUnavailableError, match=r"broken: no luck here\. To do: try another"):
        registry.choose()


@pytest.mark.parametrize("state", ["absent", "broken", "emptied"])
def test_onnxruntime_that_does_not_import(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent; a shared library is missing; only the folder is left by `pip uninstall`."""
    if state == "emptied":
        monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    else:
        error = ImportError("libfoo.so" if state == "broken" else "No module named 'onnxruntime'")

        def fail(_: str) -> None:
            raise error

        monkeypatch.setattr(ort_library.importlib, "import_module", fail)
    probe = CPU.probe()
    assert not probe.available
    assert probe.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu, then pip install")
    with pytest.raises(BackendUnavailableError, match="no backend works"):
        registry.choose()


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, as far as the metadata says."""
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(ort_library, "version", version)
    return installed


def test_two_installations_are_reported(
    packages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    packages["onnxruntime"] = "1.31.1"
    assert CPU.probe().remedy == ""
    packages["onnxruntime-gpu"] = "1.30.0"
    probe = CPU.probe()
    assert probe.available
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0 are both installed" in probe.detail
    assert probe.remedy == ort_library.CUDA_RECIPE


def test_there_is_one_recipe_for_cuda(
    packages: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command in the probe, in every repair that ends with CUDA, and on the pages."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    recipe = "pip install --force-reinstall --no-deps onnxruntime-gpu"
    assert CUDA.probe().remedy == recipe
    packages["onnxruntime-gpu"] = "1.31.1"
    assert ort_library.reinstall().endswith(f"then pip install onnxruntime, then {recipe}")
    root = Path(__file__).parents[2]
    assert f"\n{recipe}\n" in (root / "docs" / "deploy" / "engines.md").read_text("utf-8")
    for page in (root / "README.md", root / "pyproject.toml", *(root / "docs").rglob("*.md")):
        found = re.findall(r"pip install [^`'\n]*onnxruntime-gpu\b(?!\[)", page.read_text("utf-8"))
        assert set(found) <= {recipe}, page


@pytest.mark.usefixtures("with_cuda")
def test_the_gpu_build_over_the_cpu_build_is_no_conflict(packages: dict[str, str]) -> None:
    packages.update({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"})
    for backend in (CPU, CUDA):
        assert backend.probe().available
        assert backend.probe().remedy == ""


def test_probes_are_of_every_backend() -> None:
    probes = registry.probes()
    assert list(probes) == [backend.name for backend in registry.backends()]
    assert probes["openvino"].remedy == "get it"


def test_other_runtimes_are_never_imported() -> None:
    code = (
        "import sys\nfrom samclip.engines.registry import probes\nprobes()\n"
        "sys.exit(bool({'tensorrt', 'openvino', 'torch', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
