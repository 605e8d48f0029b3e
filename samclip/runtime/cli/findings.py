"""What `samclip doctor` finds amiss on any machine, each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from samclip.engines.base import Probe
from samclip.engines.openvino.library import suits_processor

LEAST_FREE = 2 * 10**9  # bytes: the plans of one bundle, and what is written while they are built

GPU_BACKENDS = ("tensorrt", "tensorrt-rtx", "cuda")


@dataclass(frozen=True)
class Finding:
    """Something to do: a "problem" keeps something from working, "advice" makes it faster."""

    about: str
    level: Literal["problem", "advice"]
    detail: str
    remedy: str


def judge_backends(probes: Mapping[str, Probe]) -> list[Finding]:
    """List backends that work and yet have a fault, as two packages with the same files."""
    return [
        Finding(name, "problem", probe.detail, probe.remedy)
        for name, probe in probes.items()
        if probe.available and probe.remedy
    ]


def judge_cpu(probes: Mapping[str, Probe]) -> list[Finding]:
    """Recommend OpenVINO where the CPU computes, has been measured, and lacks it."""
    on_gpu = any(probes[name].available for name in GPU_BACKENDS if name in probes)
    missing = probes.get("openvino")
    if on_gpu or missing is None or missing.available or not suits_processor():
        return []
    detail = f"{missing.detail}; with ViT encoders it takes less memory than ONNX Runtime"
    return [Finding("openvino", "advice", detail, missing.remedy)]


def judge_cache(cache: Mapping[str, Any]) -> list[Finding]:
    """Judge the cache folder as `examine_folder` describes it: writable, and with enough room."""
    found = []
    if not cache["writable"]:
        found.append(Finding("cache", "problem", f"{cache['path']} is unusable", cache["remedy"]))
    free = cache["free"]
    if free is not None and free < LEAST_FREE:
        detail = f"{free / 1e9:.1f} GB are free on the disk of {cache['path']}"
        remedy = "free at least 2 GB, or set SAMCLIP_CACHE_DIR to a folder on a larger disk"
        found.append(Finding("disk", "problem", detail, remedy))
    return found
