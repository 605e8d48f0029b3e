"""The machine's GPU, driver, and the libraries that could use them."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from report import Row

import samclip
from samclip.engines.machine.device import find_driver
from samclip.engines.plans.library import examine_gpu
from samclip.engines.registry import probes

PACKAGES = (
    "numpy",
    "torch",
    "triton",
    "onnx",
    "onnx-ir",
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
QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.sm,temperature.gpu"


def check_libraries(options: Namespace) -> Iterator[Row]:
    yield Row("python", f"{platform.python_version()} on {platform.machine()}")
    yield Row("kernel", platform.release())
    yield Row("samclip", str(Path(samclip.__file__).parent))
    yield Row("driver file", find_driver() or "none")
    state = examine_gpu(options.device)
    gpu = state.gpu
    if gpu is None:
        yield Row("gpu", reason=state.reason)
    else:
        yield Row("gpu", f"{gpu.name}, compute {gpu.capability}, {gpu.processors} processors")
        yield Row("gpu memory", gpu.memory / 2**30, "GiB")
        yield Row("gpu shares the machine's memory", str(gpu.integrated))
        yield Row("CUDA of the driver", gpu.cuda)
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        yield Row(f"nvidia-smi {QUERY}", (said.stdout or said.stderr).strip())
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
    except ImportError as error:
        yield Row("torch sees", f"nothing: {error}")
        return
    yield Row("torch sees", f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPUs")
