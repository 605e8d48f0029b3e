"""Names of backends and of GPU architectures; imports nothing, so that any module may use it."""

from __future__ import annotations

from typing import Final, Literal

# What `backend=` takes.
LibraryName = Literal["tensorrt", "tensorrt-rtx"]  # the backends that run plans

TENSORRT: Final = "tensorrt"
TENSORRT_RTX: Final = "tensorrt-rtx"
CUDA: Final = "cuda"
OPENVINO: Final = "openvino"
ONNXRUNTIME: Final = "onnxruntime"
ORT_TENSORRT: Final = "ort-tensorrt"


def target_name(capability: str) -> str:
    """Write a compute capability, "8.6", as a target: "sm86"."""
    return f"sm{capability.replace('.', '')}"
