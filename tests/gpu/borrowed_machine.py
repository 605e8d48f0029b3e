"""The borrowed machine: what it holds, what is carried there, and how much a call carries.

It has one NVIDIA H200, Python 3.12, torch 2.11 for CUDA 13.0, and no network. A command sends the
checkout and the folders that it names, and runs ten minutes at most.
"""

from __future__ import annotations

ARCHITECTURE = 90  # the H200's: sm_90
PYTHON = "3.12"
CALL_BYTES = 64 * 2**20  # of the checkout and all that is carried, in one call
CALL_SECONDS = 600
SITE = "$HOME/site"  # there, for a shell: outside the checkout, so that it stays between calls

# pip matches these exactly.
PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 34, 35))
SMALL_WHEELS = (
    "msgspec==0.22.0",
    "platformdirs==4.14.5",
    "ftfy==6.3.1",
    "wcwidth==0.9.4",
    "pycocotools==2.0.11",
)
ONNXRUNTIME = ("onnxruntime-gpu==1.31.1",)
RTX = ("tensorrt-rtx-cu13-libs==1.7.1.116", "tensorrt-rtx-cu13-bindings==1.7.1.116")

# Modules that may be imported there; the tests of a dry run block all others.
_MODULES = """
PIL absl accelerate anyio attr attrs certifi click cloudpickle contourpy cuda cv2 cycler einops
filelock flatbuffers fsspec functorch google h11 h5py hf_xet httpcore httpx huggingface_hub idna
iniconfig jax jaxlib jinja2 joblib kiwisolver lazy_loader lightning markdown_it markupsafe
matplotlib mdurl ml_dtypes mpmath msgpack narwhals networkx ninja numpy nvidia onnx onnx_ir
onnxruntime onnxscript opt_einsum packaging pandas pip pluggy psutil pyarrow pygments pyparsing
pytest regex requests rich safetensors scipy setuptools shellingham six sklearn sympy tensorboard
timm tokenizers torch torchaudio torchgen torchvision tqdm transformers triton typer
typing_extensions urllib3 wheel wrapt yaml
"""
_CARRIED = """
msgspec platformdirs ftfy wcwidth pycocotools
tensorrt_rtx tensorrt_rtx_libs tensorrt_rtx_bindings
"""
MODULES = frozenset((_MODULES + _CARRIED).split())
