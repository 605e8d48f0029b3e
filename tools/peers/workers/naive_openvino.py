"""A plain ONNX export in OpenVINO, in FP32, for the shortest time of one image."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def load(setup: Any) -> Any:
    """Compile encoder.onnx in `setup.folder` for the CPU."""
    openvino = importlib.import_module("openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # newer CPUs would take bfloat16
        "INFERENCE_NUM_THREADS": setup.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    file = str(Path(setup.folder) / "encoder.onnx")
    compiled = openvino.Core().compile_model(file, "CPU", settings)
    request = compiled.create_infer_request()

    def run(photo: str, watch: Any) -> None:
        pixels, _, _ = setup.prepare(photo)
        watch.lap("prepare")
        request.infer([pixels])
        watch.lap("encoder")

    return run
