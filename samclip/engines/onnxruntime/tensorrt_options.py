"""The options of ONNX Runtime's TensorRT provider.

It builds engines by itself while a session is made or a graph first runs: minutes, so "auto" never
takes it. What it builds is kept in a folder for each graph and version of ONNX Runtime; engines of
another GPU or TensorRT have names of their own there. It builds again when an input leaves the
range of shapes that it has met. Precision is in the graph: none is asked for.
"""

from __future__ import annotations

import os
from typing import Any

from samclip.disk.partial_files import cache_dir
from samclip.engines.base import GraphSource
from samclip.engines.plans.identity import identify
from samclip.errors import EngineRunError

FOLDER_NAME = "ort-tensorrt"


def tensorrt_options(library: Any, source: GraphSource, device: int) -> dict[str, str]:
    """Give the provider's options, and make the folder for its engines.

    Raises EngineRunError when that cannot be written: engines are programs, so only one of the
    user's own, closed to others, is used.
    """
    root = cache_dir() / FOLDER_NAME
    folder = root / f"{source.name}-{library.__version__}-{_digest(source)}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in (root, folder):
            place.chmod(0o700)
        is_writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise _unwritable(str(folder), str(error.strerror)) from error
    if not is_writable:
        raise _unwritable(str(folder), "it may not be written to")
    return {
        "device_id": str(device),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def _digest(source: GraphSource) -> str:
    graph = identify(source)
    return f"{graph.onnx_sha256[:16]}-{(graph.weights_sha256 or 'none')[:16]}"


def _unwritable(folder: str, reason: str) -> EngineRunError:
    return EngineRunError(
        f"the folder for TensorRT engines, {folder}, cannot be used: {reason}. Set "
        "SAMCLIP_CACHE_DIR to a folder of your own."
    )
