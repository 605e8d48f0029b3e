"""A stand-in for TensorRT whose only network is y = 2 x + 1, computed by real kernels.

It has what samclip calls of TensorRT to run a plan. So slots, pools, copies and captured graphs
can be tried on a real driver where TensorRT is not installed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

WIDE, MOST = 4096, 4096  # columns, and the most rows
NAMES = ("x", "y")
# Computes y from x, float32 at addresses of the device, on a stream: x, y, shape, stream.
Kernel = Callable[[int, int, tuple[int, ...], int], None]


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class AffineTensorRt:
    """The module; `contexts` are those that were made."""

    __name__ = "affine"
    __version__ = "10.16.0.0"
    ILogger = ILogger
    TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
    TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
    TensorFormat = enum.Enum("TensorFormat", ["LINEAR", "CHW32"])

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.contexts: list[AffineContext] = []

    def Runtime(self, logger: ILogger) -> Any:  # noqa: N802
        return SimpleNamespace(
            engine_host_code_allowed=False,
            deserialize_cuda_engine=lambda plan: AffineEngine(self),
        )


class AffineEngine:
    num_io_tensors = len(NAMES)

    def __init__(self, module: AffineTensorRt) -> None:
        self._module = module

    def get_tensor_name(self, index: int) -> str:
        return NAMES[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._module.TensorIOMode
        return modes.INPUT if name == "x" else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_location(self, name: str) -> Any:
        return self._module.TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return self._module.TensorFormat.LINEAR

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, WIDE)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, WIDE), (4, WIDE), (MOST, WIDE)]

    def create_execution_context(self, *_: Any) -> AffineContext:
        self._module.contexts.append(AffineContext(self._module.kernel))
        return self._module.contexts[-1]


class AffineContext:
    """`enqueued`: the runs and captures that were asked of it; replays are not seen here."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self.enqueued = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.enqueued += 1
        x, y = (self._addresses[name] for name in NAMES)
        self._kernel(x, y, self._shape, stream)
        return True


class DeviceArray:
    """Float32 at an address, for torch."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "<f4",
            "data": (address, False),
            "version": 3,
        }


def torch_kernel(device: Any) -> Kernel:
    """Return the network by torch's kernels, which a stream may capture."""
    import torch

    views: dict[tuple[int, tuple[int, ...]], Any] = {}

    def view(address: int, shape: tuple[int, ...]) -> Any:
        # Kept, so that nothing but kernels is asked of CUDA while a stream captures.
        if (address, shape) not in views:
            views[address, shape] = torch.as_tensor(DeviceArray(address, shape), device=device)
        return views[address, shape]

    def compute(x: int, y: int, shape: tuple[int, ...], stream: int) -> None:
        source, target = view(x, shape), view(y, shape)
        with torch.cuda.stream(torch.cuda.ExternalStream(stream, device=device)):
            torch.mul(source, 2.0, out=target)
            target.add_(1.0)

    return compute
