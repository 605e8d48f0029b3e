"""A plain ONNX export in ONNX Runtime, with its default settings."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def load(setup: Any) -> Any:
    """Make a session of encoder.onnx in `setup.folder`."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = setup.threads
    file = str(Path(setup.folder) / "encoder.onnx")
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(photo: str, watch: Any) -> None:
        pixels, _, _ = setup.prepare(photo)
        watch.lap("prepare")
        session.run(None, {name: pixels})
        watch.lap("encoder")

    return run
