"""The names of the backends, as `backend=` takes them; imports nothing, so that anybody may."""

from __future__ import annotations

from typing import Final, Literal

LibraryName = Literal["tensorrt", "tensorrt-rtx"]  # the backends that run plans

TENSORRT: Final = "tensorrt"
TENSORRT_RTX: Final = "tensorrt-rtx"
CUDA: Final = "cuda"
OPENVINO: Final = "openvino"
ONNXRUNTIME: Final = "onnxruntime"
ORT_TENSORRT: Final = "ort-tensorrt"
