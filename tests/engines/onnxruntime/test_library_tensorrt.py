"""ONNX Runtime's TensorRT provider: its options, and that it is not believed without asking."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from tiny_bundle import negation_model

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.onnxruntime import library as ort_library
from samclip.engines.onnxruntime.backend import TENSORRT
from samclip.engines.onnxruntime.library import tensorrt_options
from samclip.errors import BackendUnavailableError

SOURCE = GraphSource("graph", negation_model())


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_engines_are_kept_in_a_folder_for_the_graph(cache: Path) -> None:
    options = tensorrt_options(onnxruntime, SOURCE, 1)
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_relative_to(cache)
    assert onnxruntime.__version__ in folder.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert options["device_id"] == "1"
    assert "trt_fp16_enable" not in options  # precision is in the graph
    other = GraphSource("graph", SOURCE.onnx + b"\0", files={"w": b"w"})
    assert tensorrt_options(onnxruntime, other, 1)["trt_engine_cache_path"] != str(folder)


def test_without_a_folder_engines_are_not_kept(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cache / "ort-tensorrt").write_text("in the way")
    assert tensorrt_options(onnxruntime, SOURCE, 0) == {"device_id": "0"}
    assert tensorrt_options(onnxruntime, SOURCE, 0) == {"device_id": "0"}
    (record,) = caplog.records
    assert "SAMCLIP_CACHE_DIR" in record.getMessage()


def test_a_silent_fall_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime makes a CPU session when the provider does not start."""
    asked: list[Any] = []

    class Session:
        def __init__(self, *_: object, providers: list[Any], **__: object) -> None:
            asked.extend(providers)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(ort_library, "find_driver", lambda: "/dev/nvidiactl")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(BackendUnavailableError, match="its TensorRT, CUDA or cuDNN libraries"):
        TENSORRT.load(SOURCE, EngineOptions())
    assert [one if isinstance(one, str) else one[0] for one in asked] == names


def test_a_build_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "without TensorRT" in TENSORRT.probe().detail
