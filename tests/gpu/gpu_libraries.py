"""The machine's GPU, driver, and the libraries that could use them."""

from __future__ import annotations

import importlib
import platform
from argparse import Namespace
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from gpu_report import Row

from samclip.engines.machine.device import find_driver, list_gpus
from samclip.engines.registry import probes

PACKAGES = (
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "pycuda",
    "cuda-python",
    "cuda-bindings",
)


def check_libraries(_: Namespace) -> Iterator[Row]:
    yield Row("python", f"{platform.python_version()} on {platform.machine()}")
    yield Row("driver file", find_driver() or "none")
    for gpu in list_gpus():
        yield Row("gpu", f"{gpu.name}, driver {gpu.driver}, compute {gpu.compute_capability}")
    for name in PACKAGES:
        try:
            yield Row(name, version(name))
        except PackageNotFoundError:
            continue
    for name, probe in probes().items():
        advice = f" To do: {probe.remedy}" if probe.remedy and not probe.available else ""
        yield Row(f"backend {name}", "works" if probe.available else f"no: {probe.detail}.{advice}")
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return
    yield Row("torch sees", f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPUs")
